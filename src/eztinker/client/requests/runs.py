"""What the client asks about runs: to make, list and delete them, and what they have done."""

from __future__ import annotations

from typing import Any, Literal

from eztinker.client import answers
from eztinker.client.answers import Json
from eztinker.client.request import Request, mapping, post, run_path


def get_runs(base_model: str | None, offset: int) -> Request[Json]:
    """One page of the runs, newest first: the rows under ``runs``, and ``total``."""
    return Request("GET", "/v1/runs", answers.same, {"base_model": base_model, "offset": offset})


def create_run(
    base_model: str,
    lora_rank: int = 8,
    lora_alpha: float = 16,
    run_id: str | None = None,
    *,
    lora_config: Any = None,
    loss_config: Any = None,
    quantization: Literal["none", "nf4", "int8"] | None = None,
    seed: int | None = None,
) -> Request[str]:
    """Create a run, an adapter with its optimizer on a base model, and return its id.

    Args:
        base_model: name, alias or folder as the server knows it.
        lora_rank: rank of the adapter.
        lora_alpha: the update is scaled by alpha / rank.
        run_id: a name of your own; one that exists is refused.
        lora_config: dict or ``LoRAConfig``; its keys win over ``lora_rank`` and ``lora_alpha``.
        loss_config: dict or ``LossFunctionConfig``: what ``forward_backward`` uses by default.
        quantization: of the base weights.
        seed: of the adapter's initial weights and of dropout.
    """
    body = {
        "base_model": base_model,
        "run_id": run_id,
        "lora_config": {"r": lora_rank, "lora_alpha": lora_alpha} | mapping(lora_config),
        "loss_config": None if loss_config is None else mapping(loss_config),
        "quantization": quantization,
        "seed": seed,
    }
    return post("/v1/runs", body, answers.run_id)


def get_log(run_id: str, after: int | None = None, limit: int | None = None) -> Request[list[Json]]:
    """What a run has done, oldest first: its ended operations with the numbers of their results.

    Args:
        run_id: the run.
        after: the ``seq`` of the last entry already seen.
        limit: most entries, 100 unless told, at most 1,000.
    """
    return Request(
        "GET", run_path(run_id, "log"), answers.rows("entries"), {"after": after, "limit": limit}
    )


def import_run(
    archive: bytes,
    base_model: str | None = None,
    *,
    run_id: str | None = None,
    quantization: Literal["none", "nf4", "int8"] | None = None,
) -> Request[str]:
    """Make a run of an adapter, a tar archive of its two files; its id."""
    params = {"base_model": base_model, "run_id": run_id, "quantization": quantization}
    return Request("POST", "/v1/runs/import", answers.run_id, params, archive=archive)


def delete_run(run_id: str) -> Request[Json]:
    """Cancel a run's jobs and delete it; its checkpoints stay."""
    return Request("DELETE", run_path(run_id), answers.same)
