"""Every field of every route, wrong in every way we could think of: a 4xx that names the field and the
remedy, at once, with nothing changed and nothing in the log.

The tables below are complete: a test compares them with the request models and with the routes.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from eztinker.api.routes import openai
from eztinker.api.server import ROUTERS
from eztinker.models import api as wire

from .fake_service import FakeService
from .tiny_model import CONTEXT_LENGTH, VOCAB_SIZE

NATIVE = [router for router in ROUTERS if router is not openai.router]
"""The OpenAI wire has errors of its own; ``test_openai.py`` is about them."""
JSON_TYPE = {"Content-Type": "application/json"}
ABSENT = object()

NOT_TEXT = [5, 1.5, True, [], {}]
NOT_NAME = [
    *NOT_TEXT,
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "a b",
    "x" * 129,
    ".hidden",
    "a\u0000b",
    "字" * 129,
]
NOT_BOOL = ["true", 1, 0, None, [], {}]
NOT_INT = ["5", 1.5, 1.0, True, [], {}, 1e30]
NOT_NUMBER = ["0.5", True, [], {}]
NOT_COUNT = [*NOT_INT, None, 0, -1]
NOT_SEED = [*NOT_INT, -1, 2**63, 2**70]
NOT_POSITIVE = [*NOT_NUMBER, None, 0, -1]
NOT_TOKENS = [
    "text", 5, True, {}, [], ["1"], [1.0], [1.5], [True], [None], [[1]], [1, 2, "x"],
    [1, -1], [1, VOCAB_SIZE], [1, 2**31], [1, 2**63], [1, 2**64], [1] * (CONTEXT_LENGTH + 1),
]  # fmt: skip
NOT_LABELS = [v for v in NOT_TOKENS if v != [1, -1]] + [[1, 2], [1, 2, -99], [1, 2, 3, 4]]
NOT_ALIGNED = [
    "text", 5, True, {}, [], ["1"], [True, True, True], [None], [1.0, 1.0], [1.0] * 4, [1, 1, 1e39],
]  # fmt: skip
NOT_MODEL = [
    *NOT_TEXT, "", "none-of-that-name", "../../etc", "/nowhere", "a\u0000b", "~nobody/x",
    "x" * 5000, "x/" * 200, "org/model/extra",
]  # fmt: skip
NOT_SETTINGS = [5, "x", [], {"reduction": "max"}, {"reduction": 5}, {"beta": 0.1}, {"focal_gama": 2}, {"x": [1]},
                {"x": True}, {"custom_code": "import os"}, {str(i): 1 for i in range(100)}]  # fmt: skip
NOT_LOSS = [
    *NOT_TEXT,
    "",
    "cross_entropi",
    "ppo",
    "gspo",
    "dpo",
    "weighted_cross_entropy",
    "x" * 10_000,
]

NOT_MESSAGES: list[Any] = [
    "x", 5, {}, [], [5], [{}], [{"role": "user"}], [{"role": "", "content": "x"}],
    [{"role": 5, "content": "x"}], [{"role": "user", "content": 5}], [{"role": "user", "contents": "x"}],
    [{"role": "user", "content": [{"type": "image", "url": "x"}]}],
    [{"role": "user", "content": [{"type": "text", "text": 5}]}],
    [{"role": "user", "content": "x", "name": 5}], [{"role": "user", "content": "x", "tool_calls": [5]}],
    [{"role": "user", "content": "x", "tool_call_id": 5}],
    [{"role": "user", "content": "x", "reasoning_content": 5}],
]  # fmt: skip

LORA = {
    "r": [*NOT_COUNT, 33],
    "lora_alpha": NOT_POSITIVE,
    "lora_dropout": [*NOT_NUMBER, None, -0.1, 1, 1.5],
    "target_modules": [5, True, None, {}, "", "c_attn", [], [""], [5], ["q", 5]],
    "use_rslora": NOT_BOOL,
    "seed": NOT_SEED,
}
LOSS = {
    "loss_type": [*NOT_LOSS[:7], None],
    "reduction": [*NOT_TEXT, "", "max"],
    "focal_alpha": [
        *NOT_NUMBER,
        -1,
        0.5,
    ],  # 0.5: the run's loss, cross_entropy, has no such setting
    "focal_gamma": [*NOT_NUMBER, -1, 0.5],
    "custom_code": ["import os", 5, {}, []],
}
DATUM = {
    "input_ids": [*NOT_TOKENS, [1]],
    "target_ids": [*NOT_LABELS, [-100, -100, -100], [1, -100, -100]],
    "weights": [*NOT_ALIGNED, [0, 0, 0], [1, 0, 0], [1, -1, -1]],
    "logprobs": [*NOT_ALIGNED, [-1.0, -1.0, -1.0]],  # cross_entropy does not use them
    "advantages": [*NOT_ALIGNED, [1.0, 1.0, 1.0]],
    "sequence_ratio_mask": [*NOT_ALIGNED, [1.0, 1.0, 1.0]],
}
PASS = {
    **DATUM,
    "data": [5, "x", {}, [], [5], [{}], [{"input_ids": [1, 2]}]],  # the last: beside input_ids
    "loss_fn": NOT_LOSS,
    "loss_fn_config": NOT_SETTINGS,
}
STEP = {
    "learning_rate": NOT_POSITIVE,
    "weight_decay": [*NOT_NUMBER, None, -0.1],
    "betas": [*NOT_NUMBER, None, [0.9], [0.9, 0.9, 0.9], [0.9, 1.0], [-0.1, 0.9], ["a", 0.9]],
    "eps": NOT_POSITIVE,
    "grad_clip_norm": [*NOT_NUMBER, 0, -1],
}
RUN = {"run_id": [*NOT_NAME, None, "run_unknown"]}
BATCH = {
    "input_ids": [*NOT_TOKENS, [1, 2]],
    "target_ids": [*NOT_LABELS, [-100, -100, -100], [1, 2, 4], [-100, 2, -100]],
    "prompt_ids": NOT_TOKENS,
    "response_ids": [v for v in NOT_TOKENS if v != []],
}


@dataclass(frozen=True)
class Case:
    """A route, a body that it accepts, and what it must refuse per field.

    ``inside`` puts the fields of a nested object where they belong in the body.
    """

    path: str
    model: type[wire.WireModel]
    body: dict[str, Any]
    fields: dict[str, list[Any]]
    inside: str = ""
    skipped: frozenset[str] = field(default_factory=frozenset)

    def with_value(self, name: str, value: Any) -> dict[str, Any]:
        if not self.inside:
            return {**self.body, name: value}
        owner = self.body[self.inside]
        if isinstance(owner, list):
            return {**self.body, self.inside: [{**owner[0], name: value}, *owner[1:]]}
        return {**self.body, self.inside: {**owner, name: value}}


IDS = [1, 2, 3]
CASES = [
    Case(
        "/v1/runs",
        wire.CreateTrainingRunRequest,
        {"base_model": "tiny"},
        {
            "base_model": [*NOT_MODEL, None, ABSENT],
            "lora_config": [5, "x", [], {"rank": 4}],
            "loss_config": [5, "x", [], {"beta": 0.1}, {str(i): 1 for i in range(100)}],
            "run_id": [*NOT_NAME, "run_one"],
            "seed": NOT_SEED,
            "quantization": [*NOT_TEXT, None, "", "int4", "NF4", "fp4"],
        },
    ),
    Case("/v1/runs", wire.LoRAFields, {"base_model": "tiny", "lora_config": {}}, LORA, "lora_config"),
    Case("/v1/runs", wire.LossFunctionConfig, {"base_model": "tiny", "loss_config": {}}, LOSS, "loss_config"),
    Case("/v1/runs/run_one/forward_backward", wire.TrainingRequest, {"input_ids": IDS}, PASS),
    Case("/v1/runs/run_one/forward", wire.TrainingRequest, {"input_ids": IDS}, PASS),
    Case("/v1/runs/run_one/forward", wire.TrainingDatum, {"data": [{"input_ids": IDS}]}, DATUM, "data"),
    Case(
        "/v1/forward_backward",
        wire.RunTrainingRequest,
        {"input_ids": IDS, "run_id": "run_one"},
        {**PASS, "run_id": [*RUN["run_id"], ABSENT]},
    ),
    Case("/v1/runs/run_one/optim_step", wire.OptimStepRequest, {}, STEP),
    Case("/v1/optim_step", wire.RunOptimStepRequest, {"run_id": "run_one"}, {**STEP, "run_id": [*RUN["run_id"], ABSENT]}),
    *(
        Case(
            path,
            wire.SampleRequest,
            {"prompt": "hello"},
            {
                "prompt": [5, 1.5, True, {}, "", ABSENT, "x" * (CONTEXT_LENGTH + 1), [True], *NOT_MESSAGES[5:],
                           *[v for v in NOT_TOKENS if v not in ("text", {})]],
                "messages": [*NOT_MESSAGES, [{"role": "user", "content": "beside prompt"}]],
                "max_new_tokens": [*NOT_COUNT, CONTEXT_LENGTH],
                "temperature": [*NOT_NUMBER, None, -0.1],
                "top_p": [*NOT_NUMBER, None, 0, -1, 1.1],
                "top_k": [*NOT_INT, None, -2],
            "topk_prompt_logprobs": [-1, 21, "x", 1.5, None, [], {}],
                "do_sample": NOT_BOOL,
                "num_samples": [*NOT_COUNT, 9],
                "stop": [5, True, {}, "", [""], ["a", 5], [5, "a"], [VOCAB_SIZE], [-1], [2**64], [1.5], ["x"] * 17,
                         [1] * 17, "x" * 257],
                "seed": NOT_SEED,
                "run_id": [*NOT_NAME, "run_unknown"],
                "checkpoint": [*NOT_NAME, "good-name-but-no-run"],
                "base_model": NOT_MODEL,
            },
        )
        for path in ("/v1/sample", "/sample")
    ),
    Case(
        "/v1/runs/run_one/save",
        wire.SaveRequest,
        {"name": "x"},
        {"name": [*NOT_NAME, None, ABSENT], "with_optimizer": NOT_BOOL, "overwrite": NOT_BOOL},
    ),
    Case(
        "/v1/runs/run_one/load",
        wire.LoadRequest,
        {"name": "saved"},
        {
            "name": [*NOT_NAME, None, ABSENT, "never_saved"],
            "with_optimizer": NOT_BOOL,
            "source_run_id": NOT_NAME,
        },
    ),
    Case(
        "/v1/runs/run_one/evaluate",
        wire.EvaluationRequest,
        {"batches": [{"prompt_ids": [1], "response_ids": [2]}]},
        {
            "batches": [5, "x", {}, [], [5], [{}], [{"response_ids": [1]}], [{"prompt_ids": [1]}] * 5, ABSENT],
            "temperature": NOT_POSITIVE,
            "max_new_tokens": NOT_COUNT,
            "seed": NOT_SEED,
        },
    ),
    Case(
        "/v1/runs/run_one/evaluate",
        wire.EvaluationBatch,
        {"batches": [{"input_ids": [1, 2, 3], "target_ids": [-100, 2, 3]}]},
        {"input_ids": BATCH["input_ids"], "target_ids": BATCH["target_ids"]},
        "batches",
        skipped=frozenset({"prompt_ids", "response_ids"}),
    ),
    Case(
        "/v1/runs/run_one/evaluate",
        wire.EvaluationBatch,
        {"batches": [{"prompt_ids": [1], "response_ids": [2, 3], "input_ids": [1, 2, 3]}]},
        {"prompt_ids": BATCH["prompt_ids"], "response_ids": BATCH["response_ids"]},
        "batches",
        skipped=frozenset({"input_ids", "target_ids"}),
    ),
    Case(
        "/v1/checkpoints/prune",
        wire.PruneRequest,
        {},
        {
            "run_id": [5, {}, [], True, "../x", "a/b", ""],
            "keep_last": [*NOT_NUMBER, -1, 1.5, 10**9],
            "keep_best": [*NOT_NUMBER, -1, 1.5, 10**9],
            "dry_run": [5, "maybe", {}, []],
        },
    ),
    Case(
        "/v1/keys",
        wire.CreateKeyRequest,
        {"name": "laptop"},
        {
            "name": [*NOT_NAME, None, ABSENT],
            "owner": NOT_NAME,
            "scopes": [5, "train", None, {}, [], ["root"], [5], ["train", "root"]],
            "expires_in_s": [*NOT_NUMBER, 0, -1, 1e12],
        },
    ),
]  # fmt: skip
IDENTIFIERS = [f"{case.path.rsplit('/', 1)[1]}-{case.model.__name__}" for case in CASES]

RAW_BODIES = [
    b"{", b"{]", b"nonsense", b"null", b"[]", b"5", b'"text"', b"\xff\xfe", b'{"a":"\xff"}', b'{"seed":NaN}',
    b'{"seed":Infinity}', b'{"seed":-Infinity}', b'{"seed":1e999}', b"[" * 10_000, b'{"a":' * 2000 + b"1" + b"}" * 2000,
    b'{"' + b"k" * 10_000 + b'":1}', b"{" + b",".join(b'"k%d":1' % i for i in range(2000)) + b"}", b'{"seed":' + b"9" * 5000 + b"}",
    b'{"a":1,}', b"{'a':1}", b'{"a":1} x', b'\xef\xbb\xbf{"seed":"x"}', b'{"a":"\\ud800"}',
]  # fmt: skip


def assert_refused(answer: httpx.Response, what: str) -> dict[str, Any]:
    assert 400 <= answer.status_code < 500, f"{what}: {answer.status_code} {answer.text[:300]}"
    body = answer.json()
    assert set(body) == {"error", "request_id"}, what
    assert answer.headers["X-Request-ID"] == body["request_id"]
    error = body["error"]
    assert set(error) <= {"code", "message", "field", "details"}, what
    assert error["code"].replace("_", "").isalpha(), what
    assert 8 <= len(error["message"]) <= 1200, (
        f"{what}: {len(error['message'])} {error['message'][:200]}"
    )
    assert "Traceback" not in error["message"]
    return error


@pytest.fixture
async def ready(client: httpx.AsyncClient, service: FakeService, run_id: str) -> Any:
    """A run with a checkpoint, and its state before the bad requests."""
    service.checkpoints.add(run_id, "saved")
    return service.state()


@pytest.mark.parametrize("case", CASES, ids=IDENTIFIERS)
async def test_each_wrong_value_is_refused_by_its_field(
    case: Case,
    client: httpx.AsyncClient,
    service: FakeService,
    ready: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "eztinker")
    for name, values in case.fields.items():
        for value in values:
            body = case.with_value(name, value)
            if value is ABSENT:
                del body[name]
            what = f"{case.path} {name}={value!r}"[:200]
            began_s = time.perf_counter()
            answer = await client.post(case.path, json=body)
            assert time.perf_counter() - began_s < 1, what
            error = assert_refused(answer, what)
            told = error.get("field", "") + error["message"]
            assert name in told or (name == "prompt" and "messages" in told), (what, error)
    assert service.state() == ready
    assert caplog.records == []


@pytest.mark.parametrize("case", CASES, ids=IDENTIFIERS)
async def test_the_body_of_each_table_is_otherwise_good(
    case: Case, client: httpx.AsyncClient, service: FakeService, ready: Any
) -> None:
    """Else the table would pass for the wrong reason."""
    answer = await client.post(case.path, json=case.body)
    assert answer.status_code == 200, answer.text
    assert service.state() != ready


@pytest.mark.parametrize("case", CASES, ids=IDENTIFIERS)
async def test_unknown_fields_are_refused_with_the_nearest(
    case: Case, client: httpx.AsyncClient, service: FakeService, ready: Any
) -> None:
    name = next(iter(case.fields))
    misspelt = f"{name}_"
    answer = await client.post(case.path, json=case.with_value(misspelt, 1))
    error = assert_refused(answer, case.path)
    assert misspelt in error["field"]
    if case.model is not wire.LossFunctionConfig:  # its further keys are settings of a loss
        assert f"Did you mean {name}?" in error["message"]
    assert error["code"] == "unknown_field"
    assert service.state() == ready


@pytest.mark.parametrize("case", CASES, ids=IDENTIFIERS)
def test_the_table_names_every_field(case: Case) -> None:
    assert set(case.fields) | case.skipped == set(case.model.model_fields)


def test_the_tables_name_every_route_with_a_body() -> None:
    templates = {case.path.replace("run_one", "{run_id}") for case in CASES}
    posts = {r.path for router in NATIVE for r in router.routes if "POST" in r.methods}
    assert templates | {"/v1/runs/import"} == posts  # that one takes an archive


POSTS = sorted({case.path for case in CASES})


@pytest.mark.parametrize("path", POSTS)
async def test_bodies_that_are_no_good_json(
    path: str,
    client: httpx.AsyncClient,
    service: FakeService,
    ready: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for raw in RAW_BODIES:
        began_s = time.perf_counter()
        answer = await client.post(path, content=raw, headers=JSON_TYPE)
        assert_refused(answer, f"{path} {raw[:40]!r}")
        assert time.perf_counter() - began_s < 1
    assert service.state() == ready
    assert caplog.records == []


CONTENT_TYPES = [
    None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/json; charset=latin-1", "application/jsonx", "application/octet-stream",
]  # fmt: skip


@pytest.mark.parametrize("path", POSTS)
async def test_content_types_other_than_json(
    path: str, client: httpx.AsyncClient, service: FakeService, ready: Any
) -> None:
    for content_type in CONTENT_TYPES:
        headers = {} if content_type is None else {"Content-Type": content_type}
        answer = await client.post(path, content=b'{"input_ids":[1,2]}', headers=headers)
        assert answer.status_code == 415
        assert "Content-Type" in assert_refused(answer, path)["message"]
    assert service.state() == ready


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("declared", [True, False], ids=["with-length", "streamed"])
async def test_bodies_beyond_the_limit(
    path: str, declared: bool, client: httpx.AsyncClient, service: FakeService, ready: Any
) -> None:
    async def chunks():
        for _ in range(70):
            yield b" " * 1024

    content = b" " * 70 * 1024 if declared else chunks()
    answer = await client.post(path, content=content, headers=JSON_TYPE)
    assert answer.status_code == 413
    error = assert_refused(answer, path)
    assert error["code"] == "body_too_large"
    assert error["details"] == {"limit": 65536, "setting": "limits.max_body_bytes"}
    assert service.state() == ready


@pytest.mark.parametrize("path", POSTS)
async def test_wait_and_idempotency_key_out_of_range(
    path: str, client: httpx.AsyncClient, service: FakeService, ready: Any
) -> None:
    case = next(case for case in CASES if case.path == path)
    # POST /v1/runs has no wait: it answers when the run exists.
    for wait in ["-1", "61", "nan", "inf", "-inf", "soon", "", "1e999", "5s", "[]"]:
        answer = await client.post(path, json=case.body, params={"wait": wait})
        assert assert_refused(answer, path)["field"] == "wait"
    for key in ["", "x" * 201]:
        answer = await client.post(path, json=case.body, headers={"Idempotency-Key": key})
        assert assert_refused(answer, path)["field"].lower() == "idempotency-key"
    assert service.state() == ready


QUERIES = {
    "/v1/runs": {
        "limit": ["0", "-1", "1001", "x", "1.5", "", "true", "9" * 30],
        "offset": ["-1", "x", "9" * 30],
        "base_model": ["", "x" * 5000],
    },
    "/v1/jobs": {
        "limit": ["0", "-1", "1001", "x"],
        "offset": ["-1", "x", "9" * 30],
        "status": ["", "done", "COMPLETED"],
        "run_id": ["", "..", "a/b", "x" * 200],
    },
    "/v1/keys": {},
    "/v1/jobs/{job_id}": {"wait": ["-1", "61", "nan", "inf", "x"]},
    "/v1/checkpoints": {},
    "/v1/runs/{run_id}": {},
    "/v1/runs/{run_id}/checkpoints/{name}/files": {},
    "/v1/runs/{run_id}/checkpoints/{name}/files/{file}": {},
    "/v1/runs/{run_id}/log": {
        "limit": ["0", "-1", "1001", "x"],
        "after": ["-2", "x", "1.5", "9" * 30],
    },
    "/v1/runs/{run_id}/checkpoints": {},
    "/v1/models": {},
    "/v1/base_models/{name:path}/tokenizer": {},
    "/health": {},
    "/docs": {},
    "/docs/docs.js": {},
    "/docs/docs.css": {},
    "/openapi.json": {},
}
PATH_VALUES = {
    "{run_id}": "run_one",
    "{job_id}": "job_one",
    "{name:path}": "tiny",
    "{name}": "saved",
}


def filled(path: str) -> str:
    for template, value in PATH_VALUES.items():
        path = path.replace(template, value)
    return path


@pytest.mark.parametrize("path", QUERIES)
async def test_query_parameters(
    path: str,
    client: httpx.AsyncClient,
    service: FakeService,
    ready: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, values in QUERIES[path].items():
        for value in values:
            answer = await client.get(filled(path), params={name: value})
            error = assert_refused(answer, f"{path}?{name}={value}"[:200])
            assert error["field"] == name
        answer = await client.get(filled(path), params=f"{name}=1&{name}=1")
        assert_refused(answer, f"{path} {name} twice")
    error = assert_refused(await client.get(filled(path), params={"limits": 5}), path)
    assert error["code"] == "unknown_field"
    assert error["field"] == "limits"
    assert service.state() == ready
    assert caplog.records == []


def test_the_queries_name_every_route_that_reads() -> None:
    gets = {r.path for router in NATIVE for r in router.routes if "GET" in r.methods}
    assert gets == set(QUERIES)


NAMED = sorted(
    (method, route.path)
    for router in NATIVE
    for route in router.routes
    for method in route.methods
    if "{" in route.path
)


BAD_NAMES = [
    "unknown", "%2e%2e", "..%2F..%2Fetc", "a%2Fb", "a%20b", "%00", "x" * 200, "%F0%9F%98%80", ".hidden", "a%5Cb",
]  # fmt: skip
CODES = {
    "invalid_name", "route_not_found", "run_not_found", "job_not_found", "checkpoint_not_found", "model_not_found",
    "method_not_allowed",
}  # fmt: skip


@pytest.mark.parametrize(("method", "path"), NAMED)
async def test_names_in_paths(
    method: str, path: str, client: httpx.AsyncClient, service: FakeService, ready: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    bodies = {case.path.replace("run_one", "{run_id}"): case.body for case in CASES}
    for template in [template for template in PATH_VALUES if template in path]:
        for bad in BAD_NAMES:
            url = filled(path.replace(template, bad))
            body = bodies[path] if method == "POST" else {} if method == "PATCH" else None
            answer = await client.request(method, f"http://localhost{url}", json=body)
            assert assert_refused(answer, f"{method} {url}")["code"] in CODES
    assert service.state() == ready
    assert caplog.records == []
