"""A training run as the algorithms need it: create one, find it again, fetch its tokenizer.

Thin over the client; the server owns the run. Called by ``rejection_sampler.py`` and the recipes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

from eztinker.client.default import default_client
from eztinker.errors import NotFoundError

_tokenizers: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def create_training_run(
    base_model: str,
    lora_rank: int = 1,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.05,
    *,
    target_modules: str | Sequence[str] = "all-linear",
    run_id: str | None = None,
    seed: int | None = None,
    quantization: Literal["none", "nf4", "int8"] | None = None,
    client: Any = None,
) -> str:
    """Create a run (an adapter with its optimizer) on the server; its id.

    Args:
        base_model: a name the server can resolve, ``nano`` for the built-in one, or a folder.
        lora_rank: rank of the adapter, 1 and up.
        lora_alpha: the adapter is scaled by alpha/rank; None takes twice the rank.
        lora_dropout: 0 up to below 1, on the adapter's input while training.
        target_modules: ``"all-linear"`` or names of modules, for GPT-2 ``["c_attn", "c_proj"]``.
        run_id: a name of your own; refused if it exists.
        seed: of the adapter's initial weights.
        quantization: of the base model: ``none``, ``nf4`` or ``int8``.
    """
    modules = target_modules if isinstance(target_modules, str) else list(target_modules)
    return (client or default_client()).create_run(
        base_model,
        lora_rank=lora_rank,
        lora_alpha=2 * lora_rank if lora_alpha is None else lora_alpha,
        run_id=run_id,
        lora_config={"lora_dropout": lora_dropout, "target_modules": modules},
        quantization=quantization,
        seed=seed,
    )


def tokenizer_of_run(client: Any, run_id: str) -> Any:
    """The tokenizer of a run's base model, fetched once for each client.

    Raises:
        NotFoundError: the server has no such run.
    """
    known = _tokenizers.setdefault(client, {})
    if run_id not in known:
        base_model = find_run(client, run_id)["base_model"]
        key = f"base_model:{base_model}"
        known[key] = known.get(key) or client.get_tokenizer(base_model)
        known[run_id] = known[key]
    return known[run_id]


def find_run(client: Any, run_id: str) -> dict[str, Any]:
    """What the server says of a run.

    Raises:
        NotFoundError: there is no such run.
    """
    for run in client.get_runs():
        if run["run_id"] == run_id:
            return run
    raise NotFoundError(
        f"The server has no run {run_id!r}. Create one with create_training_run(…).",
        code="run_not_found",
        field="run_id",
    )
