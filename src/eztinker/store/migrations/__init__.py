"""Numbered steps from an empty database to today's ``tables.py``; applied at every start."""
