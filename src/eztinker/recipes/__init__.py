"""Whole algorithms over the client, one file each."""
