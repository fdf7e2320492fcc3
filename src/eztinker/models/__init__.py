"""Wire schemas: what bodies of requests look like. No behaviour."""
