"""Stage 2 of LawShift, QLoRA SFT: each question counts once, whatever the number of its right answers.

    python train/sft_train.py \\
        --model_path Qwen/Qwen2.5-0.5B-Instruct \\
        --sampled_data train/sampled_data.json \\
        --articles_path LawShift/term_up/articles_original.json \\
        --output_dir train/checkpoints --num_train_epochs 3

Writes <output_dir>/sft_<timestamp>/ with final_model/ (PEFT), checkpoint-*/ and logs/ (TensorBoard). NF4 base weights
unless --no_4bit. --resume continues the newest unfinished training. The work is in eztinker.recipes.lawshift.sft.
"""

import sys

from eztinker.recipes.experiment.door import Door

DOOR = Door(
    "lawshift-sft",
    __doc__,
    renamed={"model_path": "model_name_or_path"},
    switches={"no_4bit": ("load_in_4bit", False)},
    has_device=True,
)

if __name__ == "__main__":
    sys.exit(DOOR.main())
