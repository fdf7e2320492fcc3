"""Stage 4 of the finance pipeline: SFT of the base model on the rows that the filter kept.

    python scripts/4_train_sft.py
    python scripts/4_train_sft.py --quantization none

Reads dataprocessed/sft.jsonl; settings are MODEL_CONFIG, LORA_CONFIG, SFT_CONFIG and WANDB_CONFIG of configs/config.py.
Writes ckpts/sft_lora/ (a PEFT adapter) and logs/sft_train.log; the same command again continues an interrupted training.
The work is in eztinker.recipes.finance.sft.
"""

import sys

from eztinker.recipes.finance import sft
from eztinker.recipes.finance.door import StageDoor

DOOR = StageDoor(__file__, __doc__, sft.run, check=sft.check)

if __name__ == "__main__":
    sys.exit(DOOR.main())
