"""What the server's answers mean: pure functions from status, headers and JSON to values or errors.

Knows the shapes of the native API's answers and the error tree; nothing of connections or waiting.
Called by ``flows.py`` and by the two clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from eztinker.errors import (
    AlreadyExistsError,
    AuthError,
    BusyError,
    CapacityError,
    ConflictError,
    EZTinkerError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    ServerError,
    TooLargeError,
    UnsupportedError,
    UserError,
    error_from_code,
)

Json = dict[str, Any]

FINAL_STATUSES = frozenset({"completed", "failed", "cancelled"})

_CLASS_OF_STATUS: dict[int, type[EZTinkerError]] = {
    400: InvalidRequestError,
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    405: UnsupportedError,
    409: ConflictError,
    413: TooLargeError,
    422: InvalidRequestError,
    429: BusyError,
    503: CapacityError,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer: status, headers with lower-case names, body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""

    @property
    def is_success(self) -> bool:
        """Status 2xx."""
        return 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why there was no answer.

    Attributes:
        kind: ``unreachable``: nothing was sent; ``broken``: the connection ended before the answer, so
            the request may have taken effect; ``timeout``: the same, without a word.
        reason: the operating system's or the library's own words.
    """

    kind: Literal["unreachable", "broken", "timeout"]
    reason: str = ""


def json_of(answer: Answer) -> Any:
    """The body of a successful answer.

    Raises:
        ServerError: code ``not_json``; something other than EZTinker answers there.
    """
    try:
        return orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        raise ServerError(
            f"Expected JSON, got {_excerpt(answer.content)!r} (HTTP {answer.status}). "
            "Is there an EZTinker server at this address?",
            code="not_json",
        ) from None


def retry_after_s(answer: Answer) -> float | None:
    """Seconds of the ``Retry-After`` header; None when absent or not a number of seconds."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", "")))
    except ValueError:
        return None


def error_of(answer: Answer) -> EZTinkerError:
    """The error that a non-2xx answer reports, rebuilt from its JSON body.

    A code that no class of the tree owns is kept on the class that fits the HTTP status.
    """
    body = _error_body(answer)
    message = str(body.get("message") or f"HTTP {answer.status}: {_excerpt(answer.content)}")
    code = str(body.get("code") or "")
    extra = {
        "field": body.get("field"),
        "details": body.get("details"),
        "retry_after_s": retry_after_s(answer),
    }
    category = "user" if answer.status < 500 else "server"
    error = error_from_code(code, message, category=category, **extra)
    if type(error) in (UserError, ServerError):
        cls = _class_of_code(code) or _CLASS_OF_STATUS.get(answer.status, type(error))
        return cls(message, code=code or None, **extra)
    return error


def _class_of_code(code: str) -> type[EZTinkerError] | None:
    """Class of a finer code that says itself what it is, such as ``run_exists``."""
    endings = {"_exists": AlreadyExistsError, "_not_found": NotFoundError}
    return next((cls for ending, cls in endings.items() if code.endswith(ending)), None)


def _error_body(answer: Answer) -> Json:
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return {}
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return {}
    request_id = body.get("request_id")
    if request_id:
        error = error | {"details": (error.get("details") or {}) | {"request_id": request_id}}
    return error


def _excerpt(content: bytes) -> str:
    return content[:120].decode("utf-8", "replace").strip()


# Jobs ---------------------------------------------------------------------------------------------


def is_final(job: Json) -> bool:
    """Whether the job has ended."""
    return job.get("status") in FINAL_STATUSES


def is_whole(job: Json) -> bool:
    """Whether the answer holds all that will ever be known of the job: it ended, and says how."""
    if job.get("status") == "completed":
        return job.get("result") is not None
    return is_final(job) and job.get("error") is not None


def outcome(job: Json) -> Json:
    """The four documented keys of a completed job: ``job_id, status, result, error``.

    Raises:
        JobFailedError: the job failed or was cancelled. Its ``__cause__`` is the job's own error.
    """
    if job["status"] == "completed":
        return {key: job.get(key) for key in ("job_id", "status", "result", "error")}
    raise job_error(job) from cause_of(job)


def cause_of(job: Json) -> EZTinkerError:
    """The job's own error, as a class of the tree."""
    said = job.get("error") or {}
    code = said.get("code") or ("cancelled" if job["status"] == "cancelled" else "internal_error")
    message = said.get("message") or f"The job ended as {job['status']}."
    extra = {"field": said.get("field"), "details": said.get("details")}
    error = error_from_code(code, message, **extra)
    if error.code == type(error).code:
        return error
    # A job's error does not say whose fault it is; nor does the root of the tree.
    return (_class_of_code(code) or EZTinkerError)(message, code=code, **extra)


def job_error(job: Json) -> JobFailedError:
    """``JobFailedError`` that carries the job and repeats its error's details."""
    cause = cause_of(job)
    word = "was cancelled" if job["status"] == "cancelled" else "failed"
    return JobFailedError(
        f"Job {job['job_id']} {word}: {cause.message}",
        job_id=job["job_id"],
        job=job,
        field=cause.field,
        details={"code": cause.code, **cause.details},
    )


def result_of(job: Json) -> Json:
    """The result of a completed job; raises like ``outcome``."""
    return outcome(job)["result"]


def generated_text(job: Json) -> str:
    """``generated_text``: the first answer, with the prompt before it as the API documents it."""
    return result_of(job)["generated_text"]


def texts(job: Json) -> list[str]:
    """Every answer of the job, without the prompt."""
    return [sequence["text"] for sequence in result_of(job)["sequences"]]


# Other answers ------------------------------------------------------------------------------------


def same(body: Json) -> Json:
    """The answer as it came."""
    return body


def run_id(body: Json) -> str:
    """Id of a created run."""
    return body["run_id"]


def prompt_logprobs(body: Json) -> list[float]:
    """Log-probabilities of an echoed prompt, without its first token, which has none."""
    return body["choices"][0]["logprobs"]["token_logprobs"][1:]


def rows(key: str) -> Callable[[Json], list[Json]]:
    """A parser that takes the list under ``key``."""
    return lambda body: body[key]


def files(body: Json) -> dict[str, str]:
    """Tokenizer files: name -> text."""
    return body["files"]
