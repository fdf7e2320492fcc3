"""Every error that EZTinker raises on purpose, as one tree.

::

    EZTinkerError
    ├── UserError                 the caller can mend it           (exit code 2)
    │   ├── InvalidRequestError   a field is wrong; nothing changed
    │   ├── UnsupportedError      understood, but not implemented
    │   ├── TooLargeError         a limit was passed; names limit and setting
    │   ├── AlreadyExistsError    a name is taken
    │   ├── NotFoundError         no such run, job, checkpoint, model, route   (exit code 4)
    │   ├── ConflictError         same idempotency key, another request
    │   ├── CancelledError        the caller cancelled the job      (exit code 1)
    │   └── AuthError             key missing, wrong or not allowed  (exit code 5)
    ├── CapacityError             later or with less; carries ``retry_after_s``
    │   ├── BusyError             a bounded queue is full
    │   ├── OutOfMemoryError      does not fit in memory            (exit code 6)
    │   └── DiskFullError         no room to make it durable        (exit code 6)
    ├── ServerError               ours to mend
    │   ├── EngineCrashError      the worker died under this job, twice
    │   ├── NumericalError        loss or gradient is not finite; state untouched
    │   └── StorageError          the database or a snapshot cannot be read or written
    └── ClientSideError
        ├── ServerUnreachableError  no answer at the address        (exit code 3)
        └── JobFailedError          a job ended as failed or cancelled (exit code 1)

Each class has a stable ``code`` (an instance may carry a finer one) and a ``category``. A message
says what was expected, what came and what to do. Nothing here knows HTTP: ``api/errors.py`` has the
one table of status codes. To add an error: subclass the branch it belongs to, give it a code, add it
to the tree above and to the table.
"""

from __future__ import annotations

from typing import Any


class EZTinkerError(Exception):
    """Root of the tree.

    Attributes:
        message: what was expected, what came, what to do.
        code: stable, lower case with underscores; scripts may test it.
        field: the offending field as the caller wrote it, if there is one.
        details: further facts for programs (JSON types only).
        retry_after_s: seconds after which the same request may succeed, or None.
    """

    code = "error"
    category = "unknown"
    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        details: dict[str, Any] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.field = field
        self.details = details or {}
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__)


def _rebuild(cls: type[EZTinkerError], message: str, state: dict[str, Any]) -> EZTinkerError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class UserError(EZTinkerError):
    """The caller can mend it; the state of the service is untouched."""

    code = "user_error"
    category = "user"
    exit_code = 2


class InvalidRequestError(UserError):
    """A field has the wrong type, value, length or combination."""

    code = "invalid_request"


class UnsupportedError(UserError):
    """Understood and refused by name: not implemented here; the message names the way out."""

    code = "unsupported"


class TooLargeError(UserError):
    """A configurable limit was passed; the message names the limit and its setting."""

    code = "too_large"


class AlreadyExistsError(UserError):
    """A run or checkpoint of this name exists."""

    code = "already_exists"


class NotFoundError(UserError):
    """No such run, job, checkpoint, model or route."""

    code = "not_found"
    exit_code = 4


class ConflictError(UserError):
    """An idempotency key or sequence number was used before for another request."""

    code = "conflict"


class CancelledError(UserError):
    """The job was cancelled before it took effect."""

    code = "cancelled"
    exit_code = 1


class AuthError(UserError):
    """The key is missing, unknown, expired or lacks a scope."""

    code = "unauthorized"
    exit_code = 5


class CapacityError(EZTinkerError):
    """The request is fine; there is no room for it now."""

    code = "capacity"
    category = "capacity"
    exit_code = 6


class BusyError(CapacityError):
    """A bounded queue is full."""

    code = "busy"
    exit_code = 1


class OutOfMemoryError(CapacityError):
    """It does not fit in memory even in the smallest pieces."""

    code = "out_of_memory"


class DiskFullError(CapacityError):
    """There is no room to make the request durable, so it was not accepted."""

    code = "disk_full"


class ServerError(EZTinkerError):
    """A fault of the service."""

    code = "internal_error"
    category = "server"


class EngineCrashError(ServerError):
    """The engine worker died twice while it ran this job."""

    code = "engine_crash"


class NumericalError(ServerError):
    """A loss or gradient was not finite; the run is as it was before the job."""

    code = "not_finite"
    category = "user"


class StorageError(ServerError):
    """The database, a snapshot or a checkpoint cannot be read or written."""

    code = "storage_error"


class ClientSideError(EZTinkerError):
    """Raised by the client library only."""

    code = "client_error"
    category = "client"


class ServerUnreachableError(ClientSideError, ConnectionError):
    """No server answered; the message says how to start one."""

    code = "server_unreachable"
    exit_code = 3


class JobFailedError(ClientSideError, RuntimeError):
    """A job ended as failed or cancelled.

    Attributes:
        job_id: the job.
        job: the whole answer of ``GET /v1/jobs/{id}``.
    """

    code = "job_failed"

    def __init__(
        self, message: str, *, job_id: str, job: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(message, **kwargs)
        self.job_id = job_id
        self.job = job or {}


def _tree(cls: type[EZTinkerError]) -> dict[str, type[EZTinkerError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found |= _tree(child)
    return found


def error_from_code(code: str, message: str, **kwargs: Any) -> EZTinkerError:
    """Rebuild an error that crossed a process boundary or lay in the database as code and message.

    A code that no class owns (an instance's finer code) keeps its text on a plain ``UserError``,
    ``CapacityError`` or ``ServerError``, chosen by ``category`` in ``kwargs`` (default ``server``).
    """
    branches: dict[str, type[EZTinkerError]] = {"user": UserError, "capacity": CapacityError}
    fallback = branches.get(kwargs.pop("category", "server"), ServerError)
    cls = _tree(EZTinkerError).get(code, fallback)
    if issubclass(cls, ClientSideError):
        cls = fallback
    return cls(message, code=code, **kwargs)
