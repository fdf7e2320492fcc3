"""Where an engine worker may live; ``base.py`` holds the protocol."""
