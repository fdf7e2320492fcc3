"""The client behind functions that take none: one for each address, shared by the whole process.

Knows where the default comes from and nothing of what is asked. Called by the package's ``wait_for_job``
and by ``rl/``.
"""

from __future__ import annotations

import os
import threading

from eztinker.client.answers import Json
from eztinker.client.client import EZTinkerClient
from eztinker.client.transport import resolve_api_key, resolve_base_url

_clients: dict[tuple[int, str, str | None], EZTinkerClient] = {}
_lock = threading.Lock()


def default_client(base_url: str | None = None) -> EZTinkerClient:
    """The shared client of an address (None: ``EZTINKER_BASE_URL``, else ``http://localhost:8000``).

    It stays open for the life of the process. A forked process gets clients of its own, since connections
    cannot be shared with the parent.
    """
    key = os.getpid(), resolve_base_url(base_url), resolve_api_key(None)
    with _lock:
        if key not in _clients:
            _clients[key] = EZTinkerClient(base_url=key[1], api_key=key[2])
        return _clients[key]


def wait_for_job(
    job_id: str, timeout: float = 60.0, polling_interval: float = 0.5, base_url: str | None = None
) -> Json:
    """``EZTinkerClient.wait_for_job`` on the shared client of ``base_url``."""
    return default_client(base_url).wait_for_job(job_id, timeout, polling_interval)
