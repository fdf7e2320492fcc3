"""Every promised trouble has advice, and a door ends with the right exit code."""

import pytest

from eztinker.errors import (
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
    ServerUnreachableError,
)
from eztinker.recipes.troubleshooting import (
    advice_for,
    math_verify_warning,
    names_of,
    not_rising_advice,
    run_door,
)

OUT_OF_MEMORY = JobFailedError("no memory", job_id="job_1", details={"code": "out_of_memory"})


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    ("error", "what_to_do"),
    [
        (ServerUnreachableError("none"), "eztinker server"),
        (OUT_OF_MEMORY, "--batch-size"),
        (NotFoundError("no data", code="dataset_not_found"), "--data-path"),
        (NotFoundError("no model", code="model_not_found"), "--model nano"),
    ],
)
def test_advice_names_the_command_or_flag(monkeypatch, language, error, what_to_do):
    monkeypatch.setenv("EZTINKER_LANG", language)
    assert what_to_do in (advice_for(error) or "")


def test_advice_names_what_the_door_in_question_has():
    from eztinker.recipes.catalogue import get_recipe
    from eztinker.recipes.finance.door import NAMES

    error = NotFoundError("no model", code="model_not_found")
    assert "MODEL_CONFIG.base_model in configs/config.py" in (advice_for(error, NAMES) or "")
    finance = names_of(get_recipe("finance").config_class.model_fields)
    assert "model.base_model=nano" in (advice_for(error, finance) or "")
    names = names_of(get_recipe("sft").config_class.model_fields)
    assert "model_name_or_path=nano" in (advice_for(error, names) or "")
    assert "per_device_train_batch_size=1" in (advice_for(OUT_OF_MEMORY, names) or "")
    assert advice_for(NotFoundError("It holds no model.", code="stage_missing"), NAMES) is None


def test_no_advice_where_the_message_says_it_all():
    assert advice_for(InvalidRequestError("num_candidates must be at least 1")) is None


def test_math_verify_warning_only_when_it_was_missing():
    assert math_verify_warning(0) is None
    assert "pip install" in (math_verify_warning(3) or "")


def test_advice_on_accuracy_only_when_it_did_not_rise(monkeypatch):
    monkeypatch.setenv("EZTINKER_LANG", "en")
    assert not_rising_advice(0.3, 0.5, 10) is None
    assert "--learning-rate" in (not_rising_advice(0.3, 0.3, 10) or "")
    assert "nothing was trained" in (not_rising_advice(0.0, 0.0, 0) or "")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (None, 0),
        (KeyboardInterrupt(), 130),
        (ServerUnreachableError("none"), 3),
        (NotFoundError("no run"), 4),
        (InvalidRequestError("bad"), 2),
        (OUT_OF_MEMORY, 6),
        (TimeoutError("late"), 1),
    ],
)
def test_exit_codes_of_a_door(capsys, raised, code):
    def work() -> None:
        if raised is not None:
            raise raised

    assert run_door(work) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert bool(captured.err) == (raised is not None)


def test_a_bug_is_not_hidden():
    def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_door(work)
