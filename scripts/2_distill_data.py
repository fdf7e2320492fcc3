"""Stage 2 of the finance pipeline: the teacher's reasoning and answer to every question.

    python scripts/2_distill_data.py

Asks TEACHER_CONFIG.model_name for <think>…</think><answer>…</answer>, again with a reminder where the form is missing.
Reads dataraw/raw.jsonl, writes dataprocessed/distilled.jsonl and distill_stats.json; the same command again continues an
interrupted run. Uses the server at --base-url, EZTINKER_BASE_URL or http://localhost:8000, else starts one. The work is in
eztinker.recipes.finance.distil.
"""

import sys

from eztinker.recipes.finance import distil
from eztinker.recipes.finance.door import StageDoor

DOOR = StageDoor(__file__, __doc__, distil.run, check=distil.check)

if __name__ == "__main__":
    sys.exit(DOOR.main())
