"""The error tree: stable codes, exit codes, and errors that survive a process boundary."""

from __future__ import annotations

import copy
import pickle

import pytest

from eztinker import errors
from eztinker.errors import (
    CapacityError,
    EZTinkerError,
    JobFailedError,
    ServerUnreachableError,
    error_from_code,
)

CLASSES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, EZTinkerError) and cls is not JobFailedError
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("carry", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_copying_whole(cls: type[EZTinkerError], carry) -> None:
    error = cls("what", code="finer", field="f", details={"a": 1}, retry_after_s=2.5)
    again = carry(error)
    assert type(again) is cls
    assert str(again) == "what"
    assert vars(again) == vars(error)
    assert (again.code, again.field, again.details, again.retry_after_s) == (
        "finer",
        "f",
        {"a": 1},
        2.5,
    )


def test_a_failed_job_carries_the_job() -> None:
    error = JobFailedError("it failed", job_id="job_1", job={"status": "failed"})
    again = pickle.loads(pickle.dumps(error))
    assert (again.job_id, again.job, str(again)) == ("job_1", {"status": "failed"}, "it failed")
    assert isinstance(error, RuntimeError)


def test_an_instance_code_does_not_leak_into_its_class() -> None:
    errors.NotFoundError("x", code="run_not_found")
    assert errors.NotFoundError("y").code == "not_found"


@pytest.mark.parametrize(
    ("cls", "exit_code"),
    [
        (errors.JobFailedError, 1),
        (errors.CancelledError, 1),
        (errors.InvalidRequestError, 2),
        (errors.AlreadyExistsError, 2),
        (errors.ServerUnreachableError, 3),
        (errors.NotFoundError, 4),
        (errors.AuthError, 5),
        (errors.OutOfMemoryError, 6),
        (errors.DiskFullError, 6),
    ],
)
def test_exit_codes_are_those_of_the_command_line(cls: type[EZTinkerError], exit_code: int) -> None:
    assert cls.exit_code == exit_code


@pytest.mark.parametrize(
    "cls", [cls for cls in CLASSES if not issubclass(cls, errors.ClientSideError)]
)
def test_a_code_finds_its_class_again(cls: type[EZTinkerError]) -> None:
    again = error_from_code(cls.code, "text", category=cls.category, field="f", details={"k": 1})
    assert type(again) is cls
    assert (again.message, again.field, again.details) == ("text", "f", {"k": 1})


@pytest.mark.parametrize(
    ("category", "parent"),
    [
        ("user", errors.UserError),
        ("capacity", CapacityError),
        ("server", errors.ServerError),
        ("unknown", errors.ServerError),
    ],
)
def test_a_finer_code_keeps_its_text_and_category(
    category: str, parent: type[EZTinkerError]
) -> None:
    error = error_from_code("something_finer", "text", category=category)
    assert type(error) is parent
    assert (error.code, error.message) == ("something_finer", "text")


def test_client_side_codes_do_not_come_out_of_the_server() -> None:
    """A stored ``job_failed`` must not become an error that needs a job id to be built."""
    for cls in (ServerUnreachableError, JobFailedError, errors.ClientSideError):
        error = error_from_code(cls.code, "text")
        assert not isinstance(error, errors.ClientSideError)
        assert error.code == cls.code


def test_unreachable_is_a_connection_error_for_callers_that_know_only_python() -> None:
    with pytest.raises(ConnectionError, match="no server"):
        raise ServerUnreachableError("no server")
