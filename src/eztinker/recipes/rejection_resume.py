"""Whether the run that an interrupted recipe left on the server can be continued, and from which step.

Compares the run with what is on record; the steps of an unfinished epoch stay, and the server's log has their losses.
Called by ``rejection_sft.py``.
"""

from __future__ import annotations

from typing import Any

from eztinker.errors import InvalidRequestError, NotFoundError
from eztinker.recipes.experiment.session import settle
from eztinker.recipes.rejection_state import RejectionState
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.training import steps_taken
from eztinker.rl.training_run import find_run


def checkpoint_name(epoch: int) -> str:
    """Name of the checkpoint after an epoch."""
    return f"rejection_sft_epoch_{epoch}"


def can_continue(client: Any, state: RejectionState, progress: Progress) -> bool:
    """Whether training goes on with the known run.

    Waits for what is still on its way to it, and drops a gradient that no step followed.

    Returns:
        False when the server no longer has the run: training then starts anew from the buffer, which holds answers
        of the untrained weights.
    """
    assert state.run_id is not None
    try:
        settle(client, state.run_id)
        run = find_run(client, state.run_id)
    except NotFoundError:
        progress.say(
            pick(
                f"The server no longer has run {state.run_id}: training starts anew from the buffer.",
                f"服务器上已没有训练运行 {state.run_id}：从缓冲区重新开始训练。",
            )
        )
        return False
    lora = run["lora_config"]
    settings = f"rank {lora['r']}, alpha {lora['lora_alpha']}, dropout {lora['lora_dropout']}"
    num_epochs, num_steps = len(state.epochs), run["step"] - state.step
    progress.say(
        pick(
            f"Continuing run {state.run_id} after epoch {num_epochs}, step {num_steps} of the next ({settings}).",
            f"继续训练运行 {state.run_id}：已完成 {num_epochs} 轮和下一轮的 {num_steps} 步（{settings}）。",
        )
    )
    return True


def losses_since(client: Any, run_id: str, step: int, num_planned: int) -> list[float]:
    """Losses of the steps that a run has taken after ``step``, from the server's log.

    Args:
        client: an ``EZTinkerClient``.
        run_id: the run.
        step: at the end of the last finished epoch.
        num_planned: steps of the epoch.

    Raises:
        InvalidRequestError: the run has taken more steps than the epoch has: someone else trains it too.
    """
    num_taken = find_run(client, run_id)["step"] - step
    if not 0 <= num_taken <= num_planned:
        raise InvalidRequestError(
            f"Run {run_id} stands {num_taken} steps after the last finished epoch, and this epoch has "
            f"{num_planned}: something else has trained it. Start afresh with --reset-buffer.",
            code="run_changed",
            field="output_dir",
        )
    if not num_taken:
        return []
    taken = steps_taken(client, run_id, step, has_logprobs=False)
    return [done.loss for done in taken][:num_taken]
