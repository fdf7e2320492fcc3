"""A service in a dictionary: enough of the native API to test the client and the command line.

``script`` holds what the next requests meet before they reach the service: an answer, an exception to raise,
or None to let one through.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

Step = httpx.Response | Exception | None


def refused() -> Exception:
    """Nothing listens."""
    return httpx.ConnectError("[Errno 111] Connection refused")


def broken() -> Exception:
    """The connection ended before the answer."""
    return httpx.RemoteProtocolError("Server disconnected without sending a response.")


def error(status: int, code: str, message: str, **fields: Any) -> httpx.Response:
    """An error as the API answers it."""
    body = {"error": {"code": code, "message": message, **fields}, "request_id": "req_1"}
    return httpx.Response(status, json=body)


@dataclass
class FakeService:
    """Answers requests; remembers them in ``seen``."""

    script: list[Step] = field(default_factory=list)
    seen: list[httpx.Request] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    num_polls_to_finish: int = 0
    page_size: int = 100

    def transport(self) -> httpx.MockTransport:
        """For ``EZTinkerClient(transport=…)`` and its async twin."""
        return httpx.MockTransport(self.handle)

    @property
    def bodies(self) -> list[Any]:
        """Bodies of the POSTs seen so far."""
        return [json.loads(request.content) for request in self.seen if request.method == "POST"]

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Meet the script, then the service."""
        self.seen.append(request)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        return self.answer(request) if step is None else step

    def answer(self, request: httpx.Request) -> httpx.Response:
        """What the service says."""
        parts = request.url.path.strip("/").split("/")
        body = json.loads(request.content) if request.content else {}
        match request.method, parts:
            case "GET", ["health"]:
                return httpx.Response(200, json={"status": "ok", "version": "9.9"})
            case "GET", ["v1", "models"]:
                models = [{"id": "nano", "kind": "base_model"}]
                models += [{"id": run_id, "kind": "run"} for run_id in self.runs]
                return httpx.Response(200, json={"data": models, "default": "nano"})
            case "GET", ["v1", "models", name]:
                if name != "nano" and name not in self.runs:
                    return error(404, "model_not_found", f"model: there is no {name!r}")
                return httpx.Response(200, json={"id": name})
            case "GET", ["v1", "base_models", *_]:
                files = {"tokenizer.json": "{}", "config.json": "{}"}
                return httpx.Response(200, json={"files": files})
            case "GET", ["v1", "runs"]:
                return self._page_of_runs(int(request.url.params.get("offset", 0)))
            case "POST", ["v1", "runs"]:
                return self._create(body)
            case "DELETE", ["v1", "runs", run_id]:
                if self.runs.pop(run_id, None) is None:
                    return error(404, "not_found", f"There is no run {run_id!r}.")
                return httpx.Response(200, json={"status": "deleted", "run_id": run_id})
            case "GET", ["v1", "checkpoints"]:
                return httpx.Response(200, json={"checkpoints": self.checkpoints})
            case "GET", ["v1", "jobs"]:
                status = request.url.params.get("status")
                jobs = [job for job in self.jobs.values() if status in (None, job["status"])]
                return httpx.Response(200, json={"jobs": jobs, "total": len(jobs)})
            case "GET", ["v1", "jobs", job_id]:
                return self._poll(job_id)
            case "DELETE", ["v1", "jobs", job_id]:
                self.jobs[job_id] |= {"status": "cancelled", "error": {"code": "cancelled"}}
                return httpx.Response(200, json=self.jobs[job_id])
            case "POST", ["v1", "sample"]:
                return self._submit("sample", _sampled(body))
            case "POST", ["v1", "chat", "completions"]:
                return httpx.Response(200, text=_streamed(" answer", " 0"))
            case "POST", ["v1", "runs", run_id, kind]:
                return self._submit(kind, {"run_id": run_id, "path": f"/ck/{body.get('name')}"})
        return error(404, "route_not_found", f"There is no {request.url.path}.")

    def _page_of_runs(self, offset: int) -> httpx.Response:
        runs = list(self.runs.values())
        page = runs[offset : offset + self.page_size]
        return httpx.Response(200, json={"runs": page, "total": len(runs)})

    def _create(self, body: dict[str, Any]) -> httpx.Response:
        run_id = body.get("run_id") or f"run_{len(self.runs):08x}"
        if run_id in self.runs:
            return error(409, "already_exists", f"A run named {run_id!r} exists.", field="run_id")
        self.runs[run_id] = {"run_id": run_id, "base_model": body["base_model"], "device": "cpu"}
        return httpx.Response(200, json={"run_id": run_id, "status": "created", "message": ""})

    def _submit(self, kind: str, result: dict[str, Any]) -> httpx.Response:
        job_id = f"job_{len(self.jobs):08x}"
        done = self.num_polls_to_finish == 0
        self.jobs[job_id] = {
            "job_id": job_id,
            "run_id": None,
            "kind": kind,
            "status": "completed" if done else "running",
            "created_at": "2026-01-01T00:00:00Z",
            "result": result,
            "error": None,
            "wait_reason": None,
        }
        answer = {"job_id": job_id, "status": self.jobs[job_id]["status"]}
        return httpx.Response(200, json=answer | ({"result": result} if done else {}))

    def _poll(self, job_id: str) -> httpx.Response:
        if job_id not in self.jobs:
            return error(404, "not_found", f"There is no job {job_id!r}.")
        job = self.jobs[job_id]
        if job["status"] == "running":
            self.num_polls_to_finish -= 1
            if self.num_polls_to_finish <= 0:
                job["status"] = "completed"
        shown = job if job["status"] != "running" else job | {"result": None}
        return httpx.Response(200, json=shown)


def _sampled(body: dict[str, Any]) -> dict[str, Any]:
    prompt = body.get("prompt") or body["messages"][-1]["content"]
    texts = [f" answer {index}" for index in range(body.get("num_samples", 1))]
    sequences = [{"text": text, "tokens": [1], "logprobs": [0.0]} for text in texts]
    return {"generated_text": f"{prompt}{texts[0]}", "sequences": sequences}


def _streamed(*pieces: str) -> str:
    """Server-sent events of a chat answer, with a sign of life in between."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces), {}]
    events = [json.dumps({"choices": [{"index": 0, "delta": delta}]}) for delta in deltas]
    return ": waiting\n\n".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
