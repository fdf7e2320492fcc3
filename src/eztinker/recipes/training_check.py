"""The manual check of training: one forward-backward pass and one optimizer step, with their numbers.

Called by ``test_training.py``; it knows the client only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.recipes.terminal import pick, print_out
from eztinker.rl.rejection_sampler import create_training_run

TEXT = "The quick brown fox jumps over the lazy dog."


def check_training(client: Any, model: str, target_modules: str | Sequence[str]) -> float:
    """Create a run, train one text, take a step, delete the run; the loss before the step.

    Args:
        client: an ``EZTinkerClient``.
        model: base model.
        target_modules: modules that get an adapter.

    Raises:
        InvalidRequestError: the loss after the step is not lower, so training does not work.
    """
    run_id = create_training_run(
        model,
        lora_rank=8,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=target_modules,
        client=client,
    )
    print_out(
        pick(
            f"Created run {run_id} of {model} (LoRA targets: {target_modules})",
            f"已创建 {model} 的训练运行 {run_id}（LoRA target: {target_modules}）",
        )
    )
    try:
        return _check_run(client, run_id, model)
    finally:
        client.delete_run(run_id)


def _check_run(client: Any, run_id: str, model: str) -> float:
    input_ids = list(client.get_tokenizer(model).encode(TEXT))
    passed = client.forward_backward(run_id, input_ids)
    print_out("Forward + Backward")
    print_out(f"  Loss: {passed['loss']}")
    print_out(f"  Batches: {passed['batches']}")
    stepped = client.optim_step(run_id, learning_rate=1e-3)
    print_out("Optimizer Step")
    print_out(f"  Status: {stepped['status']}")
    after = client.forward(run_id, input_ids)["loss"]
    print_out(pick(f"Loss after the step: {after}", f"更新后的损失: {after}"))
    if not after < passed["loss"]:
        raise InvalidRequestError(
            f"Expected a lower loss after the step, got {after} after {passed['loss']}: training does not work."
        )
    return passed["loss"]
