"""Many clients of many tenants, one of which floods: errors, fairness, latency of polls, memory.

``python -m benchmarks.load [--clients 512] [--tenants 64] [--seconds 30] [--warm-up-seconds 5] [--out FILE]``;
with ``--seconds 3600 --warm-up-seconds 300`` it is the hour over which memory must not grow, once the flood has
filled its queue. Starts a real server over the built-in model with a key for each tenant. Every tenant trains a run of its own: each of its clients submits a pass,
polls once, and waits for the end. The clients of the first tenant submit as fast as they can and never
wait. Needs no network.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks import machine
from eztinker.client.embedded import EmbeddedServer

TOKENS = list(range(10, 26))
LOOK_EVERY_S = 1.0


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        statuses: answers by status.
        polls_s, submits_s: durations of polls, and of submissions that were accepted.
        untold: waiting jobs whose answer lacked position, reason or (once known) estimate.
        most_queued: longest queue of the server.
        memory_bytes: of server and worker, once a second after the warm-up.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    polls_s: list[float] = field(default_factory=list)
    submits_s: list[float] = field(default_factory=list)
    num_waiting: int = 0
    untold: Counter[str] = field(default_factory=Counter)
    most_queued: int = 0
    memory_bytes: list[int] = field(default_factory=list)


class Connection:
    """HTTP/1.1 over one connection, and nothing that costs: the clients share the server's cores."""

    def __init__(self, base_url: str, key: str) -> None:
        address = urlsplit(base_url)
        self._host, self._port = address.hostname or "", address.port or 0
        self._head = f"Host: {self._host}:{self._port}\r\nX-API-Key: {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of one answer."""
        # A server hangs up on who says nothing for a while.
        if self._streams is None or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith("content-length:"))
        return int(lines[0].split()[1]), json.loads(await reader.readexactly(length))

    async def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()


def main() -> None:
    """Measure and report."""
    options = machine.parser(__doc__)
    options.add_argument("--clients", type=int, default=512)
    options.add_argument("--tenants", type=int, default=64)
    options.add_argument("--seconds", type=float, default=30.0, help="after the warm-up")
    options.add_argument("--warm-up-seconds", type=float, default=5.0)
    given = options.parse_args()
    machine.note("starting a server …")
    # Durations are measured at whole queues, so the flood may fill its own.
    server = EmbeddedServer(["nano"], settings={"num_threads": 1})
    try:
        figures = asyncio.run(measure(server, given))
    finally:
        server.close()
    machine.report("load", figures, given)


async def measure(server: EmbeddedServer, given: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    num_clients, num_tenants, seconds = given.clients, given.tenants, given.seconds
    admin = Connection(server.base_url, server.api_key or "")
    keys = [await _key(admin, f"tenant{number}") for number in range(num_tenants)]
    runs = await asyncio.gather(*(_run(server.base_url, key) for key in keys))
    seen, stop = Seen(), asyncio.Event()
    clients = [
        Connection(server.base_url, keys[number % num_tenants]) for number in range(num_clients)
    ]
    work: list[Coroutine[Any, Any, None]] = [
        _flood(client, runs[0], seen, stop)
        if number % num_tenants == 0
        else _train(client, runs[number % num_tenants], seen, stop)
        for number, client in enumerate(clients)
    ]
    machine.note(f"{num_clients} clients of {num_tenants} tenants for {seconds:g} s …")
    tasks = [asyncio.create_task(client) for client in (*work, _watch(server, admin, seen, stop))]
    await asyncio.sleep(given.warm_up_seconds)
    before = [await _num_completed(admin, run) for run in runs]
    seen.polls_s.clear()
    seen.submits_s.clear()
    seen.memory_bytes.clear()
    began_s = time.monotonic()
    await asyncio.sleep(seconds)
    done = [await _num_completed(admin, run) - num for run, num in zip(runs, before, strict=True)]
    took_s = time.monotonic() - began_s
    stop.set()
    await asyncio.wait(tasks, timeout=30)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [o for o in outcomes if isinstance(o, Exception)]
    for client in (*clients, admin):
        await client.close()
    return _figures(seen, done, took_s, num_clients, failures)


def _figures(
    seen: Seen, done: list[int], took_s: float, num_clients: int, failures: list[Exception]
) -> dict[str, Any]:
    tenth = max(1, len(seen.memory_bytes) // 10)
    start, end = np.median(seen.memory_bytes[:tenth]), np.median(seen.memory_bytes[-tenth:])
    return {
        "num_clients": num_clients,
        "num_tenants": len(done),
        "seconds": round(took_s, 1),
        "completed_per_s": round(sum(done) / took_s, 1),
        "completed_by_flooding_tenant": done[0],
        "completed_by_others": {"min": min(done[1:]), "max": max(done[1:])},
        "jain_index": round(jain(done), 4),
        "answers_by_status": dict(sorted(seen.statuses.items())),
        "broken_connections": len(failures),
        "first_failure": repr(failures[0]) if failures else None,
        "poll": machine.percentiles_ms(seen.polls_s),
        "submit": machine.percentiles_ms(seen.submits_s),
        "most_queued_jobs": seen.most_queued,
        "waiting_jobs_seen": seen.num_waiting,
        "waiting_jobs_lacking": dict(seen.untold),
        "memory_mb": {"start": round(start / 1e6, 1), "end": round(end / 1e6, 1)},
        "memory_growth_percent": round(100 * (end / start - 1), 2),
    }


def jain(shares: list[int]) -> float:
    """Jain's index of fairness (Jain, Chiu & Hawe 1984): 1 for equal shares, 1/n if one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares) or 1)


async def _key(admin: Connection, name: str) -> str:
    status, made = await admin.ask("POST", "/v1/keys", {"name": name})
    assert status == 200, made
    return made["key"]


async def _run(base_url: str, key: str) -> str:
    client = Connection(base_url, key)
    body = {"base_model": "nano", "lora_config": {"r": 1, "lora_dropout": 0.0}}
    status, created = await client.ask("POST", "/v1/runs", body)
    assert status == 200, created
    await client.close()
    return created["run_id"]


async def _num_completed(admin: Connection, run_id: str) -> int:
    path = f"/v1/jobs?run_id={run_id}&status=completed&limit=1"
    status, listed = await admin.ask("GET", path)
    assert status == 200, listed
    return listed["total"]


async def _submit(client: Connection, run_id: str, seen: Seen) -> Any:
    began_s = time.perf_counter()
    path = f"/v1/runs/{run_id}/forward_backward?wait=0"
    status, answer = await client.ask("POST", path, {"input_ids": TOKENS})
    seen.statuses[status] += 1
    if status == 200:
        seen.submits_s.append(time.perf_counter() - began_s)
    return answer if status == 200 else None


async def _train(client: Connection, run_id: str, seen: Seen, stop: asyncio.Event) -> None:
    """Submit, poll once, wait for the end; and again."""
    while not stop.is_set():
        submitted = await _submit(client, run_id, seen)
        if submitted is None:
            await asyncio.sleep(1.0)  # what Retry-After says
            continue
        began_s = time.perf_counter()
        status, job = await client.ask("GET", f"/v1/jobs/{submitted['job_id']}")
        seen.polls_s.append(time.perf_counter() - began_s)
        seen.statuses[status] += 1
        _check_told(job, seen)
        while job.get("status") in ("queued", "running") and not stop.is_set():
            status, job = await client.ask("GET", f"/v1/jobs/{submitted['job_id']}?wait=10")
            seen.statuses[status] += 1
        assert job.get("status") in ("completed", "queued", "running"), job


def _check_told(job: Any, seen: Seen) -> None:
    if job["status"] != "queued":
        return
    seen.num_waiting += 1
    names = ("queue_position", "wait_reason", "estimated_wait_s")
    seen.untold.update(name for name in names if job[name] is None)


async def _flood(client: Connection, run_id: str, seen: Seen, stop: asyncio.Event) -> None:
    """Submit and never wait, whatever the answers say."""
    while not stop.is_set():
        await _submit(client, run_id, seen)
        await asyncio.sleep(0.01)


async def _watch(
    server: EmbeddedServer, admin: Connection, seen: Seen, stop: asyncio.Event
) -> None:
    """Memory of the server with its worker, and the length of its queue."""
    watcher = Connection(server.base_url, server.api_key or "")
    root = psutil.Process(server.pid)
    for _ in itertools.count():
        if stop.is_set():
            await watcher.close()
            return
        _, health = await watcher.ask("GET", "/health")
        seen.most_queued = max(seen.most_queued, health["queued_jobs"])
        processes = [root, *root.children(recursive=True)]
        used = sum(process.memory_info().rss for process in processes)
        seen.memory_bytes.append(used)
        await asyncio.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    main()
