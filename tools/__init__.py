"""Scripts that make things which the package ships; run from the root of the repository."""
