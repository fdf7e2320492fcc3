"""One answer checker for everything."""
