"""Quantization in a base model's name: ``nano:nf4`` is nano with its linear layers held in nf4.

So whoever names a model (a teacher, a judge, an OpenAI client) can ask for it without a field of its own; clients of
the Tinker protocol cut what follows a colon off before they look for a tokenizer. Pure; knows no files. Called
by ``base_models.py``, ``admission.py``, ``runs.py`` and ``imports.py``.
"""

from __future__ import annotations

from importlib.util import find_spec

from eztinker.errors import InvalidRequestError, UnsupportedError
from eztinker.types.records import BaseModelRecord
from eztinker.types.training import MISSING_QLORA, Quantization

_KINDS: tuple[Quantization, ...] = ("nf4", "int8")


def split_name(name: str) -> tuple[str, Quantization]:
    """A model's name without its quantization, and that."""
    for kind in _KINDS:
        bare = name.removesuffix(f":{kind}")
        if bare and bare != name:
            return bare, kind
    return name, "none"


def quantization_for(base: BaseModelRecord, asked: Quantization) -> Quantization:
    """How a run holds a base model, from the model's name and from what was asked beside it.

    Raises:
        InvalidRequestError: they say different things.
    """
    if "none" not in (base.quantization, asked) and asked != base.quantization:
        raise InvalidRequestError(
            f"quantization: {base.name[:200]} is held in {base.quantization}, got {asked[:100]!r} beside it. Send "
            "one of them.",
            field="quantization",
        )
    return asked if base.quantization == "none" else base.quantization


def check_quantization(quantization: str) -> None:
    """Whether this server can hold a model so.

    Raises:
        InvalidRequestError: there is no such quantization.
        UnsupportedError: code ``missing_extra``, bitsandbytes is not installed.
    """
    if quantization not in {"none", *_KINDS}:
        raise InvalidRequestError(
            f"quantization: expected none, nf4 or int8, got {quantization[:100]!r}.",
            field="quantization",
        )
    # The worker runs in this environment too; asked here, so that nothing is logged.
    if quantization != "none" and find_spec("bitsandbytes") is None:
        raise UnsupportedError(MISSING_QLORA, code="missing_extra", field="quantization")
