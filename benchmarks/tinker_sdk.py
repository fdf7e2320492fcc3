"""Latencies of the Tinker wire with the official SDK: a smallest pass, taking in data, many samples, waiting.

``python -m benchmarks.tinker_sdk [--out FILE]``. Starts a real server over a tiny random model, so
that the figures are those of the wire and not of a model. Needs the SDK (``pip install tinker``) and
no network.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks import machine
from benchmarks.native_api import MAKE_MODEL, MODEL
from eztinker.client.embedded import EmbeddedServer
from eztinker.models.proto.tinker_public import DTYPES, ForwardBackwardRequest

NUM_ROUND_TRIPS = 200
NUM_BODIES = 50
NUM_SAMPLES = 512
NUM_OPEN_POLLS = 100
IDLE_S = 10.0
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def main() -> None:
    """Measure and report."""
    arguments = machine.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
        model = Path(temporary) / "model"
        machine.note("making a model and starting a server …")
        subprocess.run([sys.executable, "-c", MAKE_MODEL, str(model)], check=True)
        settings = {"aliases": {MODEL: str(model)}, "num_threads": 1}
        server = EmbeddedServer([MODEL], settings=settings)
        try:
            machine.report("tinker_sdk", _measure(server), arguments)
        finally:
            server.close()


def _measure(server: EmbeddedServer) -> dict[str, Any]:
    import tinker

    with tinker.ServiceClient(base_url=server.base_url, api_key="tml-local") as service:
        figures = {"one_token_forward_backward": machine.percentiles_ms(_round_trips(service))}
        machine.note("taking in 64 x 256 tokens …")
        figures["take_in_64_x_256_tokens"] = machine.percentiles_ms(_take_in(service, server))
        machine.note(f"{NUM_SAMPLES} samples at once …")
        figures |= _samples(service, server)
    machine.note(f"{NUM_OPEN_POLLS} open polls for {IDLE_S:.0f} s …")
    return figures | asyncio.run(_idle(server))


def _round_trips(service: Any) -> list[float]:
    """Seconds of a pass over one token, from call to result."""
    from tinker import Datum, ModelInput

    client = service.create_lora_training_client(base_model=MODEL, rank=8).result()
    inputs: Any = {"target_tokens": [6], "weights": [1.0]}
    data = [Datum(model_input=ModelInput.from_ints([5]), loss_fn_inputs=inputs)]
    durations_s = []
    for number in range(NUM_ROUND_TRIPS + 10):
        started_s = time.perf_counter()
        client.forward_backward(data, "cross_entropy").result()
        if number >= 10:
            durations_s.append(time.perf_counter() - started_s)
    return durations_s


def _take_in(service: Any, server: EmbeddedServer) -> list[float]:
    """Seconds from sending a body to its promise, which is a durable, queued operation.

    The operations wait for number 1, which never comes: nothing is computed meanwhile.
    """
    client = service.create_lora_training_client(base_model=MODEL, rank=8).result()
    durations_s = []
    with httpx.Client(base_url=f"{server.base_url}/api/v1") as http:
        for seq_id in range(2, 2 + NUM_BODIES):
            body = _pass_of_64(client.model_id, seq_id)
            started_s = time.perf_counter()
            http.post("/forward_backward", content=body, headers=PROTOBUF).raise_for_status()
            durations_s.append(time.perf_counter() - started_s)
    return durations_s


def _pass_of_64(model_id: str, seq_id: int) -> bytes:
    message = ForwardBackwardRequest(model_id=model_id, seq_id=seq_id, loss_fn="cross_entropy")
    tokens = np.arange(seq_id, seq_id + 256) % 500
    for _ in range(64):
        datum = message.data.add()
        datum.model_input.add().encoded_text.tokens = tokens.astype("<i4").tobytes()
        for name, values, kind in (
            ("target_tokens", tokens.astype("<i8"), "int64"),
            ("weights", np.ones(256, "<f4"), "float32"),
        ):
            tensor = datum.loss_fn_inputs[name]
            tensor.dense, tensor.dtype = values.tobytes(), DTYPES[kind]
            tensor.shape.append(256)
    return message.SerializeToString()


def _samples(service: Any, server: EmbeddedServer) -> dict[str, Any]:
    """Many samples under way at once, and how long a poll of a finished future takes meanwhile."""
    from tinker import ModelInput, SamplingParams

    client = service.create_sampling_client(base_model=MODEL)
    client = client.result() if hasattr(client, "result") else client
    params = SamplingParams(max_tokens=32, stop=[])
    client.sample(ModelInput.from_ints([5, 6]), 1, params).result()
    stop, polls_s = threading.Event(), []
    prober = threading.Thread(target=_probe, args=(server, stop, polls_s))
    prober.start()
    started_s = time.perf_counter()
    futures = [
        client.sample(ModelInput.from_ints([5, 6, index % 400]), 1, params)
        for index in range(NUM_SAMPLES)
    ]
    num_tokens = sum(len(f.result().sequences[0].tokens) for f in futures)
    seconds = time.perf_counter() - started_s
    stop.set()
    prober.join()
    return {
        f"{NUM_SAMPLES}_samples_s": round(seconds, 3),
        "sampled_tokens_per_s": round(num_tokens / seconds),
        "poll_meanwhile": machine.percentiles_ms(polls_s),
    }


def _probe(server: EmbeddedServer, stop: threading.Event, polls_s: list[float]) -> None:
    with httpx.Client(base_url=f"{server.base_url}/api/v1", timeout=60) as http:
        done = _finished_future(http)
        while not stop.is_set() or not polls_s:
            started_s = time.perf_counter()
            http.post("/retrieve_future", json={"request_id": done}).raise_for_status()
            polls_s.append(time.perf_counter() - started_s)
            time.sleep(0.005)


def _finished_future(http: httpx.Client) -> str:
    session_id = http.post("/create_session", json={}).json()["session_id"]
    body = {"session_id": session_id, "model_seq_id": 0, "base_model": MODEL}
    request_id = http.post("/create_model", json=body).json()["request_id"]
    while http.post("/retrieve_future", json={"request_id": request_id}).status_code == 408:
        pass
    return request_id


async def _idle(server: EmbeddedServer) -> dict[str, Any]:
    """CPU seconds of the server and its worker while polls are open and nothing happens."""
    address = f"{server.base_url}/api/v1"
    limits = httpx.Limits(max_connections=NUM_OPEN_POLLS + 10)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as http:
        session_id = (await http.post("/create_session", json={})).json()["session_id"]
        body = {"session_id": session_id, "model_seq_id": 0, "base_model": MODEL}
        made = (await http.post("/create_model", json=body)).json()
        await http.post("/retrieve_future", json={"request_id": made["request_id"]})
        step = {"model_id": made["model_id"], "adam_params": {}}
        ids = [
            (await http.post("/optim_step", json={**step, "seq_id": seq_id})).json()["request_id"]
            for seq_id in itertools.islice(itertools.count(2), NUM_OPEN_POLLS)
        ]
        polls = [
            asyncio.create_task(http.post("/retrieve_future", json={"request_id": request_id}))
            for request_id in ids
        ]
        await asyncio.sleep(1.0)
        before_s = _cpu_s()
        await asyncio.sleep(IDLE_S)
        used_s = _cpu_s() - before_s
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
    return {f"cpu_s_in_{IDLE_S:.0f}_s_of_{NUM_OPEN_POLLS}_open_polls": round(used_s, 3)}


def _cpu_s() -> float:
    """Of this process's children: the server, and its worker below it."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(spent.user + spent.system for spent in times)


if __name__ == "__main__":
    main()
