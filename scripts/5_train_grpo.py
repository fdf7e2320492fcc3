"""Stage 5 of the finance pipeline: GRPO from the SFT adapter, for right answers in the right form.

    python scripts/5_train_grpo.py
    python scripts/5_train_grpo.py --no-judge

Reads dataprocessed/rl.jsonl and ckpts/sft_lora/; settings are GRPO_CONFIG, JUDGE_CONFIG and WANDB_CONFIG of
configs/config.py. Writes ckpts/grpo_lora/ (a PEFT adapter), logs/grpo_train.log, and every answer with the parts of its
reward in logs/grpo_train/rollouts/; the same command again continues an interrupted training. The work is in
eztinker.recipes.finance.grpo.
"""

import sys

from eztinker.recipes.finance import grpo
from eztinker.recipes.finance.door import NO_JUDGE, StageDoor

DOOR = StageDoor(__file__, __doc__, grpo.run, flags=(NO_JUDGE,), check=grpo.check)

if __name__ == "__main__":
    sys.exit(DOOR.main())
