"""An experiment at work: its folder and its run on the server, opened together or found again.

The server keeps weights, optimizer and step through any crash; so where an experiment stands is the run's own
step, and the folder only says which run it is. Knows the client and the folder; what is trained is the
recipe's affair. Called by the recipes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eztinker.errors import JobFailedError, NotFoundError, UserError
from eztinker.ids import new_run_id
from eztinker.recipes.experiment.folder import Experiment
from eztinker.recipes.experiment.trackers import open_trackers
from eztinker.recipes.experiment.training_settings import TrainingConfig
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.training import TrainedStep
from eztinker.rl.training_run import find_run, tokenizer_of_run

RESUME_CHECKPOINT = "resume"
_POLL_S = 0.2


@dataclass
class Session:
    """What a recipe works with.

    Attributes:
        experiment: the folder.
        client: an ``EZTinkerClient``.
        run_id: the run that is trained.
        step: optimizer steps that this experiment has done.
        tokenizer: of the base model.
        config: the settings.
        progress: where notes and bars go.
    """

    experiment: Experiment
    client: Any
    run_id: str
    step: int
    tokenizer: Any
    config: TrainingConfig
    progress: Progress

    def steps_here(self, done: TrainedStep) -> int:
        """The number of a step in this experiment, from 1; the run may have been trained before."""
        return done.step - self.experiment.state["start_step"]

    def save_checkpoint(self, name: str) -> str:
        """Save the run under a name, note it in the folder and drop what ``save_total_limit`` allows no more.

        Returns:
            ``RUN_ID@NAME``, as ``init_from`` takes it.
        """
        saved = self.client.save_checkpoint(self.run_id, name, overwrite=True)
        self.experiment.add_checkpoint(name, self.step, saved["path"])
        limit = self.config.save_total_limit
        numbered = [c for c in self.experiment.checkpoints() if c["name"].startswith("step-")]
        for old in numbered[:-limit] if limit else []:
            self.client.delete_checkpoint(self.run_id, old["name"])
            self.experiment.drop_checkpoint(old["name"])
        return f"{self.run_id}@{name}"


@contextmanager
def open_session(
    recipe: str, config: TrainingConfig, client: Any, progress: Progress
) -> Iterator[Session]:
    """Open an experiment's folder and run, new or continued, with its trackers.

    Raises:
        InvalidRequestError: the folder holds another experiment.
        NotFoundError: its run is gone from the server.
    """
    experiment = Experiment.open(
        config.output_dir, recipe, config, overwrite=config.overwrite_output_dir
    )
    run_id, step = _open_run(experiment, config, client, progress)
    name = config.run_name or experiment.state.setdefault("name", f"{recipe}-{run_id}")
    experiment.save_state()
    experiment.trackers = open_trackers(
        config.report_to, experiment.folder, name, config.project, config.resolved()
    )
    experiment.tracker_steps = config.logging_steps
    tokenizer = tokenizer_of_run(client, run_id)
    try:
        yield Session(experiment, client, run_id, step, tokenizer, config, progress)
        _release_frozen(experiment, client)
    finally:
        experiment.close()


def _open_run(
    experiment: Experiment, config: TrainingConfig, client: Any, progress: Progress
) -> tuple[str, int]:
    """Id of the run and the steps it has done here."""
    if experiment.state.get("is_created"):
        return _continue_run(experiment, client, progress)
    # The name is on disk before the run exists, so a crash in between leaves no run without an owner.
    run_id = experiment.state.setdefault("run_id", new_run_id())
    experiment.save_state()
    try:
        if not _exists(client, run_id):
            client.create_run(run_id=run_id, **config.run_arguments)
        if config.init_from is not None:
            load_adapter(client, run_id, config.init_from)
    except (UserError, JobFailedError):
        if _exists(client, run_id):
            client.delete_run(run_id)
        experiment.abandon()
        raise
    start = find_run(client, run_id)["step"]
    experiment.save_state(is_created=True, start_step=start)
    progress.say(
        pick(f"Run {run_id} in {experiment.folder}", f"训练运行 {run_id}，目录 {experiment.folder}")
    )
    return run_id, 0


def _exists(client: Any, run_id: str) -> bool:
    return any(run["run_id"] == run_id for run in client.get_runs())


def _continue_run(experiment: Experiment, client: Any, progress: Progress) -> tuple[str, int]:
    run_id = experiment.state["run_id"]
    try:
        settle(client, run_id)
        step = find_run(client, run_id)["step"] - experiment.state["start_step"]
    except NotFoundError as error:
        raise NotFoundError(
            f"{experiment.folder} continues run {run_id}, which this server does not have. Start the server on the "
            "state it had (--state-dir), or start afresh with overwrite_output_dir=true.",
            code="run_not_found",
            field="output_dir",
        ) from error
    progress.say(
        pick(
            f"Continuing run {run_id} after step {step}", f"从第 {step} 步之后继续训练运行 {run_id}"
        )
    )
    return run_id, step


def settle(client: Any, run_id: str) -> None:
    """Wait for what an interrupted program left in the queue, and drop a gradient that no step followed.

    Raises:
        NotFoundError: the server has no such run.
    """
    find_run(client, run_id)
    while any(client.get_jobs(run_id, status=status) for status in ("queued", "running")):
        time.sleep(_POLL_S)
    done = [job["kind"] for job in client.get_jobs(run_id) if job["status"] == "completed"]
    last = next((kind for kind in done if kind in ("forward_backward", "optim_step")), None)
    if last == "forward_backward":  # loading a state has no gradient
        client.save_checkpoint(run_id, RESUME_CHECKPOINT, overwrite=True)
        client.load_checkpoint(run_id, RESUME_CHECKPOINT)
        client.delete_checkpoint(run_id, RESUME_CHECKPOINT)


def load_adapter(client: Any, run_id: str, checkpoint: str) -> None:
    """Give a run the adapter of ``RUN_ID@CHECKPOINT``, with a fresh optimizer."""
    source, _, name = checkpoint.rpartition("@")
    client.load_checkpoint(run_id, name, with_optimizer=False, source_run_id=source)


def frozen_run(
    session: Session,
    role: str,
    base_model: str,
    checkpoint: str | None,
    *,
    quantization: str | None = None,
    **lora: Any,
) -> str:
    """A run that is only read (reference, teacher, reward model): the base model, or a checkpoint on it.

    An adapter that was never trained adds exactly zero, so a new run is its base model. Its id is kept in the
    experiment's state until the experiment is finished, and it is made again if the server has lost it.

    Args:
        session: whose reference it is.
        role: name of its part, a key of the state.
        base_model: of the run.
        checkpoint: ``RUN_ID@CHECKPOINT``; None is the base model itself.
        quantization: of the base weights; a reference has those of the policy.
        lora: adapter settings that the checkpoint was made with; default rank 1.
    """
    frozen: dict[str, dict[str, Any]] = session.experiment.state.setdefault("frozen", {})
    mine = frozen.setdefault(role, {"run_id": new_run_id(), "is_ready": False})
    session.experiment.save_state()
    make_frozen(
        session.client,
        mine["run_id"],
        base_model,
        checkpoint,
        is_ready=mine["is_ready"],
        quantization=quantization,
        **lora,
    )
    mine["is_ready"] = True
    session.experiment.save_state()
    return mine["run_id"]


def _release_frozen(experiment: Experiment, client: Any) -> None:
    """Delete the runs that were only read: the experiment is finished."""
    known = {run["run_id"] for run in client.get_runs()}
    for mine in experiment.state.get("frozen", {}).values():
        if mine["run_id"] in known:
            client.delete_run(mine["run_id"])
    experiment.save_state(frozen={})


def make_frozen(
    client: Any,
    run_id: str,
    base_model: str,
    checkpoint: str | None,
    *,
    is_ready: bool = False,
    quantization: str | None = None,
    **lora: Any,
) -> None:
    """Have the server hold a run of this name that is the base model or a checkpoint on it.

    Args:
        is_ready: the run, if it exists, has its adapter already.
        quantization: of the base weights.
        lora: adapter settings that the checkpoint was made with; default rank 1.
    """
    exists = any(run["run_id"] == run_id for run in client.get_runs())
    if not exists:
        client.create_run(
            base_model,
            run_id=run_id,
            lora_config=lora or {"r": 1},
            quantization=quantization,
            seed=0,
        )
    if checkpoint is not None and not (exists and is_ready):
        load_adapter(client, run_id, checkpoint)


def lora_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Adapter settings of a run, as ``create_run`` takes them: a checkpoint fits no other."""
    names = ("r", "lora_alpha", "target_modules", "use_rslora")
    return {name: run["lora_config"][name] for name in names if name in run["lora_config"]}
