"""Entry of a worker process: ``python -m eztinker.engine.worker.process --fd N``.

Inherits one end of a socket pair, gets ``WorkerSettings`` as its first message, and runs a ``Worker`` on
the main thread while another thread reads commands. When the other end closes, the server is gone and
this process ends at once. Its log goes to standard error, one plain line per record.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from eztinker import failpoints
from eztinker.engine.worker.allocator import keep_freed_memory
from eztinker.errors import EZTinkerError
from eztinker.types.commands import COMMAND_TYPES, WorkerSettings
from eztinker.types.events import Event, start_refused
from eztinker.types.framing import frame, read_message

Read = Callable[[int], bytes]

_SPINS = "10000"
"""Of a thread at a barrier before it sleeps, about a quarter of a millisecond."""
_SERVER_GONE = 0
_BAD_START = 3


def main() -> None:
    """Run until ``Shutdown`` or until the server is gone."""
    parser = argparse.ArgumentParser(description="Engine worker; started by the server.")
    parser.add_argument("--fd", type=int, required=True, help="inherited end of a socket pair")
    connection = socket.socket(fileno=parser.parse_args().fd)
    # Ctrl-C and service managers signal the whole process group; the server decides what becomes
    # of its worker, and the worker ends with it in any case.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="worker: %(levelname)s %(message)s"
    )
    _set_environment()
    read_exactly = _reader(connection)  # one for good: it reads ahead
    try:
        settings = read_message(read_exactly, COMMAND_TYPES)
    except EOFError:
        os._exit(_SERVER_GONE)
    _serve(connection, read_exactly, settings)


def _set_environment() -> None:
    """What must be known before torch loads.

    Threads that spin for long at OpenMP's barriers take the cores from the server and its clients, which
    costs up to a hundred times on a small machine; threads that sleep at once wait longer for each other than
    a small operation takes. So they spin for a moment, then sleep.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # ms; of the other OpenMP, on macOS
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the worker reads local folders only
    keep_freed_memory()


def _serve(connection: socket.socket, read_exactly: Read, settings: WorkerSettings) -> None:
    from eztinker.engine.worker.worker import Worker

    if settings.epoch == 1:  # later ones live, or nothing could be shown of the recovery
        failpoints.arm()

    def emit(event: Event) -> None:
        try:
            failpoints.reach("event.before")
            connection.sendall(frame(event))
            failpoints.reach("event.after")
        except OSError:
            os._exit(_SERVER_GONE)

    try:
        worker = Worker(settings, emit)
    except (EZTinkerError, ImportError) as error:
        emit(start_refused(settings.epoch, error))
        sys.exit(_BAD_START)
    reader = threading.Thread(target=_read, args=(read_exactly, worker.submit), daemon=True)
    reader.start()
    worker.run()


def _read(read_exactly: Read, submit: Callable[..., None]) -> None:
    while True:
        try:
            submit(read_message(read_exactly, COMMAND_TYPES))
        except (EOFError, OSError):
            os._exit(_SERVER_GONE)


def _reader(connection: socket.socket) -> Read:
    stream = connection.makefile("rb")

    def read_exactly(num_bytes: int) -> bytes:
        data = stream.read(num_bytes)
        if data is None or len(data) < num_bytes:
            raise EOFError
        return data

    return read_exactly


if __name__ == "__main__":
    main()
