"""The client's conversations with the server, written once for the sync and the async client.

A flow is a generator that yields effects (``Send`` a request, ``Pause``) and gets back what they brought;
its return value is the result of the call. It opens no connection and never sleeps: the two drivers in
``transport.py`` do. So everything that takes more than one round trip (retries, waiting for a job, pages)
stands here and is tested with plain values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from eztinker.client import answers
from eztinker.client.answers import Answer, Json, NoAnswer
from eztinker.client.request import Request, check_finite, run_path, segment
from eztinker.client.requests import jobs, runs, service
from eztinker.client.retry import Retry
from eztinker.errors import (
    AuthError,
    EZTinkerError,
    InvalidRequestError,
    NotFoundError,
    ServerUnreachableError,
)
from eztinker.ids import new_idempotency_key

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 600.0
"""Bound on one call, with the work of the server and all repeats."""
HEALTH_TIMEOUT_S = 10.0
"""Bound on asking a server whether it is well."""
RECONNECT_WINDOW_S = 60.0
"""How long a server that answered before may be away."""
HOLD_S = 20.0
"""How long one request asks the server to hold its answer; waiting longer takes several."""
HOLD_GRACE_S = 30.0
"""How much later than promised a held answer may come before the connection counts as dead."""
FIRST_CONTACT_PATIENCE_S = 0.5
"""How long a client that never had an answer tries an address where nothing listens."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this and return an ``Answer`` or ``NoAnswer``.

    Attributes:
        read_timeout_s: longest silence before the connection counts as dead.
    """

    method: str
    path: str
    params: dict[str, Any]
    headers: dict[str, str]
    content: bytes | None
    read_timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


Effect = Send | Pause
Flow = Generator[Effect, "Answer | NoAnswer | None", T]


@dataclass(slots=True)
class Context:
    """What every call of one client shares.

    Attributes:
        timeout_s: bound on one call when the call itself names none.
        reconnect_window_s: how long a server that answered before may be away.
        has_answered: whether this client ever had an answer.
        clock: monotonic seconds.
    """

    base_url: str
    timeout_s: float
    reconnect_window_s: float
    has_answered: bool = False
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    def deadline_s(self, timeout_s: float | None = None) -> float:
        """Reading of the clock at which a call that begins now is over."""
        return self.clock() + (self.timeout_s if timeout_s is None else timeout_s)


def ask(context: Context, request: Request[T], timeout_s: float | None = None) -> Flow[T]:
    """One request and its answer, retries included."""
    return request.parse((yield from exchange(context, request, context.deadline_s(timeout_s))))


def run_job(context: Context, request: Request[T]) -> Flow[T]:
    """A request that makes a job, and the wait for its end."""
    deadline_s = context.deadline_s()
    held = request.holding(_hold_s(context, deadline_s))
    job = yield from exchange(context, held, deadline_s)
    return request.parse((yield from _until_whole(context, job, deadline_s)))


def submit_job(context: Context, request: Request[Any]) -> Flow[str]:
    """A request that makes a job, without waiting for it: the job's id."""
    job = yield from exchange(context, request.holding(0), context.deadline_s())
    return job["job_id"]


def wait_for_job(
    context: Context,
    job_id: str,
    parse: Callable[[Json], T],
    timeout_s: float | None = None,
    polling_interval_s: float = 0.05,
) -> Flow[T]:
    """Wait for a job's end by long polls; a server that restarts meanwhile only makes it longer."""
    deadline_s = context.deadline_s(timeout_s)
    job = {"job_id": job_id}
    return parse((yield from _until_whole(context, job, deadline_s, polling_interval_s)))


def all_runs(context: Context, base_model: str | None) -> Flow[list[Json]]:
    """Every run, page by page."""
    deadline_s, rows = context.deadline_s(), []
    while True:
        request = runs.get_runs(base_model, len(rows))
        page = yield from exchange(context, request, deadline_s)
        rows += page["runs"]
        if not page["runs"] or len(rows) >= page.get("total", 0):
            return rows


def checkpoint_file(context: Context, run_id: str, name: str, file: str) -> Flow[bytes]:
    """One file of a checkpoint."""
    path = run_path(run_id, f"checkpoints/{segment(name, 'name')}/files/{segment(file, 'file')}")
    request = Request("GET", path, answers.same)
    answer = yield from final_answer(context, request, context.deadline_s())
    return answer.content


def tokenizer_files(context: Context, base_model: str | None) -> Flow[dict[str, str]]:
    """The tokenizer of a base model; None takes the server's default model."""
    name = base_model
    if name is None:
        models = yield from exchange(context, service.get_models(), context.deadline_s())
        name = str(models["default"])
    return (yield from ask(context, service.get_tokenizer(name)))


def _until_whole(
    context: Context, job: Json, deadline_s: float, polling_interval_s: float = 0.05
) -> Flow[Json]:
    """Ask about the job until the answer holds its result or error; asks once even without time."""
    while not answers.is_whole(job):
        asked_s, was_final = context.clock(), answers.is_final(job)
        job = yield from _poll(context, job["job_id"], deadline_s)
        if answers.is_final(job):
            if was_final:  # it has ended and says no more than this
                return job
            continue
        if context.clock() >= deadline_s:
            raise _too_late(job)
        # A held answer that comes back early means that the server does not hold answers.
        early_s = asked_s + polling_interval_s - context.clock()
        if early_s > 0:
            yield Pause(min(early_s, max(0.0, deadline_s - context.clock())))
    return job


def _poll(context: Context, job_id: str, deadline_s: float) -> Flow[Json]:
    request = jobs.get_job(job_id).holding(_hold_s(context, deadline_s))
    # Whoever has a job's id knows that the server existed, so it gets the whole window to come back.
    return (yield from exchange(context, request, deadline_s, context.reconnect_window_s))


def _hold_s(context: Context, deadline_s: float) -> float:
    return round(min(HOLD_S, max(0.0, deadline_s - context.clock())), 3)


def _too_late(job: Json) -> TimeoutError:
    reason = f" ({job['wait_reason']})" if job.get("wait_reason") else ""
    return TimeoutError(
        f"Job {job['job_id']} is still {job.get('status', 'unfinished')}{reason} when the time is up. "
        f"It goes on: wait_for_job({job['job_id']!r}, timeout=…) waits longer, cancel_job stops it."
    )


def exchange(
    context: Context, request: Request[Any], deadline_s: float, patience_s: float | None = None
) -> Flow[Any]:
    """Send ``request`` until there is a final answer; its JSON. Errors as in ``final_answer``."""
    answer = yield from final_answer(context, request, deadline_s, patience_s)
    return answers.json_of(answer)


def final_answer(
    context: Context, request: Request[Any], deadline_s: float, patience_s: float | None = None
) -> Flow[Answer]:
    """Send ``request`` until there is a final answer.

    Raises:
        EZTinkerError: the error that the server reports.
        ServerUnreachableError: nothing listens there, for longer than ``patience_s``.
        TimeoutError: no answer before the deadline.
    """
    if patience_s is None:
        patience_s = (
            context.reconnect_window_s if context.has_answered else FIRST_CONTACT_PATIENCE_S
        )
    retry = Retry(deadline_s=deadline_s, patience_s=patience_s)
    send, may_have_arrived = _prepare(request), False
    while True:
        send = _with_read_timeout(send, request, deadline_s - context.clock())
        outcome = yield send
        assert outcome is not None
        context.has_answered |= isinstance(outcome, Answer)
        if isinstance(outcome, Answer) and outcome.is_success:
            return outcome
        pause_s = retry.pause_after(outcome, context.clock())
        if pause_s is None:
            return _give_up(context, request, outcome, may_have_arrived)
        may_have_arrived |= isinstance(outcome, NoAnswer) and outcome.kind != "unreachable"
        if pause_s:
            yield Pause(pause_s)


def _prepare(request: Request[Any]) -> Send:
    """Body and headers, made once and kept over all tries: so a repeat is recognised as one."""
    params = {key: value for key, value in request.params.items() if value is not None}
    if request.hold_s is not None:
        params["wait"] = f"{request.hold_s:g}"
    headers: dict[str, str] = {}
    content = None
    if request.method == "POST":
        headers["Idempotency-Key"] = new_idempotency_key()
        is_archive = request.archive is not None
        headers["Content-Type"] = "application/x-tar" if is_archive else "application/json"
        content = request.archive if is_archive else _encode(request.json or {})
    elif request.json is not None:
        headers["Content-Type"] = "application/json"
        content = _encode(request.json)
    return Send(request.method, request.path, params, headers, content, 0.0)


def _encode(body: Json) -> bytes:
    try:
        content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise InvalidRequestError(
            f"The request cannot be written as JSON: {error}. Numbers, strings, lists, dicts, numpy "
            "arrays and tensors can."
        ) from None
    if b"null" in content:  # which NaN becomes, and null may mean: use the default
        check_finite(body)
    return content


def _with_read_timeout(send: Send, request: Request[Any], left_s: float) -> Send:
    if request.hold_s is None:
        read_timeout_s = left_s
    else:
        read_timeout_s = min(left_s + 1.0, request.hold_s + HOLD_GRACE_S)
    return Send(
        send.method, send.path, send.params, send.headers, send.content, max(0.1, read_timeout_s)
    )


def _give_up(
    context: Context, request: Request[Any], outcome: Answer | NoAnswer, may_have_arrived: bool
) -> Answer:
    if isinstance(outcome, NoAnswer):
        raise _silence(context, request, outcome)
    error = answers.error_of(outcome)
    if request.method == "DELETE" and may_have_arrived and isinstance(error, NotFoundError):
        # The first try got through and only its answer was lost.
        return Answer(200, content=b'{"status":"deleted"}')
    raise _explained(error)


def _explained(error: EZTinkerError) -> EZTinkerError:
    if isinstance(error, AuthError) and "api_key" not in error.message:
        error.message += " Pass api_key=… or set EZTINKER_API_KEY."
        error.args = (error.message,)
    return error


def _silence(context: Context, request: Request[Any], outcome: NoAnswer) -> Exception:
    if outcome.kind == "timeout":
        return TimeoutError(
            f"{context.base_url} did not answer {request.method} {request.path} in time."
        )
    return ServerUnreachableError(
        f"No EZTinker server answers at {context.base_url} ({outcome.reason}). Start one with "
        "'eztinker server', or name another address with base_url=… or EZTINKER_BASE_URL."
    )
