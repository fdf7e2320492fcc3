"""Which stages a text names, and how the recipe goes through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.recipes.experiment.settings import load_settings
from eztinker.recipes.finance import recipe
from eztinker.recipes.finance.stages import STAGES, read_stages
from eztinker.recipes.terminal import SilentProgress


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1-8", [1, 2, 3, 4, 5, 6, 7, 8]),
        ("1-3,6", [1, 2, 3, 6]),
        ("6, 4 - 5,4", [4, 5, 6]),
        ("7", [7]),
    ],
)
def test_numbers_and_ranges(text: str, numbers: list[int]) -> None:
    assert read_stages(text) == numbers


@pytest.mark.parametrize("text", ["", "0", "9", "3-1", "1-9", "sft", "1;2", "-3"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="such as 1-8 or 1-3,6"):
        read_stages(text)


def test_a_single_stage_may_be_given_as_a_number(tmp_path: Path) -> None:
    config = load_settings(recipe.Config, None, ["stages=4", f"root={tmp_path}"])
    assert config.stages == "4"


class Log:
    """Stages that only say that they ran; those in ``done`` say that their output exists."""

    def __init__(self, done: set[int] = frozenset(), broken: int | None = None) -> None:  # type: ignore[assignment]
        self.done, self.broken = done, broken
        self.ran: list[tuple[int, bool]] = []

    def stages(self) -> dict[int, Any]:
        return {number: self._stage(number) for number in range(1, 9)}

    def _stage(self, number: int) -> Any:
        def work(config: Any, client: Any, progress: Any) -> dict[str, Any]:
            if number in self.done and not config.overwrite:
                raise InvalidRequestError("there", code="output_exists")
            if number == self.broken:
                raise NotFoundError("broken", code="stage_missing")
            self.ran.append((number, config.overwrite))
            return {"number": number}

        return work


def run(log: Log, *words: str) -> dict[str, Any]:
    config = load_settings(recipe.Config, None, list(words))
    return recipe.run(config, None, SilentProgress(), stages=log.stages())


def test_stages_that_are_done_are_not_repeated_and_later_ones_build_on_what_is_new() -> None:
    log = Log(done={1, 2, 4})
    figures = run(log, "stages=1-5")
    # 3 is new, so 4 is done anew although its output is there.
    assert log.ran == [(3, False), (4, True), (5, True)]
    assert figures["1 prepare"] == {"done_already": True}
    assert figures["3 filter"] == {"number": 3}


def test_a_stage_whose_inputs_changed_meanwhile_is_done_anew() -> None:
    """A program that died after stage 3 made something new: nobody remembers, but the inputs of 4 tell."""
    log = Log(done={1, 2, 3, 5})
    work = log.stages()

    def stale(config: Any, client: Any, progress: Any) -> dict[str, Any]:
        if not config.overwrite:
            raise InvalidRequestError("of other rows", code="output_stale")
        return log._stage(4)(config, client, progress)

    config = load_settings(recipe.Config, None, ["stages=1-5"])
    recipe.run(config, None, SilentProgress(), stages=work | {4: stale})
    assert log.ran == [(4, True), (5, True)]


def test_overwrite_repeats_everything() -> None:
    log = Log(done={1, 2})
    run(log, "stages=1-2", "overwrite=true")
    assert log.ran == [(1, True), (2, True)]


def test_any_other_error_ends_the_run() -> None:
    log = Log(broken=2)
    with pytest.raises(NotFoundError):
        run(log, "stages=1-3")
    assert log.ran == [(1, False)]


def test_a_settings_file_of_the_scripts_is_read_and_words_win(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(
        "from eztinker.recipes.finance.parts import SFTConfig\n"
        "SFT_CONFIG = SFTConfig()\nSFT_CONFIG.learning_rate = 1e-3\nSFT_CONFIG.num_train_epochs = 5\n"
    )
    config = load_settings(recipe.Config, path, ["sft.num_train_epochs=1", "stages=4-5"])
    assert (config.sft.learning_rate, config.sft.num_train_epochs) == (1e-3, 1)
    (tmp_path / "config.yaml").write_text("sft: {learning_rate: 0.002}\nuse_judge: false\n")
    config = load_settings(recipe.Config, tmp_path / "config.yaml")
    assert (config.sft.learning_rate, config.use_judge) == (2e-3, False)


def test_every_stage_has_its_work() -> None:
    assert all(callable(recipe.stage_of(number)) for number in STAGES)


def test_an_interrupted_recipe_says_how_it_goes_on() -> None:
    said: list[str] = []

    class Said(SilentProgress):
        def say(self, text: str) -> None:
            said.append(text)

    def interrupted(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    config = load_settings(recipe.Config, None, ["stages=4"])
    with pytest.raises(KeyboardInterrupt):
        recipe.run(config, None, Said(), stages={4: interrupted})
    assert "stage 4" in said[-1]
