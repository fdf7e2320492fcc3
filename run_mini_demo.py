"""Two GSM8K problems end to end: create a run, sample, grade, train, generate.

Start a server in another terminal (eztinker server), then: python run_mini_demo.py
Without a network: python run_mini_demo.py --model nano --dataset generated
"""

import argparse
import sys
from pathlib import Path

from eztinker import EZTinkerClient, GSM8KDataset
from eztinker.dataset.generated import GeneratedMathDataset
from eztinker.recipes.mini_demo import run_mini_demo
from eztinker.recipes.troubleshooting import run_door

MODEL_ID = "Qwen/Qwen2-0.5B-Instruct"
NUM_SAMPLES = 2


def main() -> None:
    """Flags, two examples, the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=MODEL_ID, help="base model; nano is built in")
    parser.add_argument("--dataset", choices=("gsm8k", "generated"), default="gsm8k")
    parser.add_argument("--data-path", type=Path, metavar="PATH", help="GSM8K file or folder")
    parser.add_argument("--base-url", metavar="URL", help="server (http://localhost:8000)")
    flags = parser.parse_args()
    with EZTinkerClient(flags.base_url) as client:
        client.health()  # without a server there is no point in fetching data
        if flags.dataset == "generated":
            dataset = GeneratedMathDataset("train", NUM_SAMPLES)
        else:
            dataset = GSM8KDataset("train", NUM_SAMPLES, data_path=flags.data_path)
        run_mini_demo(client, flags.model, dataset)


if __name__ == "__main__":
    sys.exit(run_door(main))
