"""The one door to tensors; ``worker.py`` is the place to start reading."""
