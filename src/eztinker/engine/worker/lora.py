"""Low-rank adapters: their shape and their weights.

Who applies them: ``adapted_linear.py`` in models of transformers, ``lean_adapters.py`` in ours. Weights
are immutable; an optimizer step
makes new ones, so whoever still samples from the old ones keeps them. Orientation and names are PEFT's
(A [r, in], B [out, r], also for GPT-2's transposed ``Conv1D``). Knows no optimizer and no files.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eztinker.errors import InvalidRequestError, UnsupportedError, UserError
from eztinker.types.training import LoRAConfig

Pair = tuple[Tensor, Tensor]
"""(A [r, in], B [out, r])."""

_ATTENTION_PARTS = ("attn", "attention", "self_attention")
_MLP_PARTS = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_EMBEDDING_NAMES = ("embed_tokens", "wte", "wpe", "embed_in", "embed_positions", "word_embeddings")
_ATTENTION_NAMES = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "out_proj",
    "query_key_value",
)


@dataclass(frozen=True, slots=True)
class LinearSite:
    """A linear layer that an adapter can be put on.

    Attributes:
        index: its place among the model's linear layers.
        name: its path in the model, as PEFT writes it.
        is_head: whether it is the vocabulary head.
        is_transposed: ``Conv1D``, whose weight is [in, out].
    """

    index: int
    name: str
    in_features: int
    out_features: int
    is_head: bool = False
    is_transposed: bool = False


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """Shape of a run's adapter on one base model.

    Attributes:
        base_model: name of the base model.
        config: as requested.
        sites: the layers it is on, in the model's order.
        num_sites: linear layers of the base model.
    """

    base_model: str
    config: LoRAConfig
    sites: tuple[LinearSite, ...]
    num_sites: int

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(self.config.r * (site.in_features + site.out_features) for site in self.sites)

    @property
    def tensor_shapes(self) -> list[tuple[str, tuple[int, int]]]:
        """PEFT key and shape of every tensor, in the order of the flat vector."""
        r = self.config.r
        return [
            (f"base_model.model.{site.name}.lora_{part}.weight", shape)
            for site in self.sites
            for part, shape in (("A", (r, site.in_features)), ("B", (site.out_features, r)))
        ]

    def target_names(self, all_sites: Sequence[LinearSite]) -> list[str]:
        """Module names that make PEFT choose exactly these layers: short ones, else whole paths."""
        chosen = {site.name for site in self.sites}
        short = sorted({_short(name) for name in chosen})
        matched = {site.name for site in all_sites if any(_matches(site.name, s) for s in short)}
        return short if matched == chosen else sorted(chosen)


def choose_sites(config: LoRAConfig, sites: Sequence[LinearSite]) -> list[LinearSite]:
    """The layers that ``target_modules`` and the ``train_*`` switches name.

    A head that shares its weight with the embedding may have an adapter: it changes the logits only,
    and the embedding stays as it is (PEFT does the same with an adapter on ``lm_head``).

    Raises:
        InvalidRequestError: a name matches no layer, or nothing is left to train.
    """
    if isinstance(config.target_modules, str):
        if config.target_modules != "all-linear":
            return choose_sites_by_name([config.target_modules], sites)
        chosen = [site for site in sites if _wanted(site, config)]
    else:
        return choose_sites_by_name(list(config.target_modules), sites)
    _check_chosen(chosen)
    return chosen


def choose_sites_by_name(names: Sequence[str], sites: Sequence[LinearSite]) -> list[LinearSite]:
    """The layers whose path is one of ``names`` or ends in one (PEFT's rule for a list)."""
    for name in names:
        if not any(_matches(site.name, name) for site in sites):
            raise _unknown_module(name, sites)
    chosen = [site for site in sites if any(_matches(site.name, name) for name in names)]
    _check_chosen(chosen)
    return chosen


def _check_chosen(chosen: Sequence[LinearSite]) -> None:
    if not chosen:
        raise InvalidRequestError(
            "lora_config leaves no module to train: switch on train_attn, train_mlp or train_unembed.",
            field="lora_config",
        )


def _wanted(site: LinearSite, config: LoRAConfig) -> bool:
    if site.is_head:
        return config.train_unembed
    is_attention, is_mlp = _part_of(site.name)
    if is_attention:
        return config.train_attn
    return config.train_mlp if is_mlp else config.train_attn and config.train_mlp


def _part_of(name: str) -> tuple[bool, bool]:
    parts = name.split(".")
    is_attention = parts[-1] in _ATTENTION_NAMES or any(
        part in _ATTENTION_PARTS or part.endswith("_attn") for part in parts[:-1]
    )
    return is_attention, not is_attention and any(part in _MLP_PARTS for part in parts[:-1])


def _short(path: str) -> str:
    """The last name of a path; a number, which names a place in many lists, with its list before it."""
    parts = path.split(".")
    return ".".join(parts[-2:] if parts[-1].isdecimal() else parts[-1:])


def _matches(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _unknown_module(name: str, sites: Sequence[LinearSite]) -> UserError:
    if name.rpartition(".")[2] in _EMBEDDING_NAMES:
        return UnsupportedError(
            f"target_modules: {name!r} is an embedding, which is frozen here, quantised or not; adapters go "
            "on linear layers. Leave it out; train_unembed adapts the vocabulary head.",
            field="target_modules",
        )
    short = sorted({site.name.rpartition(".")[2] for site in sites})
    near = difflib.get_close_matches(name.rpartition(".")[2], short, n=3, cutoff=0.4)
    hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
    return InvalidRequestError(
        f"target_modules: no linear layer of this model is called {name!r}.{hint} "
        f"Available: {', '.join(short)}; or 'all-linear'.",
        code="unknown_module",
        field="target_modules",
    )


class AdapterWeights:
    """Weights of an adapter at one step; never changed.

    Attributes:
        flat_P: float32, all tensors one after another (see ``AdapterSpec.tensor_shapes``).
        leaf_P: the same numbers in the compute type, which gradients are taken of.
        pairs: for every linear layer of the model its (A, B), views of ``leaf_P``, or None.
    """

    def __init__(self, spec: AdapterSpec, flat_P: Tensor, dtype: torch.dtype) -> None:
        self.spec = spec
        self.flat_P = flat_P
        self.scaling = spec.config.scaling
        self.leaf_P = flat_P.detach().to(dtype).requires_grad_()
        shapes = self.spec.tensor_shapes
        with torch.enable_grad():
            parts = self.leaf_P.split(self.sizes)
            views = [part.view(shape) for part, (_, shape) in zip(parts, shapes, strict=True)]
        self.pairs: list[Pair | None] = [None] * spec.num_sites
        for place, site in enumerate(spec.sites):
            self.pairs[site.index] = (views[2 * place], views[2 * place + 1])

    def twin(self) -> AdapterWeights:
        """The same numbers with a gradient of their own."""
        return AdapterWeights(self.spec, self.flat_P, self.leaf_P.dtype)

    @property
    def sizes(self) -> list[int]:
        """Numbers of each tensor in ``flat_P``."""
        return [rows * columns for _, (rows, columns) in self.spec.tensor_shapes]

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for adapters whose products have the same shapes and the same factor."""
        return self.spec.config.r, self.scaling, self.leaf_P.dtype, self.spec.sites

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Float32 tensors by PEFT key."""
        parts, shapes = self.flat_P.split(self.sizes), self.spec.tensor_shapes
        return {key: part.view(shape) for part, (key, shape) in zip(parts, shapes, strict=True)}


def initial_weights(spec: AdapterSpec, seed: int) -> Tensor:
    """Flat float32 weights as PEFT starts them: A uniform in ±1/sqrt(in), B zero.

    PEFT's Kaiming initialisation with a = sqrt(5) has exactly that bound. Drawn on the CPU from its own
    generator: the same seed gives the same adapter on any device, whatever else runs.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for site in spec.sites:
        bound = 1 / math.sqrt(site.in_features)
        a = torch.empty(spec.config.r, site.in_features).uniform_(
            -bound, bound, generator=generator
        )
        parts += [a.flatten(), torch.zeros(site.out_features * spec.config.r)]
    return torch.cat(parts)


@dataclass(frozen=True, slots=True)
class Dropout:
    """Dropout on the adapters' input, reproducible: a layer's mask depends on seed and layer only.

    Attributes:
        probability: of dropping a number.
        seed: of this micro-batch.
        rows_N: where the rows at hand lie among all of the micro-batch; None where they are all.
        num_rows: of the micro-batch, where ``rows_N`` says so.
    """

    probability: float
    seed: int
    rows_N: Tensor | None = None
    num_rows: int = 0

    def mask(self, like: Tensor, layer: int) -> Tensor:
        """Factors 0 or 1 / (1 - probability), of the shape and type of ``like``.

        A number is kept by comparing 16 random bits, four numbers to one 64-bit draw: six times cheaper
        than a draw for each. The probability is therefore rounded to a multiple of 2^-16.
        """
        generator = torch.Generator(like.device).manual_seed((self.seed * 100_003 + layer) % 2**63)
        shape = like.shape if self.rows_N is None else (self.num_rows, *like.shape[1:])
        num_draws = -(-math.prod(shape) // 4)
        draws = torch.empty(num_draws, dtype=torch.int64, device=like.device)
        bits = draws.random_(-(2**63), None, generator=generator).view(torch.int16)
        dropped = round(self.probability * 2**16)
        kept = bits[: math.prod(shape)].view(shape) >= dropped - 2**15
        if self.rows_N is not None:
            kept = kept.index_select(0, self.rows_N)
        return kept.to(like.dtype).mul_(2**16 / (2**16 - dropped))
