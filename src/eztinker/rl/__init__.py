"""Building blocks of algorithms: candidates, buffers, rewards."""
