"""Two problems end to end, every step told: the smallest proof that client and server work together.

The documented functions one after another, no batching and no files. Called by ``run_mini_demo.py``.
"""

from __future__ import annotations

from typing import Any

from eztinker.recipes.terminal import pick, print_out
from eztinker.rl.rejection_sampler import (
    create_training_run,
    generate_candidates,
    select_best_candidate_and_train,
)

NUM_CANDIDATES = 2
SHOWN_CHARS = 60


def run_mini_demo(client: Any, model: str, dataset: Any, *, max_new_tokens: int = 128) -> str:
    """Create a rank-1 run, take each example through sampling, selection and training, then sample.

    The best candidate is trained on even when it is wrong, so that every step runs with any model.

    Args:
        client: an ``EZTinkerClient``.
        model: base model.
        dataset: its examples, all of them.
        max_new_tokens: most tokens of a candidate.

    Returns:
        The text that the trained run gives at the end.
    """
    client.health()
    print_out(pick(f"Server: {client.base_url}", f"服务器：{client.base_url}"))
    run_id = create_training_run(model, lora_rank=1, client=client)
    print_out(
        pick(f"Created run {run_id} (rank-1 LoRA)", f"已创建训练运行 {run_id}（Rank-1 LoRA）")
    )
    print_out(pick(f"Loaded {len(dataset)} examples", f"已加载 {len(dataset)} 个样本"))
    for index in range(len(dataset)):
        print_out(
            pick(
                f"Example {index + 1}/{len(dataset)}...",
                f"处理样本 {index + 1}/{len(dataset)}...",
            )
        )
        _take_example(client, run_id, dataset, index, max_new_tokens)
    text = client.sample("What is 2 + 2?", max_new_tokens=30, temperature=0.7, run_id=run_id)
    print_out(pick("Generated: ", "生成结果: ") + text)
    return text


def _take_example(client: Any, run_id: str, dataset: Any, index: int, max_new_tokens: int) -> None:
    question, prompt, ground_truth = dataset.get_example_question(index)
    print_out(pick("  Question: ", "  问题: ") + _shortened(question))
    print_out(pick("  Right answer: ", "  正确答案: ") + ground_truth)
    print_out(
        pick(f"  Sampling {NUM_CANDIDATES} candidates...", f"  生成 {NUM_CANDIDATES} 个候选答案...")
    )
    candidates = generate_candidates(
        prompt, question, run_id, NUM_CANDIDATES, max_new_tokens=max_new_tokens, client=client
    )
    print_out(pick(f"  Got {len(candidates)}", f"  已生成 {len(candidates)} 个候选"))
    print_out(pick("  Grading them...", "  评估候选答案..."))
    result = select_best_candidate_and_train(
        run_id,
        prompt,
        candidates,
        ground_truth,
        question,
        dataset,
        train_on_incorrect=True,
        client=client,
    )
    print_out(pick("  Best score: ", "  最佳分数: ") + f"{result['selected_score']:.2f}")
    print_out(pick("  Correct: ", "  是否正确: ") + str(result["selected_is_correct"]))
    print_out(pick("  Trained: ", "  是否训练: ") + str(result["trained"]))


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."
