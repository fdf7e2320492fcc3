"""Routes of the Tinker wire, below ``/api/v1``."""
