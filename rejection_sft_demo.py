"""Rejection-sampling SFT of Qwen2-0.5B-Instruct on GSM8K.

Start a server in another terminal (eztinker server), then:

    python rejection_sft_demo.py --max-samples 50 --num-candidates 4 --epochs 3

The same command again continues an interrupted run. Without a network, give the data with --data-path and
use the built-in model: --model nano --learning-rate 2e-3. The algorithm is in eztinker.recipes.rejection_sft.
"""

import sys

from eztinker import EZTinkerClient, create_training_run
from eztinker.recipes.rejection_arguments import (
    config_from,
    gsm8k_splits,
    print_report,
    rejection_parser,
    scorer_choice,
)
from eztinker.recipes.rejection_sft import run_rejection_sft
from eztinker.recipes.terminal import TerminalProgress
from eztinker.recipes.troubleshooting import run_door

MODEL_ID = "Qwen/Qwen2-0.5B-Instruct"


def main() -> None:
    """Flags, data, run, figures."""
    flags = rejection_parser(__doc__, MODEL_ID).parse_args()

    def create_run() -> str:
        # Edit the adapter here; a folder with an unfinished run then needs --reset-buffer.
        return create_training_run(
            base_model=flags.model,
            lora_rank=1,  # more learns more, and takes more memory
            lora_alpha=2,
            lora_dropout=0.05,
            seed=flags.seed,
            client=client,
        )

    with EZTinkerClient(flags.base_url) as client:
        client.health()  # without a server there is no point in reading data
        train, test = gsm8k_splits(flags)
        scorer = scorer_choice(flags)
        train = scorer.wrap(client, train)
        config = config_from(flags, train_on_incorrect=scorer.is_unbounded)
        report = run_rejection_sft(config, client, train, test, TerminalProgress(), create_run)
    print_report(report, flags.output_dir, train)


if __name__ == "__main__":
    sys.exit(run_door(main))
