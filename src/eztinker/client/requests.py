"""What the client asks: one pure function per operation of the native API, giving a ``Request``.

The signatures and docstrings here are those of the two clients, which are made from them (``methods.py``).
Knows the routes, fields and defaults of the API and which parser reads each answer; nothing of connections,
retries or waiting. Values that the caller leaves at None are not sent, so that the server's own default
holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from eztinker.client import answers
from eztinker.client.answers import Json
from eztinker.client.request import Request, mapping, plain, post, run_path, segment
from eztinker.errors import InvalidRequestError

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
"""Text, token ids, or the messages of a chat."""
Stop = str | Sequence[str] | Sequence[int]
"""Texts that end an answer, or token ids that do."""


# Service and runs ---------------------------------------------------------------------------------


def health() -> Request[Json]:
    """``{"status": "ok", "version", "timestamp", …}``."""
    return Request("GET", "/health", answers.same)


def get_models() -> Request[list[Json]]:
    """Base models, runs and checkpoints that can be sampled, in OpenAI's shape with further fields."""
    return Request("GET", "/v1/models", answers.rows("data"))


def get_tokenizer(base_model: str) -> Request[dict[str, str]]:
    """Tokenizer files of a base model, whose name may hold slashes."""
    path = f"/v1/base_models/{segment(base_model, 'base_model')}/tokenizer"
    return Request("GET", path, answers.files)


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


# Training -----------------------------------------------------------------------------------------


def forward_backward(
    run_id: str,
    input_ids: Any = None,
    target_ids: Any = None,
    weights: Any = None,
    *,
    data: Sequence[Any] | None = None,
    loss_fn: str | None = None,
    loss_fn_config: Mapping[str, Any] | None = None,
) -> Request[Json]:
    """Add the gradient of a loss to what the run has gathered since its last ``optim_step``.

    Args:
        run_id: the run.
        input_ids: token ids of one sequence [T], as a list, array or tensor.
        target_ids: labels [T] aligned with ``input_ids`` (the server shifts, -100 is ignored); default
            ``input_ids``, which is plain language modelling.
        weights: one per label [T]; default 1 each.
        data: a list of sequences as dicts of these three, instead of them; also with ``logprobs`` and
            ``advantages`` for the losses that need them.
        loss_fn: instead of the run's loss.
        loss_fn_config: settings of the loss; ``{"reduction": "sum"}`` sums instead of averaging.

    Returns:
        ``{"loss", "batches", "num_tokens", "logprobs", "metrics"}``: ``loss`` is the mean over the labels of
        the whole request, ``num_tokens`` how many count.
    """
    fields = {"input_ids": input_ids, "target_ids": target_ids, "weights": weights}
    body = _pass_body(fields, data) | {"loss_fn": loss_fn, "loss_fn_config": loss_fn_config}
    return post(run_path(run_id, "forward_backward"), body, answers.result_of)


def forward(
    run_id: str,
    input_ids: Any = None,
    target_ids: Any = None,
    weights: Any = None,
    *,
    data: Sequence[Any] | None = None,
    loss_fn: str | None = None,
    loss_fn_config: Mapping[str, Any] | None = None,
) -> Request[Json]:
    """``forward_backward`` without a gradient."""
    fields = {"input_ids": input_ids, "target_ids": target_ids, "weights": weights}
    body = _pass_body(fields, data) | {"loss_fn": loss_fn, "loss_fn_config": loss_fn_config}
    return post(run_path(run_id, "forward"), body, answers.result_of)


def _pass_body(fields: Json, data: Sequence[Any] | None) -> Json:
    """One sequence or a list of them, never both."""
    given = [name for name, value in fields.items() if value is not None]
    if data is not None and given:
        raise InvalidRequestError(
            f"Got both data and {given[0]}. Put {', '.join(given)} into the entries of data.",
            field=given[0],
        )
    if data is not None:
        return {"data": [_datum(item) for item in data]}
    if "input_ids" not in given:
        raise InvalidRequestError(
            "Expected input_ids (one sequence) or data (a list of them), got neither.",
            field="input_ids",
        )
    return _datum(fields)


def _datum(item: Any) -> Json:
    return {name: plain(value) for name, value in mapping(item).items() if value is not None}


def optim_step(
    run_id: str,
    learning_rate: float = 2e-4,
    weight_decay: float = 0.01,
    *,
    betas: Sequence[float] | None = None,
    eps: float | None = None,
    grad_clip_norm: float | None = None,
) -> Request[Json]:
    """One AdamW step with the gathered gradient, which is then cleared.

    Args:
        run_id: the run.
        learning_rate: greater than 0; may change from step to step, the moments stay.
        weight_decay: decoupled, at least 0.
        betas: of AdamW; default (0.9, 0.999).
        eps: of AdamW; default 1e-8.
        grad_clip_norm: bound on the L2 norm of the whole gradient; default none.

    Returns:
        ``{"status": "optimizer_step_completed", "step", "grad_norm", "learning_rate"}``.
    """
    body = {
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "betas": None if betas is None else list(betas),
        "eps": eps,
        "grad_clip_norm": grad_clip_norm,
    }
    return post(run_path(run_id, "optim_step"), body, answers.result_of)


def evaluate(
    run_id: str,
    batches: Sequence[Any],
    temperature: float = 1.0,
    max_new_tokens: int = 50,
    *,
    seed: int | None = None,
) -> Request[Json]:
    """Score responses under the run's current weights.

    Args:
        run_id: the run.
        batches: dicts or ``EvaluationBatch``, each with ``prompt_ids`` and ``response_ids`` (or ``input_ids``
            and ``target_ids``); without a response the run answers first.
        temperature: divides the logits; greater than 0.
        max_new_tokens: bound on the responses that the run has to write.
        seed: of those responses.

    Returns:
        ``{"scores", "log_probs", "num_tokens"}``, one each per batch: mean loss over the response, mean
        log-probability, length of the response.
    """
    body = {
        "batches": [_datum(batch) for batch in batches],
        "temperature": temperature,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    return post(run_path(run_id, "evaluate"), body, answers.result_of)


# Sampling -----------------------------------------------------------------------------------------


def sample(
    prompt: Prompt,
    max_new_tokens: int = 100,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 50,
    do_sample: bool = True,
    *,
    run_id: str | None = None,
    checkpoint: str | None = None,
    base_model: str | None = None,
    num_samples: int | None = None,
    stop: Stop | None = None,
    seed: int | None = None,
    topk_prompt_logprobs: int | None = None,
) -> Request[Any]:
    """Continue a prompt.

    Args:
        prompt: text, token ids, or a list of ``{"role", "content"}`` messages.
        max_new_tokens: most tokens of an answer.
        temperature: 0 takes the likeliest token.
        top_p: nucleus mass in (0, 1].
        top_k: number of likeliest tokens to draw from; 0 or -1 is off.
        do_sample: False is temperature 0.
        run_id: that run's current weights answer.
        checkpoint: one of that run's checkpoints answers instead.
        base_model: that model answers, without an adapter. With none of these three the server's
            default model does.
        num_samples: that many independent answers.
        stop: texts (or token ids) that end an answer.
        seed: equal requests on equal weights give equal answers.
        topk_prompt_logprobs: also report so many likeliest tokens of every prompt position, in the job's
            result under this name.

    Returns:
        Without ``num_samples`` one text that **begins with the prompt**, as the HTTP API documents its
        ``generated_text``. With ``num_samples`` a list of the answers **without the prompt**. Tokens and
        log-probabilities: ``wait_for_job(submit_sample(…).job_id)["result"]["sequences"]``.
    """
    body = {
        **_prompt(prompt),
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "do_sample": do_sample,
        "run_id": run_id,
        "checkpoint": checkpoint,
        "base_model": base_model,
        "num_samples": num_samples,
        "stop": stop if stop is None or isinstance(stop, str) else list(stop),
        "seed": seed,
        "topk_prompt_logprobs": topk_prompt_logprobs,
    }
    return post(
        "/v1/sample", body, answers.generated_text if num_samples is None else answers.texts
    )


def get_logprobs(model: str, prompt: str | Sequence[int]) -> Request[list[float]]:
    """Log-probabilities of a prompt's tokens from the second on.

    Args:
        model: a base model, a run, or ``RUN@CHECKPOINT``.
        prompt: text or token ids, at least two tokens.
    """
    body = {"model": model, "prompt": plain(prompt), "echo": True, "max_tokens": 0, "logprobs": 0}
    return post("/v1/completions", body, answers.prompt_logprobs)


def _prompt(prompt: Any) -> Json:
    """A list of ``{"role", "content"}`` goes as ``messages``, anything else as ``prompt``."""
    prompt = plain(prompt)
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and prompt:
        if not isinstance(prompt[0], int):
            return {"messages": [mapping(message) for message in prompt]}
        return {"prompt": list(prompt)}
    return {"prompt": prompt}


# Checkpoints --------------------------------------------------------------------------------------


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


# Jobs ---------------------------------------------------------------------------------------------


def get_job(job_id: str) -> Request[Json]:
    """A job as it is now, with its place in the queue and why it waits."""
    return Request("GET", f"/v1/jobs/{segment(job_id, 'job_id')}", answers.same)


def get_jobs(
    run_id: str | None = None, status: str | None = None, limit: int = 100
) -> Request[list[Json]]:
    """The newest jobs, without their results; of one run or status only if given."""
    params = {"run_id": run_id, "status": status, "limit": limit}
    return Request("GET", "/v1/jobs", answers.rows("jobs"), params)


def cancel_job(job_id: str) -> Request[Json]:
    """Ask the server to stop a job; the answer is the job as it is then."""
    return Request("DELETE", f"/v1/jobs/{segment(job_id, 'job_id')}", answers.same)


# Keys ---------------------------------------------------------------------------------------------


def create_key(
    name: str,
    *,
    scopes: Sequence[Literal["read", "sample", "train", "admin"]] | None = None,
    owner: str | None = None,
    expires_in_s: float | None = None,
) -> Request[Json]:
    """Make a key; the answer holds it under ``key``, this once. Needs the scope ``admin``.

    Args:
        name: what the key is for.
        scopes: what it allows; None takes ``train`` and ``sample``.
        owner: whose things it reaches; None takes ``name``.
        expires_in_s: how long it works; None for ever.
    """
    wanted = None if scopes is None else list(scopes)
    body = {"name": name, "scopes": wanted, "owner": owner, "expires_in_s": expires_in_s}
    return post("/v1/keys", body, answers.same)


def get_keys() -> Request[list[Json]]:
    """All keys without the keys themselves, revoked ones included. Needs the scope ``admin``."""
    return Request("GET", "/v1/keys", answers.rows("keys"))


def revoke_key(key_id: str) -> Request[Json]:
    """Take a key back. Needs the scope ``admin``."""
    return Request("DELETE", f"/v1/keys/{segment(key_id, 'key_id')}", answers.same)
