"""The checks that admission is made of: a number in its range, a limit, ids of a vocabulary, names.

Each refuses one value by its field's name. Knows no operation. Called by ``admission.py`` and its two
parts, and by ``api/convert.py``, so that a caller of the native API reads the names and positions that
he wrote.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable

import msgspec
import numpy as np

from eztinker.config import Limits
from eztinker.errors import InvalidRequestError, TooLargeError
from eztinker.types.records import BaseModelRecord

MAX_SEED = 2**63 - 1
MAX_METADATA_BYTES = 64 * 1024


def check_number(value: float, field: str, expected: str, ok: bool) -> None:
    """A finite number for which ``ok`` holds; ``expected`` says in words what that asks."""
    if not (math.isfinite(value) and ok):
        raise InvalidRequestError(
            f"{field}: expected {expected}, got {value!r}. Choose a value in that range.",
            field=field,
        )


def check_metadata(*values: object, field: str) -> None:
    """What a caller wants remembered in its own words has a bound: it is read again with every list.

    Raises:
        TooLargeError: code ``metadata_too_large``.
    """
    num_bytes = len(msgspec.json.encode(values))
    if num_bytes > MAX_METADATA_BYTES:
        raise TooLargeError(
            f"{field}: {num_bytes} bytes in all, and {MAX_METADATA_BYTES} are kept. Shorten it.",
            code="metadata_too_large",
            field=field,
        )


def check_limit(value: int, limit: int, *, field: str, setting: str, what: str) -> None:
    """A count within a configurable limit; the refusal names the limit and its setting."""
    if value > limit:
        raise TooLargeError(
            f"{field}: {value} {what}, and this server allows at most {limit}. Ask for less, or raise "
            f"limits.{setting} in the server's settings.",
            field=field,
            details={"limit": limit, "setting": f"limits.{setting}"},
        )


def check_seed(seed: int | None, *, field: str) -> None:
    """A seed is None or an integer of 63 bits."""
    if seed is not None:
        check_number(seed, field, f"an integer from 0 to {MAX_SEED}", 0 <= seed <= MAX_SEED)


def refuse_unknown(given: Iterable[str], known: Collection[str], *, where: str, what: str) -> None:
    """Every name is known; the refusal names the first that is not, and the nearest known one."""
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise InvalidRequestError(
            f"{where}.{unknown[:64]}: unknown {what}.{hint(unknown, known)} Known: "
            f"{', '.join(known) or 'none'}.",
            code="unknown_field",
            field=f"{where}.{unknown[:64]}",
        )


def hint(name: str, known: Collection[str]) -> str:
    """ " Did you mean …?" when a known name is near, else nothing."""
    near = difflib.get_close_matches(name[:64], list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


# Tokens -------------------------------------------------------------------------------------------


def check_tokens(tokens: np.ndarray, *, field: str, base: BaseModelRecord) -> None:
    """Every id lies in the base model's vocabulary.

    Args:
        tokens: integer ids of any shape.
        field: name of the list as the caller wrote it.
        base: whose vocabulary.

    Raises:
        InvalidRequestError: code ``unknown_token``, naming the first wrong id and its position.
    """
    if tokens.size == 0 or (int(tokens.min()) >= 0 and int(tokens.max()) < base.vocab_size):
        return
    position = np.argwhere((tokens < 0) | (tokens >= base.vocab_size))[0]
    where = "".join(f"[{index}]" for index in position)
    raise InvalidRequestError(
        f"{field}{where}: {int(tokens[tuple(position)])} is no token of {base.name}, expected ids from 0 to "
        f"{base.vocab_size - 1}. Use this model's tokenizer (GET /v1/base_models/{base.name}/tokenizer).",
        code="unknown_token",
        field=f"{field}{where}",
    )


def check_length(
    num_tokens: int, *, field: str, base: BaseModelRecord, new_tokens: int = 0
) -> None:
    """A sequence, with the tokens still to be generated, fits the model's context.

    Raises:
        InvalidRequestError: code ``context_length_exceeded``, naming the numbers.
    """
    if num_tokens + new_tokens <= base.context_length:
        return
    parts = f"{num_tokens} tokens"
    if new_tokens:
        parts += f" and {new_tokens} to generate are {num_tokens + new_tokens}, which"
    raise InvalidRequestError(
        f"{field}: {parts} do not fit the context of {base.name}, {base.context_length} tokens. "
        f"Shorten it{' or lower max_new_tokens (max_tokens)' if new_tokens else ''}.",
        code="context_length_exceeded",
        field=field,
        details={"num_tokens": num_tokens, "context_length": base.context_length},
    )


def check_finite(values: np.ndarray, *, field: str) -> None:
    """Every value is finite as a float32.

    Raises:
        InvalidRequestError: naming the first that is not, and its position.
    """
    if not np.isfinite(values).all():
        position = np.argwhere(~np.isfinite(values))[0]
        where = "".join(f"[{index}]" for index in position)
        raise InvalidRequestError(
            f"{field}{where}: expected a finite number that fits 32 bits, got "
            f"{float(values[tuple(position)])!r}. Check how it was computed.",
            field=f"{field}{where}",
        )


def check_not_empty(tokens: np.ndarray, *, field: str) -> None:
    """A list of at least one token id."""
    if tokens.ndim != 1 or tokens.shape[0] == 0:
        raise InvalidRequestError(
            f"{field}: expected a list of at least one token id, got shape {tokens.shape}.",
            field=field,
        )


def check_num_data(num_data: int, *, field: str, limits: Limits) -> None:
    """A training request has 1 to ``limits.max_data`` data."""
    if num_data == 0:
        raise InvalidRequestError(f"{field}: expected at least one datum, got none.", field=field)
    check_limit(
        num_data, limits.max_data, field=field, setting="max_data", what="data in one request"
    )
