"""What the API may ask for: admission, identifiers, names, waiting."""
