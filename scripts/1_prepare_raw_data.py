"""Stage 1 of the finance pipeline: questions with answers, typed and sampled.

    python scripts/1_prepare_raw_data.py
    python scripts/1_prepare_raw_data.py --local_data questions.jsonl --total_samples 500

Takes DianJin-R1-Data from ModelScope or the Hugging Face hub, or --local_data (DATA_CONFIG.local_path); adds
--custom_data (DATA_CONFIG.custom_path). Writes dataraw/raw.jsonl and dataraw/raw_stats.json. The work is in
eztinker.recipes.finance.prepare.
"""

import sys

from eztinker.recipes.finance import prepare
from eztinker.recipes.finance.door import Flag, StageDoor

DOOR = StageDoor(
    __file__,
    __doc__,
    prepare.run,
    flags=(
        Flag("local_data", "data.local_path", "file or folder of questions, instead of a download"),
        Flag("custom_data", "data.custom_path", "further questions of your own"),
        Flag("total_samples", "data.total_samples", "questions to keep", kind=int),
    ),
    needs_server=False,
)

if __name__ == "__main__":
    sys.exit(DOOR.main())
