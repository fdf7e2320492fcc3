"""Questions with answers, from files, caches and generators."""
