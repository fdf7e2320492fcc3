"""The native API as documented: routes, short forms, shapes of answers, waiting, idempotency."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import httpx
import pytest

from eztinker.models import answers
from eztinker.types.error_info import ErrorInfo
from eztinker.types.operations import (
    Evaluate,
    LoadCheckpoint,
    OptimStep,
    Sample,
    SaveCheckpoint,
    TrainingPass,
)
from eztinker.types.sampling import SampledSequence

from .fake_service import FakeService
from .tiny_model import IM_END

IDS = [104, 101, 108, 108, 111]


def last_operation(service: FakeService) -> Any:
    return list(service.jobs.operations.values())[-1]


async def test_health(client: httpx.AsyncClient) -> None:
    body = (await client.get("/health")).json()
    answers.HealthAnswer.model_validate(body)
    assert body["status"] == "ok"
    assert body["engine"] == "ready"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])


async def test_create_run_with_all_fields(client: httpx.AsyncClient, service: FakeService) -> None:
    body = {
        "base_model": "tiny",
        "lora_config": {
            "r": 4,
            "lora_alpha": 8,
            "lora_dropout": 0,
            "target_modules": ["c_attn", "c_proj"],
            "use_rslora": True,
            "seed": 7,
        },
        "loss_config": {"loss_type": "focal_loss", "focal_alpha": 0.5, "reduction": "sum"},
        "run_id": "мой-run.1",
        "seed": 3,
        "quantization": "none",
    }
    answer = await client.post("/v1/runs", json=body)
    answers.RunCreatedAnswer.model_validate(answer.json())
    assert answer.json()["run_id"] == "мой-run.1"
    run = service.runs.all["мой-run.1"]
    assert run.lora.target_modules == ("c_attn", "c_proj")
    assert (run.lora.r, run.lora.lora_alpha, run.lora.lora_dropout) == (4, 8.0, 0.0)
    assert (run.lora.use_rslora, run.lora.seed, run.seed) == (True, 7, 3)
    assert run.loss.name == "focal_loss"
    assert run.loss.config == {"focal_alpha": 0.5}
    assert run.loss.reduction == "sum"


async def test_documented_defaults_of_a_run(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    await client.post("/v1/runs", json={"base_model": "tiny", "run_id": "r"})
    lora = service.runs.all["r"].lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (8, 16.0, 0.05)
    assert lora.target_modules == "all-linear"


async def test_runs_are_listed_shown_and_deleted(client: httpx.AsyncClient, run_id: str) -> None:
    await client.post("/v1/runs", json={"base_model": "tiny", "run_id": "run_two"})
    listed = (await client.get("/v1/runs", params={"limit": 1})).json()
    answers.RunsAnswer.model_validate(listed)
    assert [run["run_id"] for run in listed["runs"]] == ["run_two"]
    assert listed["total"] == 2
    assert (await client.get("/v1/runs", params={"base_model": "other"})).json()["total"] == 0
    shown = (await client.get(f"/v1/runs/{run_id}")).json()
    answers.RunAnswer.model_validate(shown)
    assert shown["created_at"] == "2023-11-14T22:13:20.250Z"
    deleted = await client.delete(f"/v1/runs/{run_id}")
    assert deleted.json() == {"status": "deleted", "run_id": run_id}
    assert (await client.get(f"/v1/runs/{run_id}")).status_code == 404


@pytest.mark.parametrize("short", [False, True])
async def test_forward_backward(
    short: bool, client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    path = "/v1/forward_backward" if short else f"/v1/runs/{run_id}/forward_backward"
    extra = {"run_id": run_id} if short else {}
    answer = await client.post(path, json={"input_ids": IDS, "target_ids": IDS, **extra})
    body = answer.json()
    answers.JobSubmittedAnswer.model_validate(body)
    assert body["status"] == "completed"
    assert body["result"] == {
        "loss": 0.5,
        "batches": 1,
        "num_tokens": 4,
        "logprobs": [[None, -0.5, -0.5, -0.5, -0.5]],
        "metrics": {"loss:sum": 1.0},
    }
    operation = last_operation(service)
    assert isinstance(operation, TrainingPass)
    assert not operation.forward_only


async def test_forward_of_several_data(
    client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    body = {
        "data": [{"input_ids": IDS}, {"input_ids": IDS[:2]}],
        "loss_fn_config": {"reduction": "sum"},
    }
    answer = await client.post(f"/v1/runs/{run_id}/forward", json=body)
    assert answer.json()["result"]["batches"] == 2
    operation = last_operation(service)
    assert operation.forward_only
    assert operation.loss.reduction == "sum"


@pytest.mark.parametrize("short", [False, True])
async def test_optim_step(
    short: bool, client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    path = "/v1/optim_step" if short else f"/v1/runs/{run_id}/optim_step"
    body = {
        "learning_rate": 1e-3,
        "betas": [0.8, 0.9],
        "eps": 1e-6,
        "weight_decay": 0.1,
        "grad_clip_norm": 1,
    }
    answer = await client.post(path, json={**body, **({"run_id": run_id} if short else {})})
    assert answer.json()["result"] == {
        "status": "optimizer_step_completed",
        "step": 1,
        "grad_norm": 2.0,
        "learning_rate": 1e-3,
    }
    adam = last_operation(service).adam
    assert (adam.beta1, adam.beta2, adam.eps, adam.weight_decay) == (0.8, 0.9, 1e-6, 0.1)
    assert adam.grad_clip_norm == 1.0


async def test_optim_step_without_a_body_takes_the_documented_defaults(
    client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    assert (await client.post(f"/v1/runs/{run_id}/optim_step")).status_code == 200
    adam = last_operation(service).adam
    assert (adam.learning_rate, adam.weight_decay, adam.beta1, adam.beta2) == (2e-4, 0, 0.9, 0.999)
    assert (adam.eps, adam.grad_clip_norm) == (1e-8, None)
    assert isinstance(last_operation(service), OptimStep)


@pytest.mark.parametrize("path", ["/v1/sample", "/sample"])
async def test_sample_from_text(
    path: str, client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    service.jobs.sampled = [
        SampledSequence([33, 42, IM_END], [-0.1, -0.2, -0.3], "stop"),
        SampledSequence([33], [-0.1], "length"),
    ]
    body = {"prompt": "hello", "run_id": run_id, "num_samples": 2, "seed": 5}
    result = (await client.post(path, json=body)).json()["result"]
    answers.SampleAnswer.model_validate(result)
    tokenizer = await service.base_models.tokenizer("tiny")
    first, second = tokenizer.decode([33, 42]), tokenizer.decode([33])
    assert result["generated_text"] == "hello" + first
    assert [sequence["text"] for sequence in result["sequences"]] == [first, second]
    assert result["sequences"][0]["tokens"] == [33, 42, IM_END]
    assert [sequence["stop_reason"] for sequence in result["sequences"]] == ["stop", "length"]
    assert (result["model"], result["run_id"], result["step"], result["seed"]) == (
        "tiny",
        run_id,
        3,
        5,
    )
    assert result["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    operation = last_operation(service)
    assert isinstance(operation, Sample)
    assert (operation.params.max_tokens, operation.params.top_k) == (100, 50)
    assert (operation.params.temperature, operation.params.top_p) == (1.0, 1.0)


async def test_whose_weights_answer(
    client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    service.checkpoints.add(run_id, "saved")
    asked = [
        ({}, ("tiny", None, None)),
        ({"base_model": "tiny"}, ("tiny", None, None)),
        ({"run_id": run_id}, ("tiny", run_id, None)),
        ({"run_id": run_id, "checkpoint": "saved"}, ("tiny", run_id, "saved")),
    ]
    for fields, expected in asked:
        answer = await client.post("/v1/sample", json={"prompt": "x", **fields})
        weights = last_operation(service).weights
        assert (weights.base_model, weights.run_id, weights.checkpoint) == expected
        result = answer.json()["result"]
        assert (result["model"], result["run_id"], result["checkpoint"]) == expected


async def test_an_unset_seed_is_chosen_and_named(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    seeds = set()
    for _ in range(3):
        result = (await client.post("/v1/sample", json={"prompt": "x"})).json()["result"]
        assert result["seed"] == last_operation(service).params.seed
        assert 0 <= result["seed"] < 2**31
        seeds.add(result["seed"])
    assert len(seeds) == 3


async def test_save_load_list_delete(
    client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    saved = await client.post(f"/v1/runs/{run_id}/save", json={"name": "first"})
    assert saved.json()["result"]["path"] == "/c/first"
    assert last_operation(service) == SaveCheckpoint("first")
    await client.post(
        f"/v1/runs/{run_id}/save", params={"name": "第二"}, json={"with_optimizer": False}
    )
    assert last_operation(service) == SaveCheckpoint("第二", with_optimizer=False)
    loaded = await client.post(f"/v1/runs/{run_id}/load", json={"name": "first"})
    assert loaded.json()["status"] == "completed"
    assert last_operation(service) == LoadCheckpoint(run_id, "first", with_optimizer=True)
    for path in ("/v1/checkpoints", f"/v1/runs/{run_id}/checkpoints"):
        listed = (await client.get(path)).json()
        answers.CheckpointsAnswer.model_validate(listed)
        assert [entry["name"] for entry in listed["checkpoints"]] == ["first", "第二"]
    deleted = await client.delete(f"/v1/runs/{run_id}/checkpoints/第二")
    assert deleted.json() == {"status": "deleted", "run_id": run_id, "name": "第二"}


async def test_evaluate(client: httpx.AsyncClient, service: FakeService, run_id: str) -> None:
    batches = [
        {"prompt_ids": [1, 2], "response_ids": [3, 4]},
        {"input_ids": [1, 2, 3], "target_ids": [-100, -100, 3]},
        {"prompt_ids": [1, 2]},
        {"input_ids": [5, 6], "target_ids": [5, 6], "prompt_ids": [5], "response_ids": [6]},
    ]
    body = {"batches": batches, "temperature": 0.7, "max_new_tokens": 9, "seed": 11}
    answer = await client.post(f"/v1/runs/{run_id}/evaluate", json=body)
    assert answer.json()["result"] == {
        "scores": [1.0] * 4,
        "log_probs": [-1.0] * 4,
        "num_tokens": [2] * 4,
    }
    operation = last_operation(service)
    assert isinstance(operation, Evaluate)
    pairs = [(i.prompt_tokens.tolist(), i.response_tokens.tolist()) for i in operation.items]
    assert pairs == [([1, 2], [3, 4]), ([1, 2], [3]), ([1, 2], []), ([5], [6])]
    assert (operation.temperature, operation.max_new_tokens, operation.seed) == (0.7, 9, 11)


async def test_models_are_listed_as_openai_lists_them(
    client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    service.checkpoints.add(run_id, "saved")
    body = (await client.get("/v1/models")).json()
    answers.ModelsAnswer.model_validate(body)
    assert {"tiny", run_id, f"{run_id}@saved"} <= {entry["id"] for entry in body["data"]}
    assert body["default"] == "tiny"


async def test_tokenizer_files_make_the_same_tokenizer(
    client: httpx.AsyncClient, service: FakeService, tmp_path: Any
) -> None:
    from eztinker.rendering.tokenizer import Tokenizer

    body = (await client.get("/v1/base_models/tiny/tokenizer")).json()
    answers.TokenizerAnswer.model_validate(body)
    for name, text in body["files"].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    theirs, ours = Tokenizer.from_folder(tmp_path), await service.base_models.tokenizer("tiny")
    assert theirs.encode("héllo 你好") == ours.encode("héllo 你好")
    assert theirs.has_chat_template


async def test_a_base_model_may_be_named_by_its_folder(
    client: httpx.AsyncClient, tiny_folder: Any
) -> None:
    name = str(tiny_folder).replace("/", "%2F")
    answer = await client.get(f"http://localhost/v1/base_models/{name}/tokenizer")
    assert answer.status_code == 200
    assert answer.json()["model"] == str(tiny_folder)


# Jobs ---------------------------------------------------------------------------------------------


async def test_wait_zero_answers_at_once_and_the_job_can_be_polled(
    client: httpx.AsyncClient, run_id: str
) -> None:
    answer = await client.post(f"/v1/runs/{run_id}/optim_step", params={"wait": 0})
    assert set(answer.json()) == {"job_id", "status"}
    assert answer.json()["status"] == "queued"
    job_id = answer.json()["job_id"]
    job = (await client.get(f"/v1/jobs/{job_id}")).json()
    answers.JobAnswer.model_validate(job)
    assert (job["status"], job["queue_position"]) == ("queued", 0)
    assert job["wait_reason"] == "waits for its turn"
    job = (await client.get(f"/v1/jobs/{job_id}", params={"wait": 5})).json()
    answers.JobAnswer.model_validate(job)
    assert job["status"] == "completed"
    assert job["result"]["step"] == 1


async def test_a_held_answer_comes_when_the_time_is_up(
    client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    service.jobs.hold = asyncio.Event()
    began_s = time.perf_counter()
    answer = await client.post(f"/v1/runs/{run_id}/optim_step", params={"wait": 0.05})
    assert 0.04 < time.perf_counter() - began_s < 0.9
    assert answer.json()["status"] == "queued"


async def test_a_held_answer_comes_when_the_job_ends(
    client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    service.jobs.hold = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, service.jobs.hold.set)
    began_s = time.perf_counter()
    answer = await client.post(f"/v1/runs/{run_id}/optim_step", params={"wait": 60})
    assert answer.json()["status"] == "completed"
    assert time.perf_counter() - began_s < 5


async def test_a_sample_shown_later_is_the_one_shown_at_first(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    service.jobs.sampled = [SampledSequence([33, 42], [-0.1, -0.2], "length")]
    answer = (await client.post("/v1/sample", json={"prompt": "hello", "stop": ["!"]})).json()
    job = (await client.get(f"/v1/jobs/{answer['job_id']}")).json()
    assert job["result"] == answer["result"]


async def test_a_failed_job_carries_its_error(
    client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    answer = await client.post(f"/v1/runs/{run_id}/optim_step", params={"wait": 0})
    job_id = answer.json()["job_id"]
    error = ErrorInfo("not_finite", "the gradient is not finite", "user", details={"norm": "nan"})
    service.jobs.finish(job_id, status="failed", error=error)
    job = (await client.get(f"/v1/jobs/{job_id}")).json()
    answers.JobAnswer.model_validate(job)
    assert job["status"] == "failed"
    assert job["error"] == {
        "code": "not_finite",
        "message": "the gradient is not finite",
        "category": "user",
        "details": {"norm": "nan"},
    }
    assert job["result"] is None


async def test_jobs_are_listed_and_cancelled(client: httpx.AsyncClient, run_id: str) -> None:
    first = (await client.post(f"/v1/runs/{run_id}/optim_step", params={"wait": 0})).json()[
        "job_id"
    ]
    second = (await client.post("/v1/sample", json={"prompt": "x"})).json()["job_id"]
    listed = (await client.get("/v1/jobs")).json()
    answers.JobsAnswer.model_validate(listed)
    assert [job["job_id"] for job in listed["jobs"]] == [second, first]
    assert "result" not in listed["jobs"][0]
    queued = (await client.get("/v1/jobs", params={"status": "queued", "run_id": run_id})).json()
    assert [job["job_id"] for job in queued["jobs"]] == [first]
    cancelled = (await client.delete(f"/v1/jobs/{first}")).json()
    answers.JobAnswer.model_validate(cancelled)
    assert cancelled["status"] == "cancelled"
    ended = (await client.delete(f"/v1/jobs/{second}")).json()
    assert ended["status"] == "completed"


# Idempotency --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "other"),
    [
        ("/v1/runs/run_one/forward_backward", {"input_ids": IDS}, {"input_ids": IDS[:3]}),
        ("/v1/runs/run_one/optim_step", {}, {"learning_rate": 0.1}),
        ("/v1/sample", {"prompt": "x"}, {"prompt": "y"}),
        ("/v1/runs/run_one/evaluate", {"batches": [{"prompt_ids": IDS}]}, {"batches": [{"prompt_ids": [1]}]}),
        ("/v1/runs/run_one/save", {"name": "a"}, {"name": "b"}),
    ],
)  # fmt: skip
async def test_the_same_key_answers_the_same_job_and_refuses_another_body(
    path: str, body: Any, other: Any, client: httpx.AsyncClient, service: FakeService, run_id: str
) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await client.post(path, json=body, headers=headers)
    again = await client.post(path, json=body, headers=headers, params={"wait": 2})
    assert again.json() == first.json()
    assert len(service.jobs.operations) == 1
    conflict = await client.post(path, json=other, headers=headers)
    assert conflict.status_code == 409
    fresh = await client.post(path, json=body, headers={"Idempotency-Key": "k2"})
    assert fresh.json()["job_id"] != first.json()["job_id"]


async def test_the_name_in_the_query_belongs_to_the_request(
    client: httpx.AsyncClient, run_id: str
) -> None:
    headers = {"Idempotency-Key": "k"}
    await client.post(f"/v1/runs/{run_id}/save?name=a", headers=headers)
    answer = await client.post(f"/v1/runs/{run_id}/save?name=b", headers=headers)
    assert answer.status_code == 409


async def test_creating_a_run_twice_under_one_key_makes_one_run(
    client: httpx.AsyncClient, service: FakeService
) -> None:
    headers = {"Idempotency-Key": "k"}
    answers_seen = [
        (await client.post("/v1/runs", json={"base_model": "tiny"}, headers=headers)).json()
        for _ in range(2)
    ]
    assert answers_seen[0] == answers_seen[1]
    assert len(service.runs.all) == 1


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("fields", [{"target_ids": [-100] * 4}, {"weights": [0.0] * 4}])
async def test_a_request_without_a_counting_label_is_refused(
    client: httpx.AsyncClient, run_id: str, reduction: str, fields: dict
) -> None:
    body = {"input_ids": [5, 6, 7, 8], "loss_fn_config": {"reduction": reduction}, **fields}
    answer = await client.post(f"/v1/runs/{run_id}/forward_backward", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_counting_label"
