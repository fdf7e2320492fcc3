"""``tinker://<run>/<kind>/<name>``: how the Tinker wire names checkpoints, and how we store them.

In the protocol each kind has names of its own; here all of a run's checkpoints share one set. A
training checkpoint keeps its name and the others get their kind in front, with a colon that no name of
a caller's can have. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from eztinker.errors import InvalidRequestError
from eztinker.ids import check_name, check_reference
from eztinker.service.samplers import PUBLISHED
from eztinker.types.records import CheckpointRecord

SCHEME = "tinker://"
TYPE_OF_KIND = {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}
EPHEMERAL = "ephemeral"
"""Kind of the weights behind a sampling client that was made without a name; never listed."""
_SHARED = PUBLISHED.removeprefix(f"{EPHEMERAL}:")


@dataclass(frozen=True, slots=True)
class CheckpointPath:
    """A checkpoint as the protocol names it."""

    run_id: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.run_id}/{self.checkpoint_id}"

    @property
    def checkpoint_id(self) -> str:
        """Kind and name, as the protocol puts them together."""
        return f"{self.kind}/{self.name}"

    @property
    def stored_name(self) -> str:
        """Its name among the run's checkpoints."""
        return self.name if self.kind == "weights" else f"{self.kind}:{self.name}"


def new_checkpoint(run_id: str, kind: str, name: str) -> CheckpointPath:
    """A checkpoint that a caller wants to name.

    Raises:
        InvalidRequestError: code ``invalid_name``; a slash, for one, would make an unreadable path.
    """
    return CheckpointPath(run_id, kind, check_name(name, field="path"))


def ephemeral_checkpoint(run_id: str, number: int, *, is_shared: bool) -> CheckpointPath:
    """The unlisted weights behind a sampler.

    Args:
        number: of the sampler in its session.
        is_shared: they are published to all samplers of the run that share its newest weights.
    """
    return CheckpointPath(run_id, EPHEMERAL, f"{_SHARED if is_shared else ''}{number}")


def sampler_number(path: CheckpointPath) -> int:
    """Which sampler a path of ``ephemeral_checkpoint`` was made for."""
    return int(path.name.removeprefix(_SHARED))


def parse_path(path: str, *, field: str) -> CheckpointPath:
    """A path as a caller wrote it.

    Raises:
        InvalidRequestError: code ``invalid_path``, it does not have the three parts.
    """
    parts = path.removeprefix(SCHEME).split("/")
    if not path.startswith(SCHEME) or len(parts) != 3 or parts[1] not in TYPE_OF_KIND:
        raise InvalidRequestError(
            f"{field}: expected {SCHEME}RUN/KIND/NAME with KIND one of {', '.join(TYPE_OF_KIND)}, got "
            f"{path[:200]!r}.",
            code="invalid_path",
            field=field,
        )
    run_id, kind, name = parts
    check_reference(run_id, field=field)
    return CheckpointPath(run_id, kind, check_name(name, field=field))


def path_of_stored(run_id: str, stored_name: str) -> CheckpointPath:
    """The path of a checkpoint of ours."""
    kind, colon, name = stored_name.partition(":")
    return (
        CheckpointPath(run_id, kind, name)
        if colon
        else CheckpointPath(run_id, "weights", stored_name)
    )


def is_listed(checkpoint: CheckpointRecord) -> bool:
    """Whether lists show it."""
    return path_of_stored(checkpoint.run_id, checkpoint.name).kind in TYPE_OF_KIND
