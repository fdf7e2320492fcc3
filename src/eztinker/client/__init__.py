"""The Python client: sync, async, transport, job handles."""
