"""A foreign LoRA adapter as one of ours: the same function of the input, with one rank and one scaling.

An adapter of ours has one rank r and one scaling s for all its layers. A layer of lower rank gets rows of zeros in
A and columns of zeros in B: they add nothing, and since each is multiplied by the other in every gradient, they
stay zero in training too. A layer of another scaling t gets (t/s)·B. Ranks and scalings that are the same everywhere
are kept, and then the numbers are the adapter's own. Called by ``jobs.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from eztinker.engine.worker.base_model import BaseModel
from eztinker.engine.worker.lora import AdapterSpec, AdapterWeights, LinearSite
from eztinker.engine.worker.optimizer import AdamState
from eztinker.engine.worker.peft_folder import LoRAModule, PeftFolder, read_peft_folder
from eztinker.engine.worker.run_state import RunState
from eztinker.errors import InvalidRequestError
from eztinker.types.training import LoRAConfig


def imported_run(run_id: str, base: BaseModel, folder: Path) -> RunState:
    """The state of a run that begins with an adapter.

    Args:
        run_id: of the run to be.
        base: its base model.
        folder: in PEFT's layout.

    Raises:
        UserError: as in ``read_peft_folder``; code ``other_architecture`` if its layers are not the model's.
    """
    adapter = read_peft_folder(folder)
    decoder = base.decoder
    sites = _sites(adapter.modules, decoder.sites, base)
    head_VD = decoder.head(None).weight_VD
    adapter.check_base_weights({site.name: head_VD for site in sites if site.is_head})
    config = _config(adapter, sites)
    spec = AdapterSpec(base.name, config, tuple(sites), len(decoder.sites))
    by_name = {module.name: module for module in adapter.modules}
    parts = [part for site in sites for part in _matrices(by_name[site.name], config)]
    flat_P = torch.cat([part.flatten() for part in parts]).to(decoder.device)
    weights = AdapterWeights(spec, flat_P, decoder.dtype)
    return RunState(run_id, base, 0, weights, AdamState.fresh(flat_P))


def _sites(
    modules: Sequence[LoRAModule], sites: Sequence[LinearSite], base: BaseModel
) -> list[LinearSite]:
    """The adapted layers in the model's order."""
    by_name = {site.name: site for site in sites}
    for module in modules:
        site = by_name.get(module.name)
        wanted = None if site is None else (site.in_features, site.out_features)
        found = module.a.shape[1], module.b.shape[0]
        if wanted != found:
            there = (
                "no such linear layer" if wanted is None else f"{wanted[0]} to {wanted[1]} features"
            )
            raise InvalidRequestError(
                f"The adapter does not belong to {base.name} ({base.architecture}): it changes {module.name}, "
                f"{found[0]} to {found[1]} features; the model has {there}. Name the adapter's own base "
                "model.",
                code="other_architecture",
                field="base_model",
            )
    adapted = {module.name for module in modules}
    return [site for site in sites if site.name in adapted]


def _config(adapter: PeftFolder, sites: Sequence[LinearSite]) -> LoRAConfig:
    rank = max(module.rank for module in adapter.modules)
    # The commonest scaling, so that as few numbers as possible are multiplied.
    scaling = Counter(module.scaling for module in adapter.modules).most_common(1)[0][0]
    return LoRAConfig(
        r=rank,
        lora_alpha=scaling * rank,
        lora_dropout=adapter.dropout,
        target_modules=tuple(site.name for site in sites),
    )


def _matrices(module: LoRAModule, config: LoRAConfig) -> tuple[Tensor, Tensor]:
    missing = config.r - module.rank
    b = (
        module.b
        if module.scaling == config.scaling
        else module.b * (module.scaling / config.scaling)
    )
    return pad(module.a, (0, 0, 0, missing)), pad(b, (0, missing))
