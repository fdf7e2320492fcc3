"""What every endpoint of the Tinker wire has in common: its call, its body, its errors.

Knows Starlette and no endpoint. Used by ``api/routes/tinker``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

import orjson
from google.protobuf.message import DecodeError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from eztinker.api.bodies import check_num_values, parse, read_bytes
from eztinker.api.tinker.encodings import decoded
from eztinker.api.tinker.errors import error_response
from eztinker.api.tinker.paths import TYPE_OF_KIND, CheckpointPath
from eztinker.errors import (
    EZTinkerError,
    InvalidRequestError,
    NotFoundError,
    ServerError,
)
from eztinker.models.tinker import TinkerModel

if TYPE_CHECKING:
    from eztinker.service.service import Service

log = logging.getLogger(__name__)

M = TypeVar("M", bound=TinkerModel)

PREFIX = "/api/v1"
"""Where this wire begins."""
PROTOBUF = "application/x-protobuf"
MAX_PAGE = 1000
FIRST_RELEASE_WITH_EXPORTS = (0, 30)
"""Of the official client, as far as we know: 0.24 refuses a list with an export in it."""


class Call:
    """One request to an endpoint.

    Attributes:
        service: what is asked, as the caller sees it.
        digest: tells a repeated request from another one; set once the body was read.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self.service: Service = request.state.service
        self.digest = ""
        self._raw: bytes | None = None

    @property
    def is_local(self) -> bool:
        """Whether the caller sits on this machine, and may know where its files lie."""
        client = self._request.client
        is_here = client is not None and client.host in {"127.0.0.1", "::1", "localhost"}
        return is_here and self.service.principal.sees_all

    @property
    def base_url(self) -> str:
        """This wire's address as the caller wrote it, without a slash at the end."""
        return str(self._request.base_url).rstrip("/") + PREFIX

    def address(self, path: str) -> str:
        """The address of a path of this wire, for programs that fetch it without sending a key."""
        principal = self.service.principal
        if principal.key_id is None:
            return f"{self.base_url}{path}"
        signed = self.service.accounts.sign(PREFIX + unquote(path), principal)
        return f"{self.base_url}{path}?access={quote(signed)}"

    def path(self, name: str) -> str:
        """A part of the path."""
        return self._request.path_params[name]

    def page(self, default_limit: int) -> tuple[int, int]:
        """``limit`` and ``offset`` of a list."""
        return (
            self._whole_number("limit", default_limit, most=MAX_PAGE),
            self._whole_number("offset", 0, most=2**63 - 1),
        )

    async def body(self, model: type[M]) -> M:
        """The JSON body.

        Raises:
            InvalidRequestError: it is not JSON, or a field does not fit.
        """
        return parse(await self.raw_json(), model)

    async def raw_json(self) -> bytes:
        """The bytes of a JSON body."""
        raw = await self._read()
        check_num_values(raw, self.service.config.limits.max_body_values)
        self.digest = hashlib.sha256(self._request.url.path.encode() + b"\n" + raw).hexdigest()
        return raw

    @property
    def knows_exports(self) -> bool:
        """Whether the caller can read of checkpoints of the type ``external``: older clients cannot."""
        release = self._request.headers.get("x-stainless-package-version", "")
        parts = release.split(".")[:2]
        if len(parts) < 2 or not all(part.isascii() and part.isdigit() for part in parts):
            return True
        return (int(parts[0][:9]), int(parts[1][:9])) >= FIRST_RELEASE_WITH_EXPORTS

    @property
    def sends_protobuf(self) -> bool:
        """Whether the body is said to be protobuf."""
        return self._content_type == PROTOBUF

    @property
    def takes_protobuf(self) -> bool:
        """Whether the caller reads results in protobuf; older clients read JSON."""
        return PROTOBUF in self._request.headers.get("accept", "")

    @property
    def _content_type(self) -> str:
        return self._request.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def message(self, cls: Any) -> Any:
        """The protobuf body.

        Raises:
            InvalidRequestError: code ``invalid_protobuf``.
        """
        message = cls()
        try:
            message.ParseFromString(await self._read())
        except DecodeError as error:
            raise InvalidRequestError(
                f"The body is no {cls.DESCRIPTOR.name} in protobuf: {error}. Send one, with the header "
                f"'Content-Type: {PROTOBUF}'.",
                code="invalid_protobuf",
            ) from None
        # The order of a map's entries may differ between two copies of one request.
        canonical = message.SerializeToString(deterministic=True)
        self.digest = hashlib.sha256(canonical).hexdigest()
        return message

    async def drop_body(self) -> None:
        """Read a body that nobody wants."""
        await self._read()

    async def _read(self) -> bytes:
        if self._raw is None:
            limit = self.service.config.limits.max_body_bytes
            encoding = self._request.headers.get("content-encoding", "identity")
            self._raw = decoded(await read_bytes(self._request, limit), encoding, limit)
        return self._raw

    def _whole_number(self, name: str, default: int, *, most: int) -> int:
        text = self._request.query_params.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most):
            raise InvalidRequestError(
                f"query parameter {name}: expected an integer from 0 to {most}, got {text[:100]!r}.",
                field=name,
            )
        return int(text)


Handler = Callable[[Call], Awaitable[Response]]


def endpoint(method: str, path: str, handler: Handler) -> Route:
    """A route whose errors are those of this wire."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(Call(request))
        except EZTinkerError as error:
            return error_response(error)
        except Exception:
            log.exception("%s %s failed", method, request.url.path)
            return error_response(internal_error())

    return Route(path, answer, methods=[method], name=handler.__name__)


def internal_error() -> ServerError:
    """What the caller learns of a fault of ours."""
    return ServerError(
        "The server failed at this request; that is not your mistake. Its log has the reason."
    )


def answer(content: dict[str, Any], status: int = 200) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(content), status, media_type="application/json")


def nothing() -> Response:
    """The answer where the client wants none."""
    return Response(status_code=204)


CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"
"""Where a checkpoint is; its id contains a slash."""


def named_checkpoint(call: Call) -> CheckpointPath:
    """The checkpoint that the path of a request names.

    Raises:
        NotFoundError: code ``checkpoint_not_found``, there is no such kind.
    """
    kind, name = call.path("kind"), call.path("name")
    if kind not in TYPE_OF_KIND:
        raise NotFoundError(
            f"There are no checkpoints of the kind {kind[:100]!r}. Kinds: {', '.join(TYPE_OF_KIND)}.",
            code="checkpoint_not_found",
        )
    return CheckpointPath(call.path("run_id"), kind, name)
