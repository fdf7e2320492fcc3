"""Errors come back as the classes they left as."""

import httpx
import pytest

from eztinker import errors
from eztinker.client import answers
from eztinker.client.answers import Answer
from tests.unit.client import fake_service


def rebuilt(response: httpx.Response) -> errors.EZTinkerError:
    return answers.error_of(Answer(response.status_code, response.headers, response.content))


def test_error_keeps_code_message_field_details_and_request_id():
    body = fake_service.error(
        409, "already_exists", "A run named 'a' exists.", field="run_id", details={"a": 1}
    )
    error = rebuilt(body)
    assert type(error) is errors.AlreadyExistsError
    assert (error.message, error.field) == ("A run named 'a' exists.", "run_id")
    assert error.details == {"a": 1, "request_id": "req_1"}


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, errors.InvalidRequestError),
        (404, errors.NotFoundError),
        (401, errors.AuthError),
        (409, errors.ConflictError),
        (415, errors.UserError),
        (500, errors.ServerError),
    ],
)
def test_a_finer_code_is_kept_on_the_class_of_its_status(status, cls):
    error = rebuilt(fake_service.error(status, "some_finer_code", "m"))
    assert type(error) is cls
    assert error.code == "some_finer_code"


def test_a_finer_code_may_say_itself_what_it_is():
    taken = rebuilt(fake_service.error(409, "run_exists", "m"))
    assert (type(taken), taken.code) == (errors.AlreadyExistsError, "run_exists")


def test_an_answer_that_is_not_ours_still_makes_an_error():
    error = rebuilt(httpx.Response(404, text="<html>nginx</html>"))
    assert type(error) is errors.NotFoundError
    assert "nginx" in error.message


def test_success_that_is_not_json_names_the_suspicion():
    with pytest.raises(errors.ServerError, match="Is there an EZTinker server"):
        answers.json_of(Answer(200, {}, b"<html>"))


@pytest.mark.parametrize(
    ("job_error", "cls"),
    [
        ({"code": "out_of_memory", "message": "too big"}, errors.OutOfMemoryError),
        ({"code": "no_gradient", "message": "nothing"}, errors.EZTinkerError),
        ({"code": "checkpoint_not_found", "message": "gone"}, errors.NotFoundError),
    ],
)
def test_failed_job_names_its_cause(job_error, cls):
    job = {"job_id": "job_1", "status": "failed", "result": None, "error": job_error}
    with pytest.raises(errors.JobFailedError, match=job_error["message"]) as caught:
        answers.result_of(job)
    assert type(caught.value.__cause__) is cls
    assert caught.value.details["code"] == job_error["code"]
    assert caught.value.job_id == "job_1"


def test_cancelled_job_fails_as_cancelled():
    with pytest.raises(errors.JobFailedError, match="was cancelled") as caught:
        answers.outcome({"job_id": "job_1", "status": "cancelled"})
    assert isinstance(caught.value.__cause__, errors.CancelledError)
