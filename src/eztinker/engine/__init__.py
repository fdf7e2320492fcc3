"""The engine: plan, execute, commit. ``loop.py`` is the place to start reading."""
