"""One request as a value, and the small steps that make its path and body.

Knows how names become URLs and values become JSON; no route, no connection. Called by ``requests/``, read by
``flows.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from eztinker.client.answers import Json
from eztinker.errors import InvalidRequestError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One request, before it has headers or a connection.

    Attributes:
        parse: makes the value of the call from the answer's JSON; of a request that makes a job, from
            the ended job.
        params: of the query; None values are left out.
        json: the body of a POST or PATCH.
        archive: a tar archive, instead.
        hold_s: how long the server is asked to hold the answer (``?wait=``); None does not ask.
    """

    method: str
    path: str
    parse: Callable[[Json], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Json | None = None
    archive: bytes | None = None
    hold_s: float | None = None

    def holding(self, seconds: float) -> Request[T]:
        """The same request, asking the server to hold its answer for up to ``seconds``."""
        return replace(self, hold_s=seconds)


def plain(value: Any) -> Any:
    """Lists and numbers from arrays and tensors (anything with ``tolist``); the rest as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def check_finite(value: Any, field: str = "") -> None:
    """Refuse NaN and infinity, for which JSON has no word.

    Raises:
        InvalidRequestError: names the place of the first.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_finite(item, f"{field}.{key}" if field else str(key))
    elif isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
        items = plain(value)
        for i, item in enumerate(items if isinstance(items, (list, tuple)) else [items]):
            check_finite(item, f"{field}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequestError(
            f"{field}: expected a finite number, got {value}. Check how it was computed.",
            field=field,
        )


def mapping(value: Any) -> Json:
    """A dict from a mapping, a wire model (pydantic) or nothing."""
    if value is None:
        return {}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return dict(value)
    raise InvalidRequestError(
        f"Expected a dict or one of EZTinker's request classes, got {type(value).__name__}."
    )


def post(path: str, body: Json, parse: Callable[[Json], T]) -> Request[T]:
    """A POST whose body leaves out what is None."""
    given = {key: value for key, value in body.items() if value is not None}
    return Request("POST", path, parse, json=given)


def run_path(run_id: str, rest: str = "") -> str:
    """``/v1/runs/{run_id}`` and what follows."""
    path = f"/v1/runs/{segment(run_id, 'run_id')}"
    return f"{path}/{rest}" if rest else path


def segment(name: str, field_name: str) -> str:
    """``name`` as one component of a URL path, whatever characters it has."""
    if not isinstance(name, str) or not name or not _is_text(name):
        raise InvalidRequestError(
            f"{field_name}: expected a non-empty text, got {name!r}.", field=field_name
        )
    # Dots alone would be read as "here" and "one up" by whatever normalises the path.
    return name.replace(".", "%2E") if not name.strip(".") else quote(name, safe="")


def _is_text(name: str) -> bool:
    """False for what stands in for undecodable bytes of a command line."""
    return not any("\ud800" <= character <= "\udfff" for character in name)
