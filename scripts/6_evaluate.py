"""Stage 6 of the finance pipeline: form, right answers and the judge's marks on the held-out questions, by type.

    python scripts/6_evaluate.py                  # the GRPO adapter
    python scripts/6_evaluate.py --eval_sft       # the SFT adapter
    python scripts/6_evaluate.py --eval_base      # the base model alone
    python scripts/6_evaluate.py --no-judge       # rules only
    python scripts/6_evaluate.py --model_path ckpts/merged_model
    python scripts/6_evaluate.py --use_vllm --model_path ckpts/merged_model

Reads dataprocessed/test.jsonl, writes reports/eval_<arm>_<time>.json and eval_details_<arm>_<time>.jsonl; the same command
again continues an interrupted run. The work is in eztinker.recipes.finance.evaluation.
"""

import sys

from eztinker.recipes.finance import evaluation
from eztinker.recipes.finance.door import NO_JUDGE, Flag, StageDoor

DOOR = StageDoor(
    __file__,
    __doc__,
    evaluation.run,
    flags=(
        Flag("eval_sft", ":eval_sft", "the SFT adapter", switched=True),
        Flag("eval_base", ":eval_base", "the base model alone", switched=True),
        NO_JUDGE,
        Flag("use_vllm", ":use_vllm", "through vLLM (at --vllm_url, else started here)", switched=True),
        Flag("vllm_url", "evaluation.vllm_url", "OpenAI-compatible server that --use_vllm asks"),
        Flag("vllm_python", "deploy.vllm_python", "Python that has vLLM, to start it with (this one)"),
        Flag("model_path", ":model_path", "whole model, adapter folder, or RUN_ID[@CHECKPOINT]"),
    ),
    asks_model=lambda config, given: config.use_judge or not given.get("use_vllm"),
    check=evaluation.check,
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(DOOR.main())
