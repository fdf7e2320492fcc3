"""Start-up of a client: its settings, its session, its heartbeat, its telemetry."""

from __future__ import annotations

import contextlib
from importlib.metadata import version

from starlette.responses import Response

from eztinker.api.tinker.endpoint import Call, answer, endpoint, nothing
from eztinker.api.tinker.metadata import as_strings
from eztinker.api.tinker.paths import EPHEMERAL, path_of_stored
from eztinker.errors import NotFoundError
from eztinker.models import tinker as wire

_STATUS_OF_REASON = {"success": "finished", "errored": "errored", "interrupted": "interrupted"}


async def client_config(call: Call) -> Response:
    """Switches of the client that differ from its own defaults.

    One poll tells of all samples of a client, a copy of a client gets its number from us, and large
    bodies are compressed unless they stay on this machine.
    """
    await call.drop_body()
    return answer(
        {
            "sample_use_retrieve_futures": True,
            "sample_join_sampling_session": True,
            "proto_compress_fwdbwd": not call.is_local,
        }
    )


async def dynamic_config(call: Call) -> Response:
    """The one switch that differs: a client that gives a sample up may say so."""
    await call.drop_body()
    return answer({"sample_cancel_enabled": True})


async def create_session(call: Call) -> Response:
    """Begin a session."""
    body = await call.body(wire.CreateSession)
    session = await call.service.sessions.create(
        tags=body.tags,
        user_metadata=as_strings(body.user_metadata),
        display_name=body.display_name,
        project_id=body.project_id,
    )
    message = f"EZTinker {version('eztinker')}"
    return answer(
        {"type": "create_session", "session_id": session.session_id, "info_message": message}
    )


async def heartbeat(call: Call) -> Response:
    """A client is alive. 410 for a session of another server ends its heartbeats."""
    body = await call.body(wire.Heartbeat)
    try:
        await call.service.sessions.heard(body.session_id)
    except NotFoundError as error:
        return answer({"detail": error.message, "code": error.code}, 410)
    return answer({"type": "session_heartbeat"})


async def telemetry(call: Call) -> Response:
    """Taken and dropped. At once: the client reports errors to its user only after this answer."""
    await call.drop_body()
    return answer({"status": "accepted"})


async def finish_session(call: Call) -> Response:
    """A client says how its session ended; weights that only its own samplers could name go with it."""
    body = await call.body(wire.FinishSession)
    session_id = call.path("session_id")
    status = _STATUS_OF_REASON.get(body.reason.type, "finished")
    await call.service.sessions.finish(session_id, status)
    run_ids, _ = await call.service.sessions.contents(session_id)
    for run_id in run_ids:
        await _delete_ephemeral(call, run_id)
    return nothing()


async def _delete_ephemeral(call: Call, run_id: str) -> None:
    for checkpoint in await call.service.checkpoints.list(run_id=run_id):
        if path_of_stored(run_id, checkpoint.name).kind == EPHEMERAL:
            with contextlib.suppress(NotFoundError):  # a repeated request, or its time was over
                await call.service.checkpoints.delete(run_id, checkpoint.name)


async def health(call: Call) -> Response:
    """The server answers."""
    return answer({"status": "ok"})


async def capabilities(call: Call) -> Response:
    """Base models that can be used without a download."""
    models = [
        {
            "model_name": record.name,
            "max_context_length": record.context_length,
            "trainable": True,
            "sampleable": True,
        }
        for record in call.service.base_models.known()
    ]
    return answer({"supported_models": models})


ROUTES = (
    endpoint("POST", "/client/config", client_config),
    endpoint("POST", "/client/dynamic_config", dynamic_config),
    endpoint("POST", "/create_session", create_session),
    endpoint("POST", "/session_heartbeat", heartbeat),
    endpoint("POST", "/telemetry", telemetry),
    endpoint("POST", "/sessions/{session_id}/finish", finish_session),
    endpoint("GET", "/healthz", health),
    endpoint("GET", "/get_server_capabilities", capabilities),
)
