"""Requests are what the API documents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eztinker.client.requests import checkpoints, runs, sampling, training
from eztinker.errors import InvalidRequestError
from eztinker.models import api


def test_create_run_sends_rank_and_alpha_as_lora_config():
    request = runs.create_run("nano", 4, 8, "mine", seed=3)
    assert (request.method, request.path) == ("POST", "/v1/runs")
    assert request.json == {
        "base_model": "nano",
        "run_id": "mine",
        "lora_config": {"r": 4, "lora_alpha": 8},
        "seed": 3,
    }


def test_keys_of_lora_config_win():
    body = runs.create_run("nano", lora_config={"r": 1, "target_modules": ["c_attn"]}).json
    assert body is not None
    assert body["lora_config"] == {"r": 1, "lora_alpha": 16, "target_modules": ["c_attn"]}


def test_wire_models_are_accepted_for_dicts():
    lora = api.LoRAFields(r=2)
    batch = api.EvaluationBatch(prompt_ids=[1], response_ids=[2])
    created = runs.create_run("nano", lora_config=lora).json
    assert created is not None
    assert created["lora_config"] == {"r": 2, "lora_alpha": 16}
    assert training.evaluate("r", [batch]).json == {
        "batches": [{"prompt_ids": [1], "response_ids": [2]}],
        "temperature": 1.0,
        "max_new_tokens": 50,
    }


def test_documented_bodies_satisfy_the_servers_schema():
    api.CreateTrainingRunRequest.model_validate(runs.create_run("nano").json)
    api.SampleRequest.model_validate(sampling.sample("hi", num_samples=2, stop=("a",)).json)
    api.SampleRequest.model_validate(sampling.sample([{"role": "user", "content": "hi"}]).json)
    api.TrainingRequest.model_validate(training.forward_backward("r", [1, 2]).json)
    api.TrainingRequest.model_validate(
        training.forward("r", data=[{"input_ids": [1], "advantages": [1.0]}], loss_fn="ppo").json
    )
    api.OptimStepRequest.model_validate(training.optim_step("r", betas=(0.9, 0.95)).json)
    api.SaveRequest.model_validate(checkpoints.save_checkpoint("r", "a", overwrite=True).json)
    api.LoadRequest.model_validate(checkpoints.load_checkpoint("r", "a").json)
    api.EvaluationRequest.model_validate(training.evaluate("r", [{"prompt_ids": [1]}]).json)


def test_documented_defaults():
    body = sampling.sample("hi").json
    assert body == {
        "prompt": "hi",
        "max_new_tokens": 100,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 50,
        "do_sample": True,
    }
    assert training.optim_step("r").json == {"learning_rate": 2e-4, "weight_decay": 0.01}


def test_training_pass_of_one_sequence_or_of_a_list():
    single = training.forward_backward("r", np.array([1, 2, 3]), weights=np.array([0.0, 1.0, 0.5]))
    assert single.path == "/v1/runs/r/forward_backward"
    assert single.json == {"input_ids": [1, 2, 3], "weights": [0.0, 1.0, 0.5]}
    several = training.forward_backward(
        "r", data=[{"input_ids": np.array([1]), "target_ids": None}]
    )
    assert several.json == {"data": [{"input_ids": [1]}]}


def test_ambiguous_or_empty_passes_are_refused():
    with pytest.raises(InvalidRequestError) as caught:
        training.forward_backward("r")
    assert caught.value.field == "input_ids"
    with pytest.raises(InvalidRequestError) as caught:
        training.forward("r", weights=[1.0], data=[{"input_ids": [1]}])
    assert caught.value.field == "weights"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", {"prompt": "hi"}),
        ([1, 2], {"prompt": [1, 2]}),
        (np.array([1, 2]), {"prompt": [1, 2]}),
        ((5,), {"prompt": [5]}),
        ([{"role": "user", "content": "x"}], {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
def test_kinds_of_prompt(prompt, expected):
    body = sampling.sample(prompt).json
    assert body is not None
    assert {key: body[key] for key in ("prompt", "messages") if key in body} == expected


@given(st.text(min_size=1))
def test_any_name_is_one_segment_of_the_path(name):
    path = checkpoints.delete_checkpoint("r", name).path
    assert path.startswith("/v1/runs/r/checkpoints/")
    assert path.count("/") == 5
    assert path.rsplit("/", 1)[1] not in ("", ".", "..")


@pytest.mark.parametrize("run_id", ["", None, 7, "\udcff"])
def test_a_run_without_name_is_refused(run_id):
    with pytest.raises(InvalidRequestError, match="run_id"):
        runs.delete_run(run_id)
