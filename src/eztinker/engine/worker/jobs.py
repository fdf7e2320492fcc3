"""What each ordered command does, as generators that yield between units of work.

A generator returns the event that answers the command, and changes ``Residents`` only in its last unit,
so dropping it undoes everything. It may yield sampling requests that it waits for. Knows no queue;
``ordered_work.py`` drives it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

from eztinker.engine.worker.adapter_import import imported_run
from eztinker.engine.worker.base_model import BaseModel, load_base_model
from eztinker.engine.worker.devices import give_back_freed_memory
from eztinker.engine.worker.evaluation import check_items, score
from eztinker.engine.worker.residents import Residents
from eztinker.engine.worker.rows import SampleRequest
from eztinker.engine.worker.run_state import new_run, optim_step
from eztinker.engine.worker.state import read_into, write_state
from eztinker.engine.worker.trainer import executed_plan
from eztinker.errors import InvalidRequestError, ServerError
from eztinker.types.codec import encode
from eztinker.types.commands import (
    CloseRun,
    ImportAdapter,
    LoadBaseModel,
    OpenRun,
    ReadState,
    RunEvaluate,
    RunOptimStep,
    UnloadBaseModel,
    WriteState,
)
from eztinker.types.events import (
    AdapterImported,
    BaseModelLoaded,
    Event,
    JobDone,
    StateRead,
    StateWritten,
)
from eztinker.types.operations import EvaluationItem, RunCreated, Sample
from eztinker.types.plans import PassPlan
from eztinker.types.sampling import SamplingParams, WeightsRef
from eztinker.types.training import resident_key

Job = Generator[list[SampleRequest] | None, None, Event | None]


def run_load_base_model(residents: Residents, command: LoadBaseModel) -> Job:
    """Read a base model's weights unless they are resident."""
    base = _resident_base_model(residents, command)
    decoder = base.decoder
    return BaseModelLoaded(
        epoch=residents.settings.epoch,
        base_model=base.name,
        architecture=base.architecture,
        num_parameters=decoder.num_parameters,
        context_length=decoder.context_length,
        vocab_size=decoder.vocab_size,
        dtype=str(decoder.dtype).removeprefix("torch."),
        device=str(decoder.device),
        size_bytes=decoder.held_bytes,
        quantization=base.quantization,
    )
    yield


def unload_base_model(residents: Residents, command: UnloadBaseModel) -> Job:
    """Forget a base model and give its memory back."""
    residents.drop_base_model(command.base_model, command.quantization)
    give_back_freed_memory(residents.device)
    return None
    yield


def open_run(residents: Residents, command: OpenRun) -> Job:
    """A fresh adapter, or the state in the snapshot folder."""
    base = residents.base_model(command.base_model, command.quantization)
    run = new_run(command.run_id, base, command.lora, command.seed)
    if command.snapshot_folder is not None:
        run = read_into(run, Path(command.snapshot_folder), with_optimizer=True)
    residents.runs[command.run_id] = run
    spec = run.weights.spec
    result = RunCreated(
        run_id=command.run_id,
        device=str(residents.device),
        num_trainable_parameters=spec.num_parameters,
        target_modules=spec.target_names(base.decoder.sites),
    )
    return JobDone(residents.settings.epoch, command.job_id, encode(result))
    yield


def close_run(residents: Residents, command: CloseRun) -> Job:
    """Forget a run."""
    residents.runs.pop(command.run_id, None)
    return None
    yield


def run_optim_step(residents: Residents, command: RunOptimStep) -> Job:
    """An optimizer step."""
    run, result = optim_step(residents.run(command.run_id), command.operation.adam)
    residents.runs[command.run_id] = run
    return JobDone(residents.settings.epoch, command.job_id, encode(result))
    yield


def run_write_state(residents: Residents, command: WriteState) -> Job:
    """Write a run's files (here; the worker runs it in a thread for a background write)."""
    run, folder = residents.run(command.run_id), Path(command.folder)
    hashes = write_state(run, folder, with_optimizer=command.with_optimizer)
    size_bytes = sum((folder / name).stat().st_size for name in hashes)
    return StateWritten(
        residents.settings.epoch, command.job_id, command.run_id, run.step, hashes, size_bytes
    )
    yield


def run_import_adapter(residents: Residents, command: ImportAdapter) -> Job:
    """Write a foreign adapter as ours; the run that will use it comes later."""
    base = residents.base_model(command.base_model, command.quantization)
    run = imported_run(command.run_id, base, Path(command.source_folder))
    files = write_state(run, Path(command.folder), with_optimizer=False)
    return AdapterImported(residents.settings.epoch, command.job_id, run.weights.spec.config, files)
    yield


def run_read_state(residents: Residents, command: ReadState) -> Job:
    """Replace a run's state."""
    run = residents.run(command.run_id)
    run = read_into(run, Path(command.folder), with_optimizer=command.with_optimizer)
    residents.runs[command.run_id] = run
    return StateRead(residents.settings.epoch, command.job_id, command.run_id, run.step)
    yield


def run_evaluate(residents: Residents, command: RunEvaluate) -> Job:
    """Score responses; missing ones are written first, by the same weights."""
    run, operation = residents.run(command.run_id), command.operation
    decoder = run.base.decoder
    check_items(decoder, operation.items, operation.temperature)
    missing = [i for i, item in enumerate(operation.items) if len(item.response_tokens) == 0]
    items = list(operation.items)
    if missing:
        sampler = residents.sampler_of(run.base)
        requests = [
            sampler.submit(command.job_id, _response_of(command, i), run.weights, run.step)
            for i in missing
        ]
        yield requests
        for i, request in zip(missing, requests, strict=True):
            items[i] = _completed(items[i], request, i)
    lengths = [len(item.prompt_tokens) + len(item.response_tokens) for item in items]
    batches = command.plan.micro_batches or plan_by_length(
        lengths, residents.settings.micro_batch_tokens
    )
    plan = replace(command.plan, micro_batches=batches)
    check_plan(plan, len(items))
    result = yield from score(decoder, run.weights, items, operation.temperature, batches)
    plan = executed_plan(plan, batches, decoder.dtype)
    return JobDone(residents.settings.epoch, command.job_id, encode(result), plan)


def check_plan(plan: PassPlan, num_data: int) -> None:
    """Refuse a plan that does not name every datum exactly once.

    Raises:
        ServerError: the planner's fault.
    """
    planned = sorted(i for batch in plan.micro_batches for i in batch)
    if planned != list(range(num_data)) or not all(plan.micro_batches):
        raise ServerError(
            f"The plan does not cover {num_data} data exactly once: {plan.micro_batches}."
        )


def plan_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Items sorted by length, in micro-batches whose padded size stays within ``max_tokens``."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= max_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _resident_base_model(residents: Residents, command: LoadBaseModel) -> BaseModel:
    known = residents.base_models.get(resident_key(command.base_model, command.quantization))
    if known is not None:
        if known.folder != Path(command.folder):
            raise InvalidRequestError(
                f"Base model {command.base_model!r} is already loaded from {known.folder}; give the other "
                "one another name.",
                field="base_model",
            )
        return known
    twin = residents.base_model_in(Path(command.folder), command.quantization)
    if twin is not None:
        return residents.share_base_model(command.base_model, twin)
    kept = residents.settings.known_logits
    base = load_base_model(
        command.base_model,
        Path(command.folder),
        quantization=command.quantization,
        device=residents.device,
        dtype=residents.settings.dtype,
        known_logits=Path(kept) if kept else None,
        num_copies=command.num_copies,
    )
    residents.add_base_model(base, command.cache_tokens)
    return base


def _response_of(command: RunEvaluate, i: int) -> Sample:
    operation = command.operation
    return Sample(
        weights=WeightsRef(base_model="", run_id=command.run_id),
        prompt_tokens=operation.items[i].prompt_tokens,
        params=SamplingParams(
            max_tokens=operation.max_new_tokens,
            temperature=operation.temperature,
            seed=operation.seed + i,
        ),
    )


def _completed(item: EvaluationItem, request: SampleRequest, number: int) -> EvaluationItem:
    import numpy as np

    if request.error is not None:
        raise request.error
    tokens = request.sequences[0].tokens
    if not tokens:
        raise InvalidRequestError(
            f"batches[{number}]: the prompt leaves no room in the model's context for a response.",
            field="batches",
        )
    return EvaluationItem(item.prompt_tokens, np.array(tokens, dtype=np.int32))
