"""Whether the run that an interrupted recipe left on the server can be continued, and from where.

Compares the run with what is on record, and takes back the steps of an unfinished epoch where a checkpoint allows
it. Called by ``rejection_sft.py`` in its first phase.
"""

from __future__ import annotations

from typing import Any

from eztinker.errors import NotFoundError
from eztinker.recipes.rejection_state import RejectionState
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.training_run import find_run


def checkpoint_name(epoch: int) -> str:
    """Name of the checkpoint after an epoch."""
    return f"rejection_sft_epoch_{epoch}"


def can_continue(client: Any, state: RejectionState, progress: Progress) -> bool:
    """Whether training goes on with the known run; it then stands at the end of the last finished epoch.

    Returns:
        False when the server no longer has the run, or when its first epoch was interrupted: training then
        starts anew from the buffer, which holds answers of the untrained weights.
    """
    assert state.run_id is not None
    try:
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
    progress.say(
        pick(
            f"Continuing run {state.run_id} after epoch {len(state.epochs)} "
            f"(rank {lora['r']}, alpha {lora['lora_alpha']}, dropout {lora['lora_dropout']}).",
            f"继续训练运行 {state.run_id}，已完成 {len(state.epochs)} 轮"
            f"（rank {lora['r']}，alpha {lora['lora_alpha']}，dropout {lora['lora_dropout']}）。",
        )
    )
    num_steps = run["step"] - state.step
    return num_steps == 0 or _rewind(client, state, progress, num_steps)


def _rewind(client: Any, state: RejectionState, progress: Progress, num_steps: int) -> bool:
    """Take back the steps of the epoch that was interrupted; False when only a new run can."""
    run_id, last = state.run_id, len(state.epochs)
    names = {found["name"] for found in client.get_checkpoints(run_id)}
    if checkpoint_name(last) in names:
        state.step = client.load_checkpoint(run_id, checkpoint_name(last))["step"]
        return True
    if last == 0:
        progress.say(
            pick(
                "Epoch 1 was interrupted: training starts anew from the buffer with a new run.",
                "第 1 轮被中断：用新的训练运行从缓冲区重新开始训练。",
            )
        )
        return False
    progress.say(
        pick(
            f"Epoch {last + 1} was interrupted after {num_steps} steps. They stay in the weights, and the epoch "
            "starts over (with --checkpoint it would start from the end of the last epoch).",
            f"第 {last + 1} 轮在 {num_steps} 步后中断。这些更新保留在权重中，该轮重新开始"
            "（使用 --checkpoint 则从上一轮结束处开始）。",
        )
    )
    return True
