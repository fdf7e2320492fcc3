"""What lives in a worker: base models with their samplers, runs, and adapters read for sampling.

A lookup that fails says what is missing. Knows no commands and no queue; ``jobs.py`` and
``sampling_work.py`` use it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import torch

from eztinker.engine.worker.base_model import BaseModel
from eztinker.engine.worker.cuda_recorder import CudaRecorder
from eztinker.engine.worker.devices import default_cache_tokens
from eztinker.engine.worker.lora import AdapterWeights
from eztinker.engine.worker.run_state import RunState
from eztinker.engine.worker.sampler import Sampler
from eztinker.engine.worker.state import ADAPTER_WEIGHTS, read_adapter
from eztinker.errors import NotFoundError, StorageError
from eztinker.types.commands import RunSample, WorkerSettings
from eztinker.types.training import Quantization, resident_key

_MAX_CHECKPOINT_ADAPTERS = 8


class Residents:
    """Everything that is in memory.

    Args:
        settings: the worker's.
        device: where it all lies.

    Attributes:
        base_models: by ``BaseModel.key``.
        samplers: of the base models, by the same.
        runs: current states by run id.
    """

    def __init__(self, settings: WorkerSettings, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self.base_models: dict[str, BaseModel] = {}
        self.samplers: dict[str, Sampler] = {}
        self.runs: dict[str, RunState] = {}
        self._checkpoints: OrderedDict[tuple[str, str, int], tuple[AdapterWeights, int]] = (
            OrderedDict()
        )

    def add_base_model(self, base: BaseModel, cache_tokens: int = 0) -> None:
        """Keep a base model and give it a sampler.

        Args:
            base: the model.
            cache_tokens: what the memory budget leaves its cache; 0 where nobody knows. Never more than a quarter of
                the memory that is free.
        """
        free = default_cache_tokens(self.device, base.decoder.cache_bytes_per_token)
        tokens = self.settings.kv_cache_tokens or min(cache_tokens or free, free)
        self.base_models[base.key] = base
        records = self.device.type == "cuda" and self.settings.cuda_graphs
        self.samplers[base.key] = Sampler(
            base,
            tokens,
            deterministic=self.settings.deterministic,
            recorder=CudaRecorder(self.device) if records else None,
        )

    def share_base_model(self, name: str, known: BaseModel) -> BaseModel:
        """Give a resident base model a further name; weights, cache and sampler stay one."""
        base = replace(known, name=name)
        self.base_models[base.key] = base
        self.samplers[base.key] = self.samplers[known.key]
        return base

    def base_model_in(self, folder: Path, quantization: Quantization) -> BaseModel | None:
        """The resident base model read from a folder, whatever its name."""
        wanted = (folder.resolve(), quantization)
        return next(
            (
                b
                for b in self.base_models.values()
                if (b.folder.resolve(), b.quantization) == wanted
            ),
            None,
        )

    def drop_base_model(self, name: str, quantization: Quantization) -> None:
        """Forget a base model under all its names, with its runs and the adapters read for it."""
        known = self.base_models.get(resident_key(name, quantization))
        if known is None:
            return
        keys = {k for k, base in self.base_models.items() if base.decoder is known.decoder}
        for key in keys:
            del self.base_models[key], self.samplers[key]
        for run_id in [i for i, run in self.runs.items() if run.base.decoder is known.decoder]:
            del self.runs[run_id]
        for place in [place for place in self._checkpoints if place[0] in keys]:
            del self._checkpoints[place]

    def put_last(self, sampler: Sampler) -> None:
        """Move a sampler, under all its names, behind the others."""
        for name in [name for name, known in self.samplers.items() if known is sampler]:
            self.samplers[name] = self.samplers.pop(name)

    def base_model(self, name: str, quantization: Quantization = "none") -> BaseModel:
        """A resident base model.

        Raises:
            NotFoundError: it is not loaded.
        """
        key = resident_key(name, quantization)
        if key not in self.base_models:
            raise NotFoundError(
                f"Base model {name!r} is not loaded in this worker.", field="base_model"
            )
        return self.base_models[key]

    def sampler_of(self, base: BaseModel) -> Sampler:
        """What generates with a base model."""
        return self.samplers[base.key]

    def run(self, run_id: str) -> RunState:
        """A resident run.

        Raises:
            NotFoundError: it is not open.
        """
        if run_id not in self.runs:
            raise NotFoundError(f"Run {run_id!r} is not open in this worker.", field="run_id")
        return self.runs[run_id]

    def weights_for(self, command: RunSample) -> tuple[Sampler, AdapterWeights | None, int]:
        """What generates for a sampling request, the adapter it names, and the optimizer steps behind that."""
        ref = command.operation.weights
        if ref.run_id is not None and command.checkpoint_folder is None:
            run = self.run(ref.run_id)
            return self.sampler_of(run.base), run.weights, run.step
        base = self.base_model(ref.base_model, command.quantization)
        if command.checkpoint_folder is None:
            return self.sampler_of(base), None, 0
        return self.sampler_of(base), *self._checkpoint(base, Path(command.checkpoint_folder))

    def _checkpoint(self, base: BaseModel, folder: Path) -> tuple[AdapterWeights, int]:
        """An adapter from files; a folder that was replaced is read again."""
        try:
            written_ns = (folder / ADAPTER_WEIGHTS).stat().st_mtime_ns
        except OSError as error:
            raise StorageError(f"{folder} holds no {ADAPTER_WEIGHTS}.") from error
        key = (base.key, str(folder), written_ns)
        if key not in self._checkpoints:
            self._checkpoints[key] = read_adapter(base, folder)
        self._checkpoints.move_to_end(key)
        while len(self._checkpoints) > _MAX_CHECKPOINT_ADAPTERS:
            self._checkpoints.popitem(last=False)
        return self._checkpoints[key]
