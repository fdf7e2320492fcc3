"""Checks of a client's start: switches, session, heartbeat, telemetry, capabilities."""

from __future__ import annotations

import time

from eztinker.conformance.checks import Figures, check
from eztinker.conformance.expectations import expect
from eztinker.conformance.target import Target

_GROUP = "start"
TELEMETRY_S = 1.0
"""A slower answer delays every error that the client reports to its user."""


@check(_GROUP)
def client_config(target: Target) -> None:
    """Client/config answers with switches."""
    target.config = target.asked("/client/config", {"sdk_version": "0.38.0"})


@check(_GROUP)
def healthz(target: Target) -> Figures:
    """Healthz says ok."""
    started_s = time.perf_counter()
    expect(target.got("/healthz").get("status") == "ok", "status ok")
    return {"milliseconds": round((time.perf_counter() - started_s) * 1e3, 2)}


@check(_GROUP)
def capabilities(target: Target) -> Figures:
    """Capabilities list the model."""
    models = target.got("/get_server_capabilities")["supported_models"]
    names = [model.get("model_name") for model in models]
    expect(target.base_model in names, f"{target.base_model} among the models", names)
    return {"num_models": len(names)}


@check(_GROUP)
def session(target: Target) -> None:
    """A session begins, and its heartbeat is answered."""
    answer = target.post("/session_heartbeat", {"session_id": target.session_id})
    expect(answer.status_code == 200, "200 for a heartbeat", answer.status_code)


@check(_GROUP)
def telemetry(target: Target) -> Figures:
    """Telemetry is answered at once."""
    started_s = time.perf_counter()
    events = [{"event": "GENERIC_EVENT", "event_name": "x"}] * 50
    body = {"events": events, "platform": "linux", "sdk_version": "0.38.0"}
    said = target.asked("/telemetry", {**body, "session_id": target.session_id})
    seconds = time.perf_counter() - started_s
    expect(said.get("status") == "accepted", "status accepted", said)
    expect(seconds < TELEMETRY_S, f"an answer within {TELEMETRY_S} s", f"{seconds:.2f} s")
    return {"milliseconds": round(seconds * 1e3, 2)}
