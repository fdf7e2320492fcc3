"""Checks of what exists: checkpoints and their lifetimes, listing, exports, sessions."""

from __future__ import annotations

import httpx

from eztinker.conformance.checks import check
from eztinker.conformance.expectations import expect
from eztinker.conformance.target import Model, Target

_GROUP = "checkpoints"


def _listed(target: Target, model: Model) -> dict[str, dict]:
    answer = target.got(f"/training_runs/{model.model_id}/checkpoints")
    return {entry["checkpoint_id"]: entry for entry in answer["checkpoints"]}


def _succeeded(answer: httpx.Response) -> None:
    expect(
        answer.status_code in (200, 204), "200 or 204", f"{answer.status_code} {answer.text[:200]}"
    )


@check(_GROUP)
def lifecycle(target: Target) -> None:
    """Saved weights are listed, shared, given a lifetime and deleted."""
    model = target.create_model()
    saved = target.save("/save_weights_for_sampler", model, path="kept")
    wanted = f"tinker://{model.model_id}/sampler_weights/kept"
    expect(saved.get("path") == wanted, wanted, saved)
    entry = _listed(target, model)["sampler_weights/kept"]
    expect(entry["checkpoint_type"] == "sampler", "checkpoint_type sampler", entry)
    expect(entry["tinker_path"] == wanted, wanted, entry)
    here = f"/training_runs/{model.model_id}/checkpoints/sampler_weights/kept"
    _succeeded(target.http.post(f"{here}/publish"))
    expect(_listed(target, model)["sampler_weights/kept"].get("public") is True, "public")
    _succeeded(target.http.delete(f"{here}/publish"))
    _succeeded(target.http.put(f"{here}/ttl", json={"ttl_seconds": 7200}))
    expect(bool(_listed(target, model)["sampler_weights/kept"].get("expires_at")), "expires_at")
    _succeeded(target.http.put(f"{here}/ttl", json={"ttl_seconds": None}))
    _succeeded(target.http.delete(here))
    expect("sampler_weights/kept" not in _listed(target, model), "a list without it")


@check(_GROUP)
def run_info(target: Target) -> None:
    """A run is found, with its metadata and its time."""
    model = target.create_model(user_metadata={"renderer_name": "plain"})
    run = target.got(f"/training_runs/{model.model_id}")
    expect(run["training_run_id"] == model.model_id, "the run's id", run)
    expect(run["user_metadata"] == {"renderer_name": "plain"}, "its metadata", run)
    for name in ("base_model", "model_owner", "is_lora", "last_request_time"):
        expect(name in run, f"a field {name}", run)
    page = target.got("/training_runs", limit=1)
    expect(len(page["training_runs"]) == 1, "one run on a page of one", page)
    expect({"offset", "limit", "total_count"} <= set(page["cursor"]), "a cursor", page["cursor"])


@check(_GROUP)
def session(target: Target) -> None:
    """A session names its runs and samplers."""
    model, sampler = target.create_model(), target.sampler()
    found = target.got(f"/sessions/{target.session_id}")
    expect(model.model_id in found["training_run_ids"], "the run's id", found)
    expect(sampler in found["sampler_ids"], "the sampler's id", found)
    info = target.got(f"/samplers/{sampler}")
    expect(info["sampler_id"] == sampler, "the sampler's id", info)


@check(_GROUP)
def weights_info(target: Target) -> None:
    """Weights tell how they were made."""
    model = target.create_model()
    path = target.save("/save_weights", model, path="info")["path"]
    info = target.asked("/weights_info", {"tinker_path": path})
    expect((info["is_lora"], info["lora_rank"]) == (True, 4), "a LoRA of rank 4", info)


@check(_GROUP)
def export(target: Target) -> None:
    """An export is fetched file by file."""
    model = target.create_model()
    path = target.save("/save_weights_external", model, path="out")["path"]
    expect(path == f"tinker://{model.model_id}/external_weights/out", "an external path", path)
    here = f"/training_runs/{model.model_id}/checkpoints/external_weights/out"
    urls = target.got(f"{here}/external_weights_urls")["urls"]
    expect("adapter_config.json" in urls, "an adapter in PEFT's layout", list(urls))
    for name, url in urls.items():
        answer = httpx.get(url, timeout=60)
        expect(answer.status_code == 200 and bool(answer.content), f"the file {name}")
