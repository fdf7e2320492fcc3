"""Stage 1 of LawShift, rejection sampling: keep the answers whose charge and prison term are both right.

    python train/rejection_sampling.py \\
        --model_path Qwen/Qwen2.5-0.5B-Instruct \\
        --training_data LawShift/training_set.json \\
        --articles LawShift/term_up/articles_original.json \\
        --output train/sampled_data.json --num_samples 8

Uses the server at --base-url, EZTINKER_BASE_URL or http://localhost:8000, else starts one. The same command again
continues an interrupted run. The work is in eztinker.recipes.lawshift.sample.
"""

import sys

from eztinker.recipes.experiment.door import Door

DOOR = Door("lawshift-sample", __doc__, has_device=True)

if __name__ == "__main__":
    sys.exit(DOOR.main())
