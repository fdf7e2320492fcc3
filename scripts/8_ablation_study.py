"""Stage 8 of the finance pipeline: what each part of it is worth.

    python scripts/8_ablation_study.py
    python scripts/8_ablation_study.py --arms base,sft,sft_grpo

Evaluates base, sft and sft_grpo as the pipeline left them; trains and evaluates no_judge_filter, no_kl and swapped_weights
(each about as long as stage 5; below ckpts/ablation/). Writes reports/ablation_summary_<time>.json and .md and
reports/ablation_<time>.png; the same command again continues. The work is in eztinker.recipes.finance.ablation.
"""

import sys

from eztinker.recipes.finance import ablation
from eztinker.recipes.finance.door import NO_JUDGE, Flag, StageDoor

DOOR = StageDoor(
    __file__,
    __doc__,
    ablation.run,
    flags=(NO_JUDGE, Flag("arms", ":arms", "names of arms, separated by commas (all)")),
)

if __name__ == "__main__":
    sys.exit(DOOR.main())
