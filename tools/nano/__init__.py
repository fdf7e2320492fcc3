"""How the built-in base model ``nano`` is made: ``python -m tools.nano.build`` runs all of it."""
