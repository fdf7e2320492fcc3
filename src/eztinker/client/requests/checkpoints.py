"""What the client asks about checkpoints: to save, load, keep and delete them."""

from __future__ import annotations

from eztinker.client import answers
from eztinker.client.answers import Json
from eztinker.client.request import Request, post, run_path, segment


def save_checkpoint(run_id: str, name: str, *, overwrite: bool = False) -> Request[Json]:
    """Save adapter and optimizer under a name; the answer says where. A name that exists is refused."""
    body = {"name": name, "overwrite": overwrite}
    return post(run_path(run_id, "save"), body, answers.result_of)


def load_checkpoint(
    run_id: str, name: str, *, with_optimizer: bool = True, source_run_id: str | None = None
) -> Request[Json]:
    """Put the run back to a checkpoint; ``with_optimizer=False`` starts a fresh optimizer.

    Args:
        run_id: the run whose state is replaced.
        name: of the checkpoint.
        with_optimizer: take over its optimizer too.
        source_run_id: the run that the checkpoint belongs to, with the same base model and adapter settings;
            default this one.
    """
    body = {"name": name, "with_optimizer": with_optimizer, "source_run_id": source_run_id}
    return post(run_path(run_id, "load"), body, answers.result_of)


def get_checkpoints(run_id: str | None = None) -> Request[list[Json]]:
    """Checkpoints of a run (None: of all): ``name``, ``run_id``, ``created_at``, ``size_bytes``, …"""
    path = "/v1/checkpoints" if run_id is None else run_path(run_id, "checkpoints")
    return Request("GET", path, answers.rows("checkpoints"))


def get_checkpoint_files(run_id: str, name: str) -> Request[list[Json]]:
    """Name and size of every file of a checkpoint."""
    path = run_path(run_id, f"checkpoints/{segment(name, 'name')}/files")
    return Request("GET", path, answers.rows("files"))


def keep_checkpoint(
    run_id: str, checkpoint_name: str, *, pinned: bool | None = None, score: float | None = None
) -> Request[Json]:
    """Pin a checkpoint (no rule and no budget deletes it), or say how good it is; more is better."""
    last = segment(checkpoint_name, "checkpoint_name")
    body = {
        key: value for key, value in {"pinned": pinned, "score": score}.items() if value is not None
    }
    return Request("PATCH", run_path(run_id, f"checkpoints/{last}"), answers.same, json=body)


def prune_checkpoints(
    run_id: str | None = None,
    *,
    keep_last: int | None = None,
    keep_best: int | None = None,
    dry_run: bool = False,
) -> Request[Json]:
    """Delete checkpoints by rules and budgets; with ``dry_run`` only say which would go.

    Args:
        run_id: of this run only; None: of all.
        keep_last: newest ones of each run that stay; None takes the server's rule.
        keep_best: those with the highest scores that stay; None takes the server's rule.
        dry_run: delete nothing.

    Returns:
        ``{"dry_run", "checkpoints": [{"run_id", "name", "size_bytes", "reason"}], "freed_bytes"}``.
    """
    body = {"run_id": run_id, "keep_last": keep_last, "keep_best": keep_best, "dry_run": dry_run}
    return post("/v1/checkpoints/prune", body, answers.same)


def delete_checkpoint(run_id: str, checkpoint_name: str) -> Request[Json]:
    """Delete a checkpoint."""
    last = segment(checkpoint_name, "checkpoint_name")
    return Request("DELETE", run_path(run_id, f"checkpoints/{last}"), answers.same)
