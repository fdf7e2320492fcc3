"""What a user of ``EZTinkerClient`` sees, over a service in a dictionary."""

import threading
import time

import httpx
import numpy as np
import pytest

from eztinker import errors
from eztinker.client import flows, transport
from eztinker.client.client import EZTinkerClient
from tests.unit.client import fake_service
from tests.unit.client.fake_service import FakeService


def test_the_documented_loop(client: EZTinkerClient, service: FakeService):
    run_id = client.create_run("nano", lora_rank=1, lora_alpha=2)
    assert client.forward_backward(run_id, np.arange(3))["run_id"] == run_id
    client.optim_step(run_id, learning_rate=1e-3)
    assert client.save_checkpoint(run_id, "final")["path"] == "/ck/final"
    assert [run["run_id"] for run in client.get_runs()] == [run_id]
    assert client.delete_run(run_id) == {"status": "deleted", "run_id": run_id}
    assert service.bodies[1] == {"input_ids": [0, 1, 2]}


def test_one_text_begins_with_the_prompt_and_several_do_not(client: EZTinkerClient):
    assert client.sample("What?") == "What? answer 0"
    assert client.sample("What?", num_samples=2) == [" answer 0", " answer 1"]


def test_all_pages_of_runs_are_fetched(client: EZTinkerClient, service: FakeService):
    service.page_size = 2
    for number in range(5):
        client.create_run("nano", run_id=f"r{number}")
    assert [run["run_id"] for run in client.get_runs()] == ["r0", "r1", "r2", "r3", "r4"]


def test_a_long_job_is_polled_to_its_end(client: EZTinkerClient, service: FakeService):
    service.num_polls_to_finish = 3
    assert client.sample("hi") == "hi answer 0"
    assert [request.method for request in service.seen] == ["POST", "GET", "GET", "GET"]
    assert all(request.url.params["wait"] == "20" for request in service.seen)


def test_a_repeat_is_byte_for_byte_the_same_request(client: EZTinkerClient, service: FakeService):
    busy = httpx.Response(429, headers={"Retry-After": "1"}, json={"error": {"code": "busy"}})
    service.script = [fake_service.refused(), fake_service.broken(), busy, httpx.Response(502)]
    client.optim_step("r", learning_rate=0.5)
    assert len(service.seen) == 5
    assert len({request.headers["Idempotency-Key"] for request in service.seen}) == 1
    assert len({request.content for request in service.seen}) == 1


def test_two_calls_have_two_keys(client: EZTinkerClient, service: FakeService):
    client.optim_step("r")
    client.optim_step("r")
    first, second = service.seen
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]


def test_only_posts_carry_a_key(client: EZTinkerClient, service: FakeService):
    client.health()
    assert "Idempotency-Key" not in service.seen[0].headers


def test_a_restart_is_a_pause(client: EZTinkerClient, service: FakeService, no_pauses: list[float]):
    client.health()
    service.num_polls_to_finish = 2
    refused = [fake_service.refused() for _ in range(12)]
    # The POST's connection dies, the server is away, then it answers the job that it had accepted.
    service.script = [fake_service.broken(), *refused, None, fake_service.broken(), *refused]
    assert client.sample("hi") == "hi answer 0"
    assert sum(no_pauses) > 10
    assert len(service.jobs) == 1


def test_a_server_never_reached_is_given_up_soon(
    service: FakeService, no_pauses: list[float], monkeypatch: pytest.MonkeyPatch
):
    now = [0.0]
    monkeypatch.setattr("eztinker.client.transport.time.sleep", lambda s: now.append(now[-1] + s))
    service.script = [fake_service.refused() for _ in range(100)]
    with EZTinkerClient("http://fake", transport=service.transport()) as client:
        client._context.clock = lambda: now[-1]
        with pytest.raises(errors.ServerUnreachableError, match="eztinker server") as caught:
            client.get_runs()
    assert now[-1] <= flows.FIRST_CONTACT_PATIENCE_S
    assert caught.value.exit_code == 3
    assert isinstance(caught.value, ConnectionError)


def test_the_reconnect_window_ends(service: FakeService, monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("eztinker.client.transport.time.sleep", lambda s: now.append(now[-1] + s))
    with EZTinkerClient("http://fake", reconnect_window=7, transport=service.transport()) as client:
        client._context.clock = lambda: now[-1]
        client.health()
        service.script = [fake_service.refused() for _ in range(1000)]
        with pytest.raises(errors.ServerUnreachableError):
            client.get_runs()
    assert 5 < now[-1] <= 7


def test_errors_of_the_server_are_raised_as_their_class(client: EZTinkerClient):
    client.create_run("nano", run_id="mine")
    with pytest.raises(errors.AlreadyExistsError) as caught:
        client.create_run("nano", run_id="mine")
    assert (caught.value.field, caught.value.exit_code) == ("run_id", 2)
    with pytest.raises(errors.NotFoundError):
        client.delete_run("other")


def test_a_delete_whose_answer_was_lost_has_succeeded(client: EZTinkerClient, service: FakeService):
    client.create_run("nano", run_id="mine")
    lost = service.runs.pop("mine")  # the first try got through, its answer did not
    service.script = [fake_service.broken()]
    assert client.delete_run(lost["run_id"])["status"] == "deleted"


def test_a_failed_job_raises(client: EZTinkerClient, service: FakeService):
    handle = client.submit_optim_step("r")
    service.jobs[handle.job_id] |= {
        "status": "failed",
        "error": {"code": "not_finite", "message": "loss is nan"},
    }
    with pytest.raises(errors.JobFailedError, match="loss is nan") as caught:
        handle.result()
    assert isinstance(caught.value.__cause__, errors.NumericalError)


def test_wait_for_job_gives_the_four_documented_keys(client: EZTinkerClient):
    handle = client.submit_sample("hi")
    job = client.wait_for_job(handle.job_id)
    assert set(job) == {"job_id", "status", "result", "error"}
    assert job["result"]["generated_text"] == "hi answer 0"


def test_wait_for_job_gives_up_in_time(service: FakeService):
    service.num_polls_to_finish = 10**9
    with EZTinkerClient("http://fake", transport=service.transport()) as client:
        job_id = client.submit_sample("hi").job_id
        now = iter(range(1000))
        client._context.clock = lambda: float(next(now))
        with pytest.raises(TimeoutError, match=rf"{job_id} is still running.*goes on"):
            client.wait_for_job(job_id, timeout=50)


def test_polling_interval_spaces_the_questions(
    client: EZTinkerClient, service: FakeService, no_pauses: list[float]
):
    service.num_polls_to_finish = 3
    client.wait_for_job(client.submit_sample("hi").job_id, polling_interval=0.4)
    assert len(no_pauses) == 2
    assert all(0.3 < pause <= 0.4 for pause in no_pauses)


def test_handles_pipeline(client: EZTinkerClient, service: FakeService):
    handles = [client.submit_forward_backward("r", [1, 2]), client.submit_optim_step("r")]
    assert [request.url.params["wait"] for request in service.seen] == ["0", "0"]
    assert [handle.result()["run_id"] for handle in handles] == ["r", "r"]
    assert handles[0].status() == "completed"
    assert handles[1].cancel()["status"] == "cancelled"
    assert handles[0].job_id in repr(handles[0])


def test_one_client_keeps_64_jobs_in_flight_from_64_threads():
    service = FakeService()
    together, results = threading.Barrier(64, timeout=20), []

    def answer(request: httpx.Request) -> httpx.Response:
        together.wait()  # passes only when 64 requests are under way at once
        return service.handle(request)

    with EZTinkerClient("http://fake", transport=httpx.MockTransport(answer)) as client:
        threads = [
            threading.Thread(target=lambda n=n: results.append(client.sample(f"{n}")))
            for n in range(64)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == sorted(f"{n} answer 0" for n in range(64))


def test_key_is_sent_and_a_refused_one_explained(service: FakeService):
    service.script = [fake_service.error(401, "unauthorized", "Unknown key.")]
    with (
        EZTinkerClient("http://fake", api_key="abc", transport=service.transport()) as client,
        pytest.raises(errors.AuthError, match="EZTINKER_API_KEY"),
    ):
        client.get_runs()
    assert service.seen[0].headers["X-API-Key"] == "abc"


def test_address_and_key_from_the_environment(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EZTINKER_BASE_URL", "http://elsewhere:81/")
    monkeypatch.setenv("EZTINKER_API_KEY", "k")
    with EZTinkerClient(transport=service.transport()) as client:
        assert client.base_url == "http://elsewhere:81"
        client.health()
    assert service.seen[0].url.host == "elsewhere"
    assert service.seen[0].headers["X-API-Key"] == "k"


def test_localhost_is_dialled_without_an_ipv6_detour(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("EZTINKER_BASE_URL", raising=False)
    with EZTinkerClient(transport=service.transport()) as client:
        assert client.base_url == "http://localhost:8000"
        client.health()
    assert service.seen[0].url.host == "127.0.0.1"
    assert service.seen[0].headers["Host"] == "localhost:8000"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://x", "http://", "http://x:99999", "http://a b", "http://\n"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(errors.InvalidRequestError, match="base_url"):
        EZTinkerClient(url)


def test_the_loopback_address_never_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    options = transport.connection_options("http://127.0.0.1:8000", None)
    assert options["trust_env"] is False
    assert transport.connection_options("http://far.away", None)["trust_env"] is True


def test_a_key_that_no_header_can_carry_is_refused():
    with pytest.raises(errors.InvalidRequestError, match="api_key"):
        EZTinkerClient("http://fake", api_key="a\nb")


def test_what_json_cannot_say_is_refused_before_it_is_sent(
    client: EZTinkerClient, service: FakeService
):
    with pytest.raises(errors.InvalidRequestError, match="JSON"):
        client.create_run("nano", loss_config={"loss_type": object()})
    assert not service.seen


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_refused_by_its_place(
    client: EZTinkerClient, service: FakeService, value: float
):
    weights = np.array([1.0, value])
    with pytest.raises(errors.InvalidRequestError, match=r"^data\[1\]\.weights\[1\]: .* finite"):
        client.forward_backward("run_1", data=[{"input_ids": [1]}, {"weights": weights}])
    with pytest.raises(errors.InvalidRequestError, match=r"^grad_clip_norm: "):
        client.optim_step("run_1", grad_clip_norm=value)  # null would switch clipping off
    assert not service.seen


def test_health_is_bounded_even_when_the_server_is_silent():
    def silent(request: httpx.Request) -> httpx.Response:
        assert request.extensions["timeout"]["read"] <= flows.HEALTH_TIMEOUT_S
        raise httpx.ReadTimeout("")

    with EZTinkerClient(
        "http://fake", timeout=600, transport=httpx.MockTransport(silent)
    ) as client:
        start = time.monotonic()
        client._context.clock = lambda: time.monotonic() + 5 * (time.monotonic() - start) * 1e4
        with pytest.raises(TimeoutError, match="did not answer GET /health"):
            client.health()
