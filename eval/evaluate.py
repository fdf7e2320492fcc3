"""Stage 3 of LawShift, evaluation under the original and the changed law.

    python eval/evaluate.py \\
        --model_path train/checkpoints/sft_20250115_120000/final_model \\
        --base_model Qwen/Qwen2.5-0.5B-Instruct \\
        --test_dir LawShift/term_up --output_dir results/finetuned_model

--model_path is an adapter folder, a whole model, or RUN_ID[@CHECKPOINT]; --test_dir one folder or a root of many;
--config FILE.yaml holds the same names. Writes <folder>_results.json and summary.md; the same command again
continues. The work is in eztinker.recipes.lawshift.evaluation.
"""

import sys

from eztinker.recipes.experiment.door import Door

DOOR = Door("lawshift-eval", __doc__, has_device=True)

if __name__ == "__main__":
    sys.exit(DOOR.main())
