"""Listing, changing and deleting through the official SDK."""

from __future__ import annotations

import tarfile
import time

import pytest

from tests.wire.conftest import MODEL


def test_what_a_session_made_is_found(sdk, service, rest, model) -> None:
    model.save_state("one").result()
    model.save_weights_for_sampler("one").result()
    sampler = model.save_weights_and_get_sampling_client().result()
    run = rest.get_training_run(model.model_id).result()
    assert (run.base_model, run.lora_rank, run.is_lora) == (MODEL, 4, True)
    assert run.last_checkpoint.checkpoint_id == "weights/one"
    assert run.last_sampler_checkpoint.checkpoint_id == "sampler_weights/one"
    listed = rest.list_checkpoints(model.model_id).result().checkpoints
    assert {c.checkpoint_id for c in listed} == {"weights/one", "sampler_weights/one"}
    assert {c.checkpoint_type for c in listed} == {"training", "sampler"}
    session_id = model.model_id.partition(":")[0]
    session = rest.get_session(session_id).result()
    assert session.training_run_ids == [model.model_id]
    assert len(session.sampler_ids) == 1
    assert session_id in rest.list_sessions().result().sessions
    found = rest.get_sampler(session.sampler_ids[0]).result()
    assert found.base_model == MODEL
    assert sampler.get_base_model() == MODEL


def test_lists_have_pages(service, rest, model) -> None:
    for name in "abc":
        model.save_state(name).result()
    page = rest.list_training_runs(limit=1).result()
    assert (len(page.training_runs), page.cursor.limit) == (1, 1)
    assert page.cursor.total_count >= 1
    newest = rest.list_user_checkpoints(limit=2).result()
    assert [c.checkpoint_id for c in newest.checkpoints] == ["weights/c", "weights/b"]
    following = rest.list_user_checkpoints(limit=1, offset=2).result()
    assert following.checkpoints[0].checkpoint_id == "weights/a"


def test_a_checkpoint_is_published_and_deleted(sdk, rest, model) -> None:
    path = model.save_state("mine").result().path

    def listed():
        return {
            c.tinker_path: c for c in rest.list_checkpoints(model.model_id).result().checkpoints
        }

    rest.publish_checkpoint_from_tinker_path(path).result()
    assert listed()[path].public
    rest.unpublish_checkpoint_from_tinker_path(path).result()
    assert not listed()[path].public
    rest.delete_checkpoint_from_tinker_path(path).result()
    assert path not in listed()
    with pytest.raises(sdk.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path).result()


def test_a_lifetime_is_stored_changed_and_taken_back(sdk, rest, model) -> None:
    path = model.save_state("short", ttl_seconds=3600).result().path

    def expiry():
        return rest.list_checkpoints(model.model_id).result().checkpoints[0].expires_at

    assert expiry().timestamp() == pytest.approx(time.time() + 3600, abs=60)
    rest.set_checkpoint_ttl_from_tinker_path(path, 7200).result()
    assert expiry().timestamp() == pytest.approx(time.time() + 7200, abs=60)
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result()
    assert expiry() is None
    with pytest.raises(sdk.BadRequestError, match="ttl_seconds"):
        rest.set_checkpoint_ttl_from_tinker_path(path, 5).result()


def test_capabilities_name_the_model(rest) -> None:
    models = rest.get_server_capabilities().result().supported_models
    known = {m.model_name: m for m in models}
    assert known[MODEL].max_context_length == 96


@pytest.mark.parametrize("name", ["get_training_run", "get_session", "get_sampler"])
def test_an_unknown_id_is_404(sdk, rest, name: str) -> None:
    with pytest.raises(sdk.NotFoundError, match="There is no"):
        getattr(rest, name)("nobody").result()


def test_an_adapter_is_downloaded_file_by_file_and_as_a_tar(rest, model, tmp_path) -> None:
    import httpx
    from safetensors.numpy import load

    path = model.save_weights_external("out").result().path
    assert path == f"tinker://{model.model_id}/external_weights/out"
    urls = rest.get_external_weights_urls(path).result().urls
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(urls)
    assert load(httpx.get(urls["adapter_model.safetensors"]).content)
    assert httpx.get(f"{urls['adapter_config.json']}x").status_code == 404
    here = urls["adapter_config.json"].rpartition("/files/")[0]
    moved = httpx.get(f"{here}/archive")
    assert moved.status_code == 302
    packed = tmp_path / "a.tar"
    packed.write_bytes(httpx.get(moved.headers["location"]).content)
    with tarfile.open(packed) as archive:
        assert set(archive.getnames()) == set(urls)


def test_older_clients_are_not_told_of_exports(model, http) -> None:
    model.save_weights_external("out").result()
    model.save_state("kept").result()

    def listed(release: str) -> set[str]:
        headers = {"X-Stainless-Package-Version": release}
        answer = http.get(f"/training_runs/{model.model_id}/checkpoints", headers=headers)
        return {entry["checkpoint_id"] for entry in answer.json()["checkpoints"]}

    assert listed("0.24.1") == {"weights/kept"}
    assert (
        listed("0.38.0") == listed("") == listed("dev") == {"weights/kept", "external_weights/out"}
    )


def test_a_checkpoint_is_copied(sdk, service, rest, model) -> None:
    source = model.save_state("original", user_metadata={"k": "v"}).result().path
    copy = rest.copy_weights(source, "project", ttl_seconds=7200).result()
    path = copy if isinstance(copy, str) else copy.tinker_path
    assert path != source
    rest.delete_checkpoint_from_tinker_path(source).result()
    twin = service.create_training_client_from_state_with_optimizer(path).result()
    assert twin.get_info().lora_rank == 4
