"""``estimate``: the memory that a model, a run and its work will take, before any of it is loaded.

Reads the model's configuration and the headers of its files; needs no server and imports no torch.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eztinker.cli.options import AsJson
from eztinker.cli.output import note, print_json, print_table, size_text
from eztinker.cli.texts import say
from eztinker.errors import OutOfMemoryError

if TYPE_CHECKING:
    from eztinker.config import ServerConfig
    from eztinker.engine.memory_model import Estimate
    from eztinker.types.records import BaseModelRecord

_PARTS = (
    "engine",
    "weights",
    "copies",
    "loading",
    "run",
    "training",
    "sampling",
    "resident",
    "peak",
)


def estimate(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_default=False)],
    rank: Annotated[int, typer.Option("--rank", min=1, help=say("create rank"))] = 8,
    batch: Annotated[int, typer.Option("--batch", min=1, help=say("estimate batch"))] = 8,
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help=say("estimate seq-len"))] = 512,
    num_samples: Annotated[
        int, typer.Option("--num-samples", min=0, help=say("estimate num-samples"))
    ] = 0,
    quantization: Annotated[
        Literal["none", "nf4", "int8"],
        typer.Option("--quantization", help=say("create quantization")),
    ] = "none",
    dtype: Annotated[str | None, typer.Option("--dtype", help=say("server dtype"))] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option("--device", help=say("estimate device"))
    ] = "cpu",
    memory_budget: Annotated[
        float | None,
        typer.Option("--memory-budget", min=0, metavar="GB", help=say("server memory-budget")),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the parts of the sum; exit code 6 if it does not fit."""
    from eztinker.config import load_config

    settings = load_config({"dtype": dtype, "memory_budget_gb": memory_budget})
    base = _find(settings, model)
    room = _room(settings, device)
    facts = (rank, seq_len, num_samples)
    found = _estimate(settings, base, device, quantization, batch, *facts, room or 0)
    # A server makes its micro-batches smaller before it refuses; so does this.
    while room is not None and batch > 1 and found.peak - found.engine > room:
        batch -= 1
        found = _estimate(settings, base, device, quantization, batch, *facts, room or 0)
    fits = None if room is None else found.peak - found.engine <= room
    if as_json:
        sums = {"resident": found.resident, "peak": found.peak, "room_for_models": room}
        print_json({"model": model, **asdict(found), **sums, "fits": fits})
    else:
        _show(found)
    if fits is False:
        raise OutOfMemoryError(
            say(
                "estimate too large",
                needed=size_text(found.peak - found.engine),
                room=size_text(room or 0),
            )
        )
    note(say("estimate fits" if fits else "estimate unknown", room=size_text(room or 0)))


def peak_bytes(model: str, *, rank: int, batch: int, seq_len: int, quantization: str) -> int:
    """Memory at its highest for training on a CPU, for other commands; raises where the model is not here."""
    from eztinker.config import load_config

    settings = load_config()
    base = _find(settings, model)
    room = _room(settings, "cpu") or 0
    return _estimate(settings, base, "cpu", quantization, batch, rank, seq_len, 0, room).peak


def _find(settings: ServerConfig, model: str) -> BaseModelRecord:
    import asyncio

    from eztinker.service.base_models import BaseModels

    return asyncio.run(BaseModels(settings).resolve(model))


def _estimate(
    settings: ServerConfig,
    base: BaseModelRecord,
    device: str,
    quantization: Any,
    batch: int,
    rank: int,
    seq_len: int,
    num_samples: int,
    room_bytes: int,
) -> Estimate:
    from pathlib import Path

    from eztinker.engine import memory_model
    from eztinker.engine.model_shape import read_shape
    from eztinker.service.quantized_names import quantization_for

    shape = read_shape(Path(base.folder))
    return memory_model.estimate(
        shape,
        quantization=quantization_for(base, quantization),
        dtype=memory_model.compute_dtype(settings.dtype, device, shape.num_parameters),
        rank=rank,
        batch=batch,
        seq_len=min(seq_len, base.context_length),
        micro_batch_tokens=settings.micro_batch_tokens,
        num_samples=num_samples,
        device_type=device,
        room_bytes=room_bytes,
    )


def _room(settings: ServerConfig, device: str) -> int | None:
    """What a server with these settings would have for models; None where only the device can tell."""
    from eztinker.engine.machine_memory import machine_memory_bytes
    from eztinker.engine.memory_model import UNBOUNDED, room_for_models

    memory_bytes = machine_memory_bytes() if device == "cpu" else 0
    room = room_for_models(memory_bytes, settings.memory_budget_gb, device)
    return None if room == UNBOUNDED else room


def _show(found: Estimate) -> None:
    facts = f"{found.num_parameters / 1e6:.1f} M, {found.dtype}, {found.quantization}"
    rows = [(say(f"estimate {part}"), size_text(getattr(found, part))) for part in _PARTS]
    rows[1] = (f"{rows[1][0]} ({facts})", rows[1][1])
    rows[5] = (f"{rows[5][0]} ({found.micro_batch_tokens} tokens)", rows[5][1])
    print_table(("", ""), rows)
