"""Admission: what cannot succeed is refused by the field's name, what can is let through."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from eztinker.config import Limits
from eztinker.errors import EZTinkerError, InvalidRequestError, TooLargeError, UnsupportedError
from eztinker.service import admission, quantized_names
from eztinker.types.losses import LOSSES
from eztinker.types.operations import (
    CreateRun,
    Evaluate,
    EvaluationItem,
    LoadCheckpoint,
    Operation,
    OptimStep,
    Sample,
    SaveCheckpoint,
    TrainingPass,
)
from eztinker.types.records import BaseModelRecord
from eztinker.types.sampling import SamplingParams, WeightsRef
from eztinker.types.training import AdamParams, Datum, LoRAConfig, LossSpec

BASE = BaseModelRecord("m", "/m", "X", context_length=16, vocab_size=100)
LIMITS = Limits.model_validate({"max_rank": 32, "max_num_samples": 4, "max_data": 4})


def check(operation: Operation, **kwargs: Any) -> None:
    admission.check(operation, base=BASE, limits=LIMITS, **kwargs)


def refused(operation: Operation, **kwargs: Any) -> EZTinkerError:
    with pytest.raises(EZTinkerError) as caught:
        check(operation, **kwargs)
    assert caught.value.category == "user"
    return caught.value


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def datum(length: int = 3, targets: np.ndarray | None = None, **inputs: np.ndarray) -> Datum:
    targets = np.arange(1, length + 1, dtype=np.int64) if targets is None else targets
    return Datum(ids(*range(length)), {"target_tokens": targets, **inputs})


def training(
    *data: Datum, loss: str = "cross_entropy", reduction: Any = "mean", **config: Any
) -> TrainingPass:
    return TrainingPass(list(data), LossSpec(loss, config, reduction))


POLICY = {"logprobs": floats(-1, -1, -1), "advantages": floats(1, 0, -1)}

# Passes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_admitted_with_what_it_asks_for(name: str) -> None:
    signature = LOSSES[name]
    inputs = {needed: floats(1, 1, 1) for needed in signature.required}
    check(training(*[datum(**inputs)] * max(2, signature.group_size), loss=name))


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].required])
def test_a_missing_input_is_named(name: str) -> None:
    for missing in LOSSES[name].required:
        inputs = {needed: floats(1, 1, 1) for needed in LOSSES[name].required if needed != missing}
        error = refused(training(datum(**inputs), datum(**inputs), loss=name))
        assert error.field == f"data[0].{missing}"
        assert error.code == "missing_loss_input"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ([], "data"),
        ([datum()] * 5, "data"),
        ([datum(), Datum(ids(), {"target_tokens": ids()})], "data[1].input_ids"),
        ([Datum(ids(1, 100), {"target_tokens": ids(1, 1)})], "data[0].input_ids[1]"),
        ([Datum(ids(-1, 2), {"target_tokens": ids(1, 1)})], "data[0].input_ids[0]"),
        ([datum(17)], "data[0].input_ids"),
        ([Datum(ids(1, 2), {})], "data[0].target_tokens"),
        ([datum(targets=ids(1, 2))], "data[0].target_tokens"),
        ([datum(targets=ids(1, 2, 100))], "data[0].target_tokens[2]"),
        ([datum(targets=np.array([[1, 2], [3, 400], [5, 6]]))], "data[0].target_tokens[1][1]"),
        ([datum(weights=floats(1, 1))], "data[0].weights"),
        ([datum(weights=floats(1, math.nan, 1))], "data[0].weights[1]"),
        ([datum(weights=floats(1, 1, math.inf))], "data[0].weights[2]"),
        ([datum(targets=np.ones((3, 2), np.int64), weights=floats(1, 1, 1))], "data[0].weights"),
        ([datum(advantage=floats(1, 1, 1))], "data[0].advantage"),
        ([datum(advantages=floats(1, 1, 1))], "data[0].advantages"),
        ([datum(weights=floats(0, 0, 0))] * 2, "weights"),
        ([datum(weights=floats(1, 0, -1))], "weights"),
    ],
)
def test_wrong_data_are_refused_by_field(data: list[Datum], field: str) -> None:
    assert refused(training(*data)).field == field


def test_one_counting_label_is_enough() -> None:
    check(training(datum(weights=floats(0, 0, 0)), datum(weights=floats(0, 0, 0.5))))
    check(training(datum(weights=floats(0, 0, 0)), datum()))


def test_a_sum_may_weigh_below_zero_or_nothing() -> None:
    check(training(datum(weights=floats(1, -1, -1)), reduction="sum"))
    check(training(datum(weights=floats(0, 0, 0)), reduction="sum"))


def test_several_targets_only_where_the_loss_takes_them() -> None:
    targets = np.ones((3, 4), dtype=np.int64)
    check(training(datum(targets=targets, weights=np.ones((3, 4), np.float32))))
    error = refused(training(datum(targets=targets, **POLICY), loss="ppo"))
    assert error.field == "data[0].target_tokens"


def test_dpo_takes_pairs() -> None:
    pair = [datum(logprobs=floats(-1, -1, -1))] * 2
    check(training(*pair, loss="dpo"))
    error = refused(training(*pair, pair[0], loss="dpo"))
    assert error.code == "incomplete_group"


def test_a_registered_loss_decides_for_itself() -> None:
    operation = training(datum(advantages=floats(1, 1, 1)), loss="mine", anything=3.0, mode="x")
    assert refused(operation).code == "unknown_loss"
    check(operation, extra_losses={"mine"})
    infinite = training(datum(), loss="mine", anything=math.inf)
    assert refused(infinite, extra_losses={"mine"}).field == "loss_fn_config.anything"


@pytest.mark.parametrize(
    ("loss", "config", "field"),
    [
        ("cross_entropi", {}, "loss_fn"),
        ("focal_loss", {"focal_gama": 1.0}, "loss_fn_config.focal_gama"),
        ("focal_loss", {"focal_gamma": -1.0}, "loss_fn_config.focal_gamma"),
        ("focal_loss", {"focal_gamma": math.nan}, "loss_fn_config.focal_gamma"),
        ("focal_loss", {"focal_gamma": "two"}, "loss_fn_config.focal_gamma"),
        ("cross_entropy", {"beta": 1.0}, "loss_fn_config.beta"),
        ("ppo", {"clip_low_threshold": 2.0}, "loss_fn_config.clip_low_threshold"),
    ],
)
def test_wrong_losses_and_settings(loss: str, config: dict[str, Any], field: str) -> None:
    error = refused(training(datum(**POLICY) if loss == "ppo" else datum(), loss=loss, **config))
    assert error.field == field


def test_near_names_are_offered() -> None:
    assert "Did you mean cross_entropy?" in refused(training(datum(), loss="cross_entropi")).message
    error = refused(training(datum(), loss="focal_loss", focal_gama=1.0))
    assert "Did you mean focal_gamma?" in error.message


def test_a_run_reads_its_own_field_names() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        admission.check_loss(
            LossSpec("x"), name_field="loss_config.loss_type", config_field="loss_config"
        )
    assert caught.value.field == "loss_config.loss_type"


# Runs and steps -----------------------------------------------------------------------------------


def creation(**lora: Any) -> CreateRun:
    return CreateRun("m", LoRAConfig(**lora), seed=1)


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        (creation(r=0), "lora_config.r"),
        (creation(lora_alpha=0.0), "lora_config.lora_alpha"),
        (creation(lora_alpha=math.inf), "lora_config.lora_alpha"),
        (creation(lora_dropout=1.0), "lora_config.lora_dropout"),
        (creation(lora_dropout=-0.1), "lora_config.lora_dropout"),
        (creation(target_modules="c_attn"), "lora_config.target_modules"),
        (creation(target_modules=()), "lora_config.target_modules"),
        (creation(target_modules=("a", "")), "lora_config.target_modules"),
        (creation(seed=-1), "lora_config.seed"),
        (CreateRun("m", LoRAConfig(), seed=2**63), "seed"),
        (CreateRun("m", LoRAConfig(), 1, "int3"), "quantization"),  # type: ignore[arg-type]
        (OptimStep(AdamParams(learning_rate=-1e-9)), "learning_rate"),
        (OptimStep(AdamParams(learning_rate=math.nan)), "learning_rate"),
        (OptimStep(AdamParams(weight_decay=-1.0)), "weight_decay"),
        (OptimStep(AdamParams(beta1=1.0)), "betas[0]"),
        (OptimStep(AdamParams(beta2=-0.1)), "betas[1]"),
        (OptimStep(AdamParams(eps=0.0)), "eps"),
        (OptimStep(AdamParams(grad_clip_norm=0.0)), "grad_clip_norm"),
        (SaveCheckpoint("../x"), "name"),
        (LoadCheckpoint("a/b", "x"), "run_id"),
        (LoadCheckpoint("a", ""), "name"),
    ],
)
def test_wrong_runs_steps_and_names(operation: Operation, field: str) -> None:
    assert refused(operation).field == field


def test_what_is_in_range_is_let_through() -> None:
    check(creation(r=32, lora_alpha=0.5, lora_dropout=0.0, target_modules=("c_attn",)))
    check(OptimStep(AdamParams()))
    check(SaveCheckpoint("检查点-1"))
    check(LoadCheckpoint("run_1", "x"))


def test_a_limit_names_itself_and_its_setting() -> None:
    error = refused(creation(r=33))
    assert isinstance(error, TooLargeError)
    assert "33" in error.message
    assert "limits.max_rank" in error.message
    assert error.details == {"limit": 32, "setting": "limits.max_rank"}


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantization_without_bitsandbytes_names_the_extra(
    quantization: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = CreateRun("m", LoRAConfig(), 1, quantization)
    check(operation)
    monkeypatch.setattr(quantized_names, "find_spec", lambda name: None)
    error = refused(operation)
    assert isinstance(error, UnsupportedError)
    assert (error.code, error.field) == ("missing_extra", "quantization")
    assert 'pip install "eztinker[qlora]"' in error.message


# Sampling and evaluation --------------------------------------------------------------------------

SAMPLE = Sample(WeightsRef("m"), ids(1, 2, 3), SamplingParams(max_tokens=5))


def sampling(**changes: Any) -> Sample:
    params = {k: v for k, v in changes.items() if k in SamplingParams.__dataclass_fields__}
    rest = {k: v for k, v in changes.items() if k not in params}
    return dataclasses.replace(SAMPLE, params=dataclasses.replace(SAMPLE.params, **params), **rest)


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        (sampling(prompt_tokens=ids()), "prompt"),
        (sampling(prompt_tokens=ids(1, 100)), "prompt[1]"),
        (sampling(prompt_tokens=ids(*[1] * 12)), "prompt"),
        (sampling(max_tokens=14), "prompt"),
        (sampling(max_tokens=0), "max_tokens"),
        (sampling(temperature=-0.1), "temperature"),
        (sampling(temperature=math.nan), "temperature"),
        (sampling(top_p=0.0), "top_p"),
        (sampling(top_p=1.01), "top_p"),
        (sampling(top_k=-2), "top_k"),
        (sampling(seed=-1), "seed"),
        (sampling(num_samples=0), "num_samples"),
        (sampling(num_samples=5), "num_samples"),
        (sampling(stop=("a", "")), "stop[1]"),
        (sampling(stop=("x" * 257,)), "stop[0]"),
        (sampling(stop=("x",) * 17), "stop"),
        (sampling(stop_token_ids=(1, 100)), "stop[1]"),
        (sampling(stop_token_ids=(1,) * 17), "stop"),
        (sampling(topk_prompt_logprobs=-1), "topk_prompt_logprobs"),
        (sampling(topk_prompt_logprobs=101), "topk_prompt_logprobs"),
        (sampling(temperature=0.0, top_p=0.9), "top_p"),
        (sampling(stop=("x",) * 1000), "stop"),
        (sampling(weights=WeightsRef("m", "../x")), "run_id"),
        (sampling(weights=WeightsRef("m", "x", "a/b")), "checkpoint"),
    ],
)
def test_wrong_sampling(operation: Sample, field: str) -> None:
    assert refused(operation).field == field


def test_sampling_up_to_the_last_token_of_the_context() -> None:
    check(sampling(max_tokens=13))
    check(sampling(stop=("x" * 256,) * 16, top_k=0, top_p=1.0, temperature=0.0))


def test_a_prompt_may_be_scored_without_generating() -> None:
    check(sampling(max_tokens=0, prompt_logprobs=True))
    check(sampling(max_tokens=0, topk_prompt_logprobs=5))


def evaluation(prompt: np.ndarray, response: np.ndarray, **changes: Any) -> Evaluate:
    return Evaluate([EvaluationItem(prompt, response)], **{"max_new_tokens": 4, **changes})


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        (Evaluate([]), "batches"),
        (Evaluate([EvaluationItem(ids(1), ids(2))] * 5), "batches"),
        (evaluation(ids(), ids(1)), "batches[0].prompt_ids"),
        (evaluation(ids(100), ids(1)), "batches[0].prompt_ids[0]"),
        (evaluation(ids(1), ids(1, -2)), "batches[0].response_ids[1]"),
        (evaluation(ids(*[1] * 10), ids(*[1] * 7)), "batches[0]"),
        (evaluation(ids(*[1] * 13), ids()), "batches[0]"),
        (evaluation(ids(1), ids(1), temperature=0.0), "temperature"),
        (evaluation(ids(1), ids(1), max_new_tokens=0), "max_new_tokens"),
        (evaluation(ids(1), ids(1), seed=-1), "seed"),
    ],
)
def test_wrong_evaluation(operation: Evaluate, field: str) -> None:
    assert refused(operation).field == field


def test_a_response_or_room_to_write_one() -> None:
    check(evaluation(ids(*[1] * 8), ids(*[1] * 8)))
    check(evaluation(ids(*[1] * 12), ids()))
