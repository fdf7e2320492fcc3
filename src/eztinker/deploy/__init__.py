"""Adapters leave the house and come in."""
