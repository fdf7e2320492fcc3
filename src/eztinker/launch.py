"""Composition root: from settings to a running server.

The only module that knows which executor, service and application belong together. Called by the
CLI's ``server`` command; tests use ``build_service`` with an executor of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eztinker import failpoints
from eztinker.api.http_protocol import HttpProtocol
from eztinker.api.server import create_app
from eztinker.config import ServerConfig
from eztinker.engine.executors.base import Executor
from eztinker.errors import EZTinkerError, UserError
from eztinker.local_access import LocalAccess
from eztinker.service.service import Service

log = logging.getLogger("eztinker")

KEEP_ALIVE_S = 75
"""An idle connection is closed by the client first: httpx, which the SDKs use, gives one up after 5 s. A server that
closes as early as that can meet a request on its way."""


def make_executor_factory(config: ServerConfig) -> Callable[[], Executor]:
    """What makes a fresh executor of the configured kind, one for each worker's life."""
    if config.executor == "inline":
        from eztinker.engine.executors.inline import InlineExecutor

        return InlineExecutor
    from eztinker.engine.executors.subprocess import SubprocessExecutor

    return SubprocessExecutor


def build_service(config: ServerConfig) -> Service:
    """A service as configured, not yet started."""
    return Service(config, make_executor_factory(config))


def serve(
    config: ServerConfig,
    *,
    exit_with_parent: bool = False,
    ready_file: Path | None = None,
    only_openai: bool = False,
) -> int:
    """Run a server until SIGTERM, SIGINT or, with ``exit_with_parent``, the end of stdin.

    Args:
        exit_with_parent: for embedded use: the parent holds the other end of stdin.
        ready_file: receives the server's URL once it answers.
        only_openai: answer clients of the OpenAI-compatible API and no others.

    Returns:
        Exit code: 0 after an orderly stop.

    Raises:
        EZTinkerError: it could not start; the message says why.
    """
    _configure_logging()
    is_armed = failpoints.arm()
    listener = _listen(config.host, config.port)
    service = build_service(config)
    app = create_app(service, only_openai=only_openai)
    server = _Server(
        uvicorn.Config(
            _dying(app) if is_armed else app,
            http=HttpProtocol.with_limit(config.limits.max_connections),
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
            timeout_keep_alive=KEEP_ALIVE_S,
        ),
        _url(listener),
        ready_file,
        at_stop=service.let_go,
    )
    access = LocalAccess(_url_from_here(listener), service.accounts.local_key)
    if exit_with_parent:
        threading.Thread(target=_watch_stdin, args=(server,), daemon=True).start()
    try:
        asyncio.run(_run(server, service, listener, access))
    finally:
        listener.close()
    return 0


async def _run(
    server: _Server, service: Service, listener: socket.socket, access: LocalAccess
) -> None:
    config = service.config
    # Tokenizing, checksums and files: what would otherwise hold up the answers to others.
    asyncio.get_running_loop().set_default_executor(
        ThreadPoolExecutor(config.workers, thread_name_prefix="eztinker-prepare")
    )
    await service.start()
    watch = asyncio.create_task(_stop_on_failure(server, service))
    greet = asyncio.create_task(_greet(service, listener))
    try:
        access.write(config.state_dir)
        await server.serve(sockets=[listener])
    finally:
        watch.cancel()
        greet.cancel()
        LocalAccess.remove(config.state_dir)
        await service.stop()
    if watch.done() and not watch.cancelled():
        raise watch.result()


async def _greet(service: Service, listener: socket.socket) -> None:
    await service.ready()
    _say(f"EZTinker is ready at {_url(listener)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


async def _stop_on_failure(server: _Server, service: Service) -> EZTinkerError:
    """A server whose models or engine will never be there ends, and says why."""
    error = await service.start_failure()
    server.should_exit = True
    return error


def _dying(app: ASGIApp) -> ASGIApp:
    """The application with the failpoints around the answers to requests that change something."""

    async def serve_request(scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            is_whole = message["type"] == "http.response.body" and not message.get("more_body")
            if is_whole:
                failpoints.reach("answer.before")
            await send(message)
            if is_whole:
                failpoints.reach("answer.after")

        changes = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS")
        await app(scope, receive, answer if changes else send)

    return serve_request


class _Server(uvicorn.Server):
    """uvicorn that says where it answers, and that leaves with 0 after a signal."""

    def __init__(
        self,
        config: uvicorn.Config,
        url: str,
        ready_file: Path | None,
        *,
        at_stop: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._at_stop = at_stop
        self._url = url
        self._ready_file = ready_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _say(f"EZTinker listens at {self._url}; the engine is starting.")
        if self._ready_file is not None:
            temporary = self._ready_file.with_name(f".{self._ready_file.name}.tmp")
            temporary.write_text(self._url, encoding="utf-8")
            temporary.replace(self._ready_file)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Long polls and streams answer now; uvicorn would cancel them after its grace period.
        self._at_stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but a signal is not raised again: an orderly stop is exit code 0."""
        previous = {
            signum: signal.signal(signum, self.handle_exit)
            for signum in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY; without it each answer may wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"Cannot listen on {host}:{port}: {reason}. Choose another --port (0 takes a free one) "
            "or stop what uses it.",
            code="address_in_use",
            field="port",
        ) from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _url_from_here(listener: socket.socket) -> str:
    """The address for programs on this machine, also of a server that listens on all addresses."""
    return _url(listener).replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _watch_stdin(server: _Server) -> None:
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    server.should_exit = True


def _configure_logging() -> None:
    """Plain lines on stderr; others may have configured logging before us."""
    if not logging.getLogger().handlers:
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
        )
    for noisy in ("alembic", "httpx", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_fault)


def _is_fault(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's tells of a fault: a request given up at the stop (an upload that does not end) is none."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)
