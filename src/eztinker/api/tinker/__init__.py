"""The Tinker wire: its bodies, errors and conversions. Its routes stand in ``api/routes/tinker``."""
