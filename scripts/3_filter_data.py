"""Stage 3 of the finance pipeline: which distilled rows to train on, and which to hold out.

    python scripts/3_filter_data.py
    python scripts/3_filter_data.py --no-judge

Rules (form, answer, reasoning), then the four marks of JUDGE_CONFIG.model_name unless --no-judge; the rest is split 8:2.
Reads dataprocessed/distilled.jsonl, writes sft.jsonl, rl.jsonl, test.jsonl and filter_stats.json beside it; the same
command again continues an interrupted run. The work is in eztinker.recipes.finance.filter.
"""

import sys

from eztinker.recipes.finance import filter as stage
from eztinker.recipes.finance.door import NO_JUDGE, StageDoor

DOOR = StageDoor(
    __file__,
    __doc__,
    stage.run,
    flags=(NO_JUDGE,),
    asks_model=lambda config, _: config.use_judge,
    check=stage.check,
)


if __name__ == "__main__":
    sys.exit(DOOR.main())
