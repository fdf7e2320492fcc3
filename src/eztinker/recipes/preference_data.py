"""Preference pairs to train on and to hold out: the keys that name them, and reading them.

Called by the recipes on pairs (DPO, reward model).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from eztinker.dataset.generated.preferences import NAME as GENERATED
from eztinker.dataset.generated.preferences import generated_pairs
from eztinker.dataset.preference import PreferencePair
from eztinker.dataset.records import Record, examples_of_kind, read_records
from eztinker.errors import EZTinkerError, InvalidRequestError
from eztinker.recipes.experiment.training_settings import TrainingConfig
from eztinker.recipes.held_out import split_records
from eztinker.recipes.terminal import Progress

DEFAULT_SIZES = {"train": 1000, "test": 200}


class PairConfig(TrainingConfig):
    """Keys about preference pairs."""

    train_file: Path | None = Field(
        None, description="Pairs: chosen/rejected in the common layouts, hh-rlhf transcripts."
    )
    validation_file: Path | None = Field(None, description="Held-out pairs.")
    dataset_name: str | None = Field(None, description=f"{GENERATED}: pairs made on the spot.")
    validation_split_percentage: float = Field(
        10.0, gt=0, lt=100, description="Share of train_file held out without a validation_file."
    )
    strict_data: bool = Field(False, description="A bad row is an error instead of left out.")
    max_train_samples: int | None = Field(None, ge=1, description="Use the first pairs only.")
    max_eval_samples: int | None = Field(None, ge=1, description="Of the held-out pairs too.")
    max_length: int = Field(1024, ge=2, description="Most tokens of a prompt with its reply.")
    eval_steps: int | None = Field(
        None, ge=1, description="Steps between evaluations; always one before and one after."
    )

    def check_effect(self) -> None:
        """One source of pairs, and no key about the other."""
        super().check_effect()
        if (self.train_file is None) == (self.dataset_name is None):
            self.refuse("train_file", f"Give either train_file=FILE or dataset_name={GENERATED}.")
        if self.dataset_name not in (None, GENERATED):
            self.refuse(
                "dataset_name",
                f"Unknown set of pairs {self.dataset_name!r}. Did you mean {GENERATED!r}?",
            )
        is_file = self.train_file is not None
        for key in ("validation_file", "strict_data"):
            self.needs(key, is_file, "with dataset_name")
        splits = is_file and self.validation_file is None
        self.needs("validation_split_percentage", splits, "unless train_file is split")


@dataclass(frozen=True)
class Pairs:
    """Pairs to train on, pairs held out, and what was found and left out."""

    train: list[PreferencePair]
    held_out: list[PreferencePair]
    notes: list[str]


def read_pairs(config: PairConfig, progress: Progress) -> Pairs:
    """Read the pairs that the settings name.

    Raises:
        NotFoundError: no such file.
        InvalidRequestError: nothing can be used, or the rows are no pairs.
    """
    pairs = (
        _generated(config) if config.train_file is None else _of_files(config, config.train_file)
    )
    for text in pairs.notes:
        progress.say(text)
    if not pairs.train or not pairs.held_out:
        raise InvalidRequestError(
            f"Expected pairs to train on and to hold out, got {len(pairs.train)} and {len(pairs.held_out)}.",
            code="empty_dataset",
            field="train_file",
        )
    return pairs


def _generated(config: PairConfig) -> Pairs:
    sizes = {"train": config.max_train_samples, "test": config.max_eval_samples}
    train, held_out = (
        generated_pairs(split, sizes[split] or DEFAULT_SIZES[split]) for split in ("train", "test")
    )
    return Pairs(train, held_out, [f"{GENERATED}: {len(train)} train, {len(held_out)} test"])


def _of_files(config: PairConfig, path: Path) -> Pairs:
    read = read_records(path, strict=config.strict_data)
    notes, records = [read.summary()], examples_of_kind(read.records, pairs=True)
    if config.validation_file is not None:
        other = read_records(config.validation_file, strict=config.strict_data)
        notes.append(other.summary())
        held_out = examples_of_kind(other.records, pairs=True)
    else:
        share = config.validation_split_percentage / 100
        records, held_out = split_records(records, share, config.seed)
    train = _pairs(records[: config.max_train_samples])
    return Pairs(train, _pairs(held_out[: config.max_eval_samples]), notes)


def _pairs(records: Sequence[Record]) -> list[PreferencePair]:
    return [r.example for r in records if isinstance(r.example, PreferencePair)]


def usable(pairs: Sequence[PreferencePair], make: Any) -> tuple[list[Any], int]:
    """What ``make`` gives for each pair, and how many pairs a chat template refused."""
    made, num_refused = [], 0
    for pair in pairs:
        try:
            made.append(make(pair))
        except EZTinkerError:
            num_refused += 1
    if not made:
        make(pairs[0])  # tells why
    return made, num_refused
