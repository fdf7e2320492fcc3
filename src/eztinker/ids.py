"""Identifiers that a user sees: ``run_`` or ``job_`` and eight hex digits, and the rules for names.

Knows nothing of what the identifiers point to. Called by the service (to make ids and check names),
the engine (folders) and the client library (idempotency keys).
"""

import hashlib
import secrets
import unicodedata
import uuid

from eztinker.errors import InvalidRequestError

MAX_NAME_LENGTH = 128
_MAX_FOLDER_BYTES = 240
_NUM_KEPT_BYTES = 120


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
    leading dot. ``folder_name`` makes one component of a path of it.

    Raises:
        InvalidRequestError: with ``field`` in its message, when the name breaks a rule.
    """
    fits = 1 <= len(name) <= MAX_NAME_LENGTH
    if fits and not name.startswith(".") and all(map(_may_stand_in_name, name)):
        return name
    raise InvalidRequestError(
        f"{field}: {name[:MAX_NAME_LENGTH]!r} is not a valid name. Expected 1 to {MAX_NAME_LENGTH} "
        "letters (of any script), digits, '.', '_' or '-', not beginning with a dot.",
        code="invalid_name",
        field=field,
    )


def folder_name(name: str) -> str:
    """The folder of a run or checkpoint called ``name``: the name itself where a file system takes it.

    A component of a path has at most 255 bytes, and the store puts prefixes before it; 128 letters of
    three bytes are more. A long name keeps its beginning and gets a digest, after a sign that no name has.
    """
    encoded = name.encode()
    if len(encoded) <= _MAX_FOLDER_BYTES:
        return name
    beginning = encoded[:_NUM_KEPT_BYTES].decode(errors="ignore")
    return f"{beginning}~{hashlib.sha256(encoded).hexdigest()[:32]}"


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
