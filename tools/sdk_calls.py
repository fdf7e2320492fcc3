"""What every release of the official SDK should be able to do, called through whichever one is installed.

``python sdk_calls.py URL MODEL`` prints JSON: the release, which calls worked, and which endpoints they
asked. Imports nothing of this repository. Run by ``sdk_versions.py``, once for each release.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import httpx

CALLS: dict[str, str] = {}
ASKED: dict[str, str] = {}
PROTOBUF = "application/x-protobuf"
PERIODIC = {"/session_heartbeat", "/telemetry"}
"""Asked now and then by the clock: whether within a run is chance."""


def record_requests() -> None:
    """Note every request of the SDK, whatever transport is below it."""
    send = httpx.AsyncClient.send

    async def recorded(self: Any, request: httpx.Request, **options: Any) -> httpx.Response:
        answer = await send(self, request, **options)
        if answer.status_code != 408:  # a result that is not there yet
            note(request, answer)
        return answer

    httpx.AsyncClient.send = recorded  # type: ignore[method-assign]


def note(request: httpx.Request, answer: httpx.Response) -> None:
    """One line of the table: the endpoint, and whether it answered as it should."""
    path = request.url.path.removeprefix("/api/v1")
    if path in PERIODIC:
        return
    path = re.sub(r"(training_runs|sessions|samplers)/[^/]+", r"\1/{id}", path)
    path = re.sub(r"checkpoints/[a-z_]+/[^/]+", "checkpoints/{kind}/{name}", path)
    sent = request.headers.get("content-type", "").startswith(PROTOBUF)
    came = answer.headers.get("content-type", "").startswith(PROTOBUF)
    form = " (protobuf)" if sent or came else ""
    name = f"{request.method} {path}{form}"
    good = answer.is_success or answer.status_code == 302
    if ASKED.get(name, "yes") == "yes":
        ASKED[name] = "yes" if good else str(answer.status_code)


def call(name: str, function: Callable[[], Any]) -> Any:
    """Make one call, wait for it, and note how it went."""
    try:
        result = function()
        result = result.result() if hasattr(result, "result") else result
    except Exception as error:
        CALLS[name] = f"{type(error).__name__}: {error}"[:300]
        return None
    CALLS[name] = "ok"
    return result


def main() -> None:
    """Make all calls that this release has."""
    warnings.simplefilter("ignore")
    record_requests()
    import tinker

    url, base_model = sys.argv[1:3]
    service = tinker.ServiceClient(base_url=url, api_key="tml-local")
    call("get_server_capabilities", service.get_server_capabilities)
    model = call(
        "create_lora_training_client",
        lambda: service.create_lora_training_client(base_model=base_model, rank=4),
    )
    path = train(tinker, service, model)
    sample(tinker, service, model, base_model)
    look(service.create_rest_client(), model, path)
    report = {"version": version("tinker"), "calls": CALLS, "asked": ASKED}
    print(json.dumps(report), flush=True)


def train(tinker: Any, service: Any, model: Any) -> str:
    """Passes, steps and states; the path of a saved state."""
    data = [datum(tinker)]
    call("get_info", model.get_info)
    passed = call("forward_backward", lambda: model.forward_backward(data, "cross_entropy"))
    total = float(-passed.loss_fn_outputs[0]["logprobs"].to_numpy().sum())
    expect("loss:sum", abs(passed.metrics["loss:sum"] - total) < 1e-3 * abs(total))
    call("optim_step", lambda: model.optim_step(tinker.AdamParams(learning_rate=1e-2)))
    after = call("forward", lambda: model.forward(data, "cross_entropy"))
    expect("a step lowers the loss", after.metrics["loss:sum"] < total)
    call("forward_backward_custom", lambda: model.forward_backward_custom(data, custom_loss))
    path = call("save_state", lambda: model.save_state("one")).path
    call("load_state", lambda: model.load_state(path))
    for name in (
        "create_training_client_from_state",
        "create_training_client_from_state_with_optimizer",
    ):
        twin = call(name, lambda name=name: getattr(service, name)(path))
        scored = twin.forward(data, "cross_entropy").result().metrics["loss:sum"]
        expect(f"{name} continues", scored == after.metrics["loss:sum"])
    if hasattr(model, "save_weights_external"):
        call("save_weights_external", lambda: model.save_weights_external("out"))
    return path


def custom_loss(data: Any, logprobs: Any) -> Any:
    """A loss of the user's own."""
    loss: Any = sum((p**2).sum() for p in logprobs)
    return loss, {"mine:sum": float(loss.detach())}


def sample(tinker: Any, service: Any, model: Any, base_model: str) -> None:
    """Sampling clients of every kind, and what they can be asked."""
    prompt = tinker.ModelInput.from_ints([5, 6, 7])
    params = tinker.SamplingParams(max_tokens=4, seed=1)
    base = call(
        "create_sampling_client", lambda: service.create_sampling_client(base_model=base_model)
    )
    answer = call("sample", lambda: base.sample(prompt, 2, params))
    expect("two samples", len(answer.sequences) == 2)
    call("compute_logprobs", lambda: base.compute_logprobs(prompt))
    named = call("save_weights_for_sampler", lambda: model.save_weights_for_sampler("named")).path
    call("sample by path", lambda: service.create_sampling_client(model_path=named))
    frozen = call(
        "save_weights_and_get_sampling_client",
        lambda: model.save_weights_and_get_sampling_client("x"),
    )
    call("sample of frozen weights", lambda: frozen.sample(prompt, 1, params))


def look(rest: Any, model: Any, path: str) -> None:
    """Everything that lists, changes and deletes, as far as this release has it."""
    run_id, session_id = model.model_id, model.model_id.partition(":")[0]
    arguments: dict[str, tuple] = {
        "list_training_runs": (),
        "get_training_run": (run_id,),
        "get_training_run_by_tinker_path": (path,),
        "list_checkpoints": (run_id,),
        "list_user_checkpoints": (),
        "list_sessions": (),
        "get_session": (session_id,),
        "get_sampler": (f"{session_id}:sample:0",),
        "get_weights_info_by_tinker_path": (path,),
        "publish_checkpoint_from_tinker_path": (path,),
        "unpublish_checkpoint_from_tinker_path": (path,),
        "set_checkpoint_ttl_from_tinker_path": (path, 7200),
        "get_checkpoint_archive_url_from_tinker_path": (path,),
        "export_session_trace": (session_id,),
        "assign_session_project": (session_id, "project"),
        "copy_weights": (path, "project"),
        "delete_checkpoint_from_tinker_path": (path,),
    }
    for name, values in arguments.items():
        if hasattr(rest, name):
            call(name, lambda name=name, values=values: getattr(rest, name)(*values))


def datum(tinker: Any) -> Any:
    """Six tokens with their targets."""
    tokens = list(range(10, 16))
    inputs = {"target_tokens": [t + 1 for t in tokens], "weights": [1.0] * 6}
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)


def expect(what: str, holds: bool) -> None:
    """Note a statement about a result."""
    CALLS[what] = "ok" if holds else "does not hold"


if __name__ == "__main__":
    main()
