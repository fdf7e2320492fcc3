"""The OpenAI-compatible API through the ``openai`` package, curl, and plain HTTP for what they would not send."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from eztinker import EZTinkerClient
from eztinker.client.embedded import EmbeddedServer
from tests.conftest import DOCUMENTED_MODEL

openai = pytest.importorskip("openai", reason="needs the openai package: pip install openai")

CHAT = "nano"
MESSAGES = [{"role": "user", "content": "Tom has 3 apples and buys 4 more. How many now? 有多少？"}]
LONG = {"model": DOCUMENTED_MODEL, "prompt": "a", "max_tokens": 90}


@pytest.fixture(scope="module")
def ai(running_server: EmbeddedServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{running_server.base_url}/v1", api_key="unused", max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="module")
def native(running_server: EmbeddedServer) -> Iterator[EZTinkerClient]:
    with EZTinkerClient(running_server.base_url) as client:
        yield client


@pytest.fixture(scope="module")
def plain(running_server: EmbeddedServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running_server.base_url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def run(native: EZTinkerClient) -> str:
    """A run of the tiny model that has learned something, with a checkpoint ``c1`` of its first step."""
    run_id = native.create_run(DOCUMENTED_MODEL, lora_rank=4)
    for step in range(2):
        native.forward_backward(run_id, [40, 50, 60, 70, 80])
        native.optim_step(run_id, learning_rate=0.3)
        if step == 0:
            native.save_checkpoint(run_id, "c1")
    return run_id


# Whole answers ------------------------------------------------------------------------------------


def test_a_chat_is_answered_and_repeats_with_its_seed(ai) -> None:
    ask = {"model": CHAT, "messages": MESSAGES, "seed": 7, "temperature": 0.9, "max_tokens": 40}
    first, again = (ai.chat.completions.create(**ask) for _ in range(2))
    other = ai.chat.completions.create(**{**ask, "seed": 8})
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.choices[0].message.content != other.choices[0].message.content
    assert first.choices[0].message.role == "assistant"
    assert first.choices[0].finish_reason in {"stop", "length"}
    assert (first.object, first.model) == ("chat.completion", CHAT)
    assert first.usage.total_tokens == first.usage.prompt_tokens + first.usage.completion_tokens
    assert abs(first.created - time.time()) < 60


def test_a_conversation_goes_on_with_the_answer_as_it_came(ai) -> None:
    ask = {"model": CHAT, "temperature": 0, "max_completion_tokens": 8}
    first = ai.chat.completions.create(messages=MESSAGES, **ask).choices[0].message
    parts = [{"type": "text", "text": "And "}, {"type": "text", "text": "then?"}]
    turns = [{"role": "developer", "content": "Be brief."}, *MESSAGES, first.model_dump()]
    turns.append({"role": "user", "content": parts})
    assert ai.chat.completions.create(messages=turns, **ask).choices[0].message.content is not None


def test_many_answers_to_many_prompts(ai) -> None:
    answer = ai.completions.create(
        model=DOCUMENTED_MODEL, prompt=[[9, 8, 7], [40, 50]], n=2, seed=1, max_tokens=6
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) == 4
    assert answer.usage.prompt_tokens == 3 + 2
    alone = ai.completions.create(
        model=DOCUMENTED_MODEL, prompt=[40, 50], n=2, seed=1, max_tokens=6
    )
    assert [c.text for c in alone.choices] == [c.text for c in answer.choices[2:]]


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(ai) -> None:
    ask = {"model": CHAT, "messages": MESSAGES, "temperature": 0, "max_tokens": 30}
    whole = ai.chat.completions.create(**ask).choices[0].message.content
    middle = whole[len(whole) // 2 :][:2]
    stopped = ai.chat.completions.create(**ask, stop=middle).choices[0]
    assert stopped.message.content == whole[: whole.index(middle)]
    assert stopped.finish_reason == "stop"


def test_penalties_change_what_is_drawn(ai) -> None:
    ask = {"model": DOCUMENTED_MODEL, "prompt": "a", "max_tokens": 40, "temperature": 0}
    plain = ai.completions.create(**ask, logprobs=0).choices[0].logprobs.tokens
    spread = ai.completions.create(**ask, logprobs=0, presence_penalty=2, frequency_penalty=2)
    assert len(set(spread.choices[0].logprobs.tokens)) > len(set(plain))


# Log-probabilities --------------------------------------------------------------------------------


def test_chat_logprobs_are_those_of_the_tokens_of_the_text(ai) -> None:
    answer = ai.chat.completions.create(
        model=CHAT, messages=MESSAGES, temperature=0, max_tokens=20, logprobs=True, top_logprobs=3
    ).choices[0]
    entries = answer.logprobs.content
    spelled = b"".join(bytes(entry.bytes) for entry in entries)
    assert spelled.decode() == answer.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob
        assert sum(np.exp(top.logprob) for top in entry.top_logprobs) <= 1 + 1e-6


def test_echoed_logprobs_are_the_trainers(ai, native, run) -> None:
    ids = [40, 50, 60, 71, 81]
    answer = ai.completions.create(model=run, prompt=ids, echo=True, max_tokens=0, logprobs=2)
    told = answer.choices[0].logprobs
    trained = native.forward(run, ids)["logprobs"][0]
    assert told.token_logprobs[0] is None
    np.testing.assert_allclose(told.token_logprobs[1:], trained[1:], atol=2e-5)
    assert [len(top or {}) for top in told.top_logprobs] >= [0, 2, 2, 2, 2]
    assert answer.usage.completion_tokens == 0
    text = answer.choices[0].text
    assert [text[offset] for offset in told.text_offset] == list(text)


# Streams ------------------------------------------------------------------------------------------

STREAMED = [
    {"max_tokens": 25, "seed": 3},
    {"max_tokens": 25, "seed": 3, "n": 3, "stop": [" ", "\n", "#### 1"]},
    {"max_tokens": 12, "seed": 5, "logprobs": True, "top_logprobs": 2, "stop": ["8", "ll"]},
]


@pytest.mark.parametrize("asked", STREAMED)
def test_a_streamed_chat_is_the_whole_one_in_pieces(ai, asked) -> None:
    ask = {"model": CHAT, "messages": MESSAGES, "temperature": 1.3, **asked}
    whole = ai.chat.completions.create(**ask)
    chunks = list(
        ai.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks[:-1] if c.choices[0].index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert [c.finish_reason for c in mine if c.finish_reason] == [choice.finish_reason]
        assert mine[-1].finish_reason is not None
        if choice.logprobs is not None:
            told = [e for c in mine if c.logprobs for e in c.logprobs.content]
            assert told == choice.logprobs.content


@pytest.mark.parametrize("asked", [{}, {"logprobs": 2}])
def test_streamed_completions_of_two_prompts_with_echo(ai, asked) -> None:
    ask = {"model": CHAT, "prompt": ["Hello 你", "A "], "n": 2, "seed": 3, "echo": True} | asked
    whole = ai.completions.create(**ask, max_tokens=9)
    chunks = list(ai.completions.create(**ask, max_tokens=9, stream=True))
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks if c.choices[0].index == choice.index]
        assert "".join(c.text for c in mine) == choice.text
        if choice.logprobs is not None:
            told = [token for c in mine if c.logprobs for token in c.logprobs.tokens]
            assert told == choice.logprobs.tokens


def test_tokens_come_while_they_are_drawn(ai, plain) -> None:
    with ai.completions.create(**LONG, n=32, seed=1, stream=True) as stream:
        first = next(iter(stream))
        job_id = first.id.removeprefix("cmpl-")
        assert plain.get(f"/v1/jobs/{job_id}").json()["status"] == "running"
    assert first.choices[0].text


def wait_for_status(plain: httpx.Client, job_id: str) -> str:
    for _ in range(100):
        status = plain.get(f"/v1/jobs/{job_id}").json()["status"]
        if status not in {"queued", "running"}:
            return status
        time.sleep(0.02)
    raise AssertionError("the job still runs")


@pytest.mark.parametrize("with_key", [False, True])
def test_hanging_up_stops_a_stream_unless_the_client_may_come_back(ai, plain, with_key) -> None:
    headers = {"Idempotency-Key": f"stream-{time.monotonic_ns()}"} if with_key else {}
    ask = {**LONG, "n": 32, "seed": 2, "stream": True, "extra_headers": headers}
    with ai.completions.create(**ask) as stream:
        job_id = next(iter(stream)).id.removeprefix("cmpl-")
    assert wait_for_status(plain, job_id) == ("completed" if with_key else "cancelled")
    if with_key:
        again = list(ai.completions.create(**ask))
        assert again[0].id == f"cmpl-{job_id}"
        kept = plain.get(f"/v1/jobs/{job_id}").json()["result"]["sequences"]
        texts = [
            "".join(c.choices[0].text for c in again if c.choices[0].index == i) for i in (0, 31)
        ]
        assert texts == [kept[0]["text"], kept[31]["text"]]


def test_hanging_up_stops_a_whole_answer_too(running_server, plain) -> None:
    body = {**LONG, "n": 64, "seed": 4, "user": "gone"}
    before = {job["job_id"] for job in plain.get("/v1/jobs").json()["jobs"]}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{running_server.base_url}/v1/completions", json=body, timeout=0.15)
    job_ids = {job["job_id"] for job in plain.get("/v1/jobs").json()["jobs"]} - before
    assert [wait_for_status(plain, job_id) for job_id in job_ids] == ["cancelled"]


def test_the_same_key_is_the_same_answer(ai) -> None:
    headers = {"Idempotency-Key": f"whole-{time.monotonic_ns()}"}
    ask = {"model": CHAT, "messages": MESSAGES, "max_tokens": 5, "extra_headers": headers}
    assert ai.chat.completions.create(**ask) == ai.chat.completions.create(**ask)


# Models -------------------------------------------------------------------------------------------


def test_every_name_of_weights_is_a_model(ai, native, sdk, running_server, run) -> None:
    with sdk.ServiceClient(base_url=running_server.base_url, api_key="tml-local") as service:
        training = service.create_lora_training_client(base_model=DOCUMENTED_MODEL, rank=2).result()
        path = training.save_weights_for_sampler(name="w").result().path
    base = DOCUMENTED_MODEL
    names = [base, run, f"{run}@c1", path, f"{base};{path}"]
    answers = {
        name: ai.completions.create(
            model=name, prompt=[40, 50, 60], max_tokens=1, temperature=0, logprobs=0
        )
        for name in names
    }
    told = {name: a.choices[0].logprobs.token_logprobs[0] for name, a in answers.items()}
    assert answers[run].system_fingerprint == "step-2"
    assert answers[f"{run}@c1"].system_fingerprint == "step-1"
    assert len({told[base], told[run], told[f"{run}@c1"]}) == 3
    assert told[path] == told[f"{base};{path}"] == told[base]  # a fresh adapter changes nothing
    assert {model.id for model in ai.models.list()} >= {base, run, f"{run}@c1", "nano"}
    assert [ai.models.retrieve(name).id for name in names] == names


def test_the_tinker_services_address_is_ours_too(running_server) -> None:
    url = f"{running_server.base_url}/oai/api/v1"
    with openai.OpenAI(base_url=url, api_key="tml-x", max_retries=0) as client:
        assert client.completions.create(model=CHAT, prompt="a", max_tokens=1).usage
        assert client.chat.completions.create(model=CHAT, messages=MESSAGES, max_tokens=1).usage
        assert "nano" in [model.id for model in client.models.list()]


@pytest.mark.parametrize(
    "name",
    ["/no/such/folder", "run_none@c1", "tinker://run_none/weights/w", "nano;tinker://r/weights/w"],
)
def test_an_unknown_model_is_not_found(ai, name) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ai.chat.completions.create(model=name, messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


# Refusals -----------------------------------------------------------------------------------------

CHAT_REFUSED = {
    "audio": {"voice": "x", "format": "wav"}, "function_call": "auto", "functions": [{"name": "f"}],
    "logit_bias": {"5": 1.0}, "modalities": ["audio"], "moderation": {"x": 1}, "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "x"}, "prompt_cache_options": {"x": 1},
    "prompt_cache_retention": "24h", "reasoning_effort": "low", "response_format": {"type": "json_object"},
    "service_tier": "flex", "store": True, "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "f"}}], "verbosity": "low", "web_search_options": {"x": 1},
    "n": 0, "stop": "", "seed": -1, "temperature": 2.1, "top_p": 0, "presence_penalty": 2.5,
    "frequency_penalty": -3, "max_tokens": 0, "top_logprobs": 21, "logprobs": 3, "messages": [],
    "stream_options": {"include_usage": True}, "streem": True, "max_completion_tokens": 10**9,
}  # fmt: skip
TEXT_REFUSED = {
    "best_of": 3, "suffix": "x", "logit_bias": {"5": -1.0}, "max_tokens": 0, "logprobs": 21, "echo": "yes",
    "prompt": [], "model": "", "n": 10_000, "messages": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "refused"),
    [
        ("chat/completions", {"messages": MESSAGES}, CHAT_REFUSED),
        ("completions", {"prompt": "a"}, TEXT_REFUSED),
    ],
)
def test_what_is_not_here_is_refused_by_name(plain, path, body, refused) -> None:
    num_jobs = plain.get("/v1/jobs").json()["total"]
    for name, value in refused.items():
        answer = plain.post(f"/v1/{path}", json={"model": CHAT, **body, name: value})
        assert answer.status_code == 400, name
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert name in error["message"] or error["code"] == "context_length_exceeded"
    assert plain.get("/v1/jobs").json()["total"] == num_jobs


def test_fields_that_ask_for_nothing_are_accepted(ai) -> None:
    answer = ai.chat.completions.create(
        model=CHAT,
        messages=MESSAGES,
        max_tokens=1,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        logit_bias={},
        store=False,
        service_tier="auto",
        user="someone",
        metadata={"a": "b"},
        temperature=None,
        stop=None,
        n=None,
    )
    assert [choice.finish_reason for choice in answer.choices] == ["length"]
    assert answer.choices[0].message.tool_calls is None


BAD_BODIES = {
    b"{": "invalid_json",
    b"[]": "invalid_request",
    b'{"model": "nano"}': "missing_field",
    b'{"model": "nano", "messages": [{"role": "user"}]}': "invalid_request",
    b'{"model": "nano", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}': "unsupported",
    b'{"model": "nano", "messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"x": 1}}': "invalid_request",
}


def test_a_bad_body_is_400_in_openais_shape(plain) -> None:
    headers = {"Content-Type": "application/json"}
    for content, code in BAD_BODIES.items():
        answer = plain.post("/v1/chat/completions", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code), content


def test_a_prompt_beyond_the_context_is_named(plain) -> None:
    body = {"model": DOCUMENTED_MODEL, "prompt": "a" * 97, "max_tokens": 1}
    error = plain.post("/v1/completions", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")


def test_a_model_without_chat_template_says_so(plain) -> None:
    body = {"model": DOCUMENTED_MODEL, "messages": MESSAGES}
    answer = plain.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_chat_template")


# curl ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_reads_answers_and_events(running_server) -> None:
    def curl(path: str, body: dict) -> str:
        command = ["curl", "-sSN", f"{running_server.base_url}/v1/{path}"]
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    ask = {"model": CHAT, "messages": MESSAGES, "temperature": 0, "max_tokens": 8}
    whole = json.loads(curl("chat/completions", ask))["choices"][0]["message"]["content"]
    lines = [line for line in curl("chat/completions", {**ask, "stream": True}).split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == whole
    assert json.loads(curl("completions", {"model": CHAT}))["error"]["code"] == "missing_field"
