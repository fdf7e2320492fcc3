"""The command line; imports lazily."""
