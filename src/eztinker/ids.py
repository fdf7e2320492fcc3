"""Identifiers that a user sees: ``run_`` or ``job_`` and eight hex digits, and the rules for names.

Knows nothing of what the identifiers point to. Called by the service (to make ids and check names)
and by the client library (idempotency keys).
"""

import secrets
import unicodedata
import uuid

from eztinker.errors import InvalidRequestError

MAX_NAME_LENGTH = 128


def new_run_id() -> str:
    """A fresh run id, ``run_`` + 8 hex digits."""
    return f"run_{secrets.token_hex(4)}"


def new_job_id() -> str:
    """A fresh job id, ``job_`` + 8 hex digits."""
    return f"job_{secrets.token_hex(4)}"


def new_idempotency_key() -> str:
    """A key that identifies one request over all its retries."""
    return uuid.uuid4().hex


def check_name(name: str, *, field: str) -> str:
    """Return ``name`` if it may name a run or checkpoint.

    Letters of any script with their marks, digits, ``.``, ``_``, ``-``; 1 to 128 characters; no
    leading dot. What passes here is safe as one component of a path on every file system we support.

    Raises:
        InvalidRequestError: with ``field`` in its message, when the name breaks a rule.
    """
    # 128 letters of a script with 3-byte characters overrun the 255-byte limit of a file name.
    fits = 1 <= len(name) <= MAX_NAME_LENGTH and len(name.encode("utf-8", "replace")) <= 240
    if fits and not name.startswith(".") and all(map(_may_stand_in_name, name)):
        return name
    raise InvalidRequestError(
        f"{field}: {name[:MAX_NAME_LENGTH]!r} is not a valid name. Expected 1 to {MAX_NAME_LENGTH} "
        "letters (of any script), digits, '.', '_' or '-', not beginning with a dot and at most "
        "240 bytes in UTF-8.",
        code="invalid_name",
        field=field,
    )


def check_reference(name: str, *, field: str) -> str:
    """Return ``name`` if it may name something that exists already.

    Like ``check_name``, but ``:`` may occur: the server gives such names to what clients of the Tinker
    protocol make, and no caller may choose one.

    Raises:
        InvalidRequestError: with ``field`` in its message, when the name breaks a rule.
    """
    check_name(name.replace(":", "-"), field=field)
    return name


def _may_stand_in_name(char: str) -> bool:
    """A letter, mark (vowel signs of many scripts are marks) or number, or one of three signs."""
    return char in "._-" or unicodedata.category(char)[0] in "LMN"
