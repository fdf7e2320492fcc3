"""The HTTP rim: routes, error table, conversion between wire schemas and domain types."""
