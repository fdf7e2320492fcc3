"""Runs the checks against one server, one after the other; none that fails keeps the next from running.

Called by ``cli/conformance.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import httpx

from eztinker.conformance import (  # noqa: F401 - each enters its checks into the table
    mistake_checks,
    order_checks,
    rest_checks,
    sampling_checks,
    start_checks,
    training_checks,
)
from eztinker.conformance.checks import CHECKS, Check, Figures
from eztinker.conformance.expectations import Mismatch, NotOffered
from eztinker.conformance.target import Refused, Target
from eztinker.errors import InvalidRequestError, ServerUnreachableError

PREFIX = "/api/v1"
GROUPS = ("start", "promises", "training", "sampling", "checkpoints", "mistakes")
"""Sections, in the order in which a client meets them."""
REQUEST_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check ended.

    Attributes:
        status: ``SKIP`` where the server says itself that it does not offer the part.
        figures: what was measured.
        problem: what was expected and what came; empty if it passed.
    """

    group: str
    name: str
    status: Literal["PASS", "FAIL", "SKIP"]
    seconds: float
    figures: Figures = field(default_factory=dict)
    problem: str = ""


def run_checks(
    url: str, *, model: str | None = None, api_key: str = "tml-local"
) -> Iterator[Outcome]:
    """Run all checks and yield how each ended.

    Args:
        url: the server's address, as ``TINKER_BASE_URL`` has it.
        model: what to train and sample; None takes the first that the server says it can train.
        api_key: sent as ``X-API-Key``.

    Raises:
        ServerUnreachableError: nobody answers at ``url``.
        InvalidRequestError: the server names no model, and none was given.
    """
    headers = {"X-API-Key": api_key}
    limits = httpx.Limits(max_connections=128)
    with httpx.Client(
        base_url=url.rstrip("/") + PREFIX, headers=headers, timeout=REQUEST_TIMEOUT_S, limits=limits
    ) as http:
        named = _first_model(http, url)
        if model is None and named is None:
            raise InvalidRequestError(
                f"The server at {url} names no model that can be trained. Give one with --model.",
                field="model",
            )
        target = Target(http, model or named)
        for entry in sorted(CHECKS, key=lambda entry: GROUPS.index(entry.group)):
            yield _run(entry, target)


def _first_model(http: httpx.Client, url: str) -> str | None:
    """The first model that can be trained; also how we learn whether anybody is there."""
    try:
        answer = http.get("/get_server_capabilities")
        models = answer.json().get("supported_models", []) if answer.status_code == 200 else []
    except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ServerUnreachableError(f"No server answers at {url}: {error}.") from None
    except ValueError:
        models = []
    names = [m["model_name"] for m in models if m.get("trainable", True) and m.get("model_name")]
    return names[0] if names else None


def _run(entry: Check, target: Target) -> Outcome:
    started_s = time.perf_counter()
    status: Literal["PASS", "FAIL", "SKIP"] = "PASS"
    figures: Figures = {}
    problem = ""
    try:
        figures = entry.function(target) or {}
    except NotOffered as error:
        status, problem = "SKIP", str(error)
    except Mismatch as error:
        status, problem = "FAIL", str(error)
    except Refused as error:
        status, problem = "FAIL", f"refused ({error.category}): {error}"
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        status, problem = "FAIL", f"an answer that cannot be read: {type(error).__name__}: {error}"
    seconds = round(time.perf_counter() - started_s, 3)
    return Outcome(entry.group, entry.name, status, seconds, figures, problem)
