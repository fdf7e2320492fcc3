from __future__ import annotations

import pytest
import torch

from eztinker.engine.worker.lora import (
    AdapterSpec,
    Dropout,
    LinearSite,
    choose_sites,
    initial_weights,
)
from eztinker.errors import InvalidRequestError
from eztinker.types.training import LoRAConfig

NAMES = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.o_proj",
    "model.layers.0.mlp.up_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.mlp.up_proj",
    "lm_head",
]
SITES = [LinearSite(i, name, 4, 6, is_head=name == "lm_head") for i, name in enumerate(NAMES)]
GPT2 = [
    LinearSite(i, f"transformer.h.0.{name}", 4, 6, is_transposed=True)
    for i, name in enumerate(["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"])
]


def chosen(sites=SITES, **config):
    picked = choose_sites(LoRAConfig(**config), sites)
    return [site.name.split(".", 2)[-1] for site in picked]


def test_all_linear_leaves_the_head_out():
    assert chosen() == [name.split(".", 2)[-1] for name in NAMES[:-1]]


def test_parts_can_be_switched():
    assert chosen(train_mlp=False) == [
        "0.self_attn.q_proj",
        "0.self_attn.o_proj",
        "1.self_attn.q_proj",
    ]
    assert chosen(train_attn=False) == ["0.mlp.up_proj", "1.mlp.up_proj"]
    assert chosen(train_attn=False, train_mlp=False, train_unembed=True) == ["lm_head"]
    with pytest.raises(InvalidRequestError, match="no module to train"):
        chosen(train_attn=False, train_mlp=False)


def test_gpt2_parts():
    assert chosen(GPT2, train_mlp=False) == ["0.attn.c_attn", "0.attn.c_proj"]
    assert chosen(GPT2, target_modules=("c_attn", "mlp.c_proj")) == [
        "0.attn.c_attn",
        "0.mlp.c_proj",
    ]


def test_names_match_whole_parts_of_the_path():
    assert chosen(target_modules=("q_proj",)) == ["0.self_attn.q_proj", "1.self_attn.q_proj"]
    assert chosen(target_modules=("layers.1.mlp.up_proj",)) == ["1.mlp.up_proj"]
    with pytest.raises(InvalidRequestError, match="'proj'"):
        chosen(target_modules=("proj",))


def test_unknown_name_is_refused_with_near_ones():
    with pytest.raises(
        InvalidRequestError, match=r"'qproj'.*Did you mean 'q_proj'.*Available: .*up_proj"
    ):
        chosen(target_modules=("qproj",))


def test_the_head_is_one_more():
    assert len(chosen(train_unembed=True)) == 6


def test_target_names_are_short_only_if_they_choose_the_same():
    config = LoRAConfig(train_mlp=False)
    attention = tuple(choose_sites(config, GPT2))
    spec = AdapterSpec("m", config, attention, 4)
    assert spec.target_names(GPT2) == ["transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj"]
    everything = AdapterSpec("m", LoRAConfig(), tuple(GPT2), 4)
    assert everything.target_names(GPT2) == ["c_attn", "c_fc", "c_proj"]


def test_a_number_is_no_target_name():
    """It would choose whole layers as well: ``transformer.h.0``."""
    names = [f"transformer.h.{layer}.ffn.{i}" for layer in range(2) for i in (0, 2)]
    sites = tuple(LinearSite(i, name, 4, 6) for i, name in enumerate(names))
    assert AdapterSpec("m", LoRAConfig(), sites, 4).target_names(sites) == ["ffn.0", "ffn.2"]
    assert AdapterSpec("m", LoRAConfig(), sites[:1], 4).target_names(sites) == [names[0]]


def test_initial_weights_depend_on_the_seed_only():
    spec = AdapterSpec("m", LoRAConfig(r=2), tuple(SITES[:2]), len(SITES))
    torch.manual_seed(0)
    first = initial_weights(spec, 5)
    torch.rand(10)
    assert torch.equal(first, initial_weights(spec, 5))
    assert not torch.equal(first, initial_weights(spec, 6))
    a = first[: 2 * 4]
    assert 0 < a.abs().max() <= 0.5
    assert torch.count_nonzero(first) == 2 * (2 * 4)


def test_dropout_is_a_function_of_seed_and_layer():
    x = torch.ones(50, 40)
    dropped = Dropout(0.25, seed=11).mask(x, 3)
    assert torch.equal(dropped, Dropout(0.25, seed=11).mask(x, 3))
    assert not torch.equal(dropped, Dropout(0.25, seed=11).mask(x, 4))
    assert not torch.equal(dropped, Dropout(0.25, seed=12).mask(x, 3))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert dropped.mean() == pytest.approx(1, abs=0.05)
