"""What the client asks: one pure function per operation of the native API, giving a ``Request``.

One module for each kind of thing, as in ``api/routes/``. The signatures and docstrings here are those of the two
clients, which are made from them (``methods.py``). Knows the routes, fields and defaults of the API and which parser
reads each answer; nothing of connections, retries or waiting. Values that the caller leaves at None are not sent, so
that the server's own default holds.
"""
