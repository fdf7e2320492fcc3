"""Protocol-buffer messages of the Tinker wire, declared by ourselves."""
