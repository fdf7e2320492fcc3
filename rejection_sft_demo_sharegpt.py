"""Rejection-sampling SFT on GSM8K or on ShareGPT conversations.

Start a server in another terminal (eztinker server), then:

    python rejection_sft_demo_sharegpt.py --dataset-type sharegpt --data-path FILE.json --max-samples 50

GSM8K goes as in rejection_sft_demo.py. Conversations have no right answer, only the reply that somebody gave:
the model answers the last user turn N times, a candidate's score is its likeness to that reply (--similarity
word_f1 or rouge_l, 0 to 1; "correct" from --similarity-threshold on, 0.5), and the best candidate is trained on
whatever its score, or, with --only-similar, only if it is correct. The last rows of the file, at most a fifth,
are held out; watch mean_score in the results.
"""

import sys

from eztinker import EZTinkerClient, ShareGPTDataset, create_training_run
from eztinker.errors import InvalidRequestError
from eztinker.grading.overlap import SIMILARITIES
from eztinker.recipes.held_out import hold_out
from eztinker.recipes.rejection_arguments import (
    config_from,
    gsm8k_splits,
    print_report,
    rejection_parser,
    scorer_choice,
)
from eztinker.recipes.rejection_sft import run_rejection_sft
from eztinker.recipes.terminal import TerminalProgress, pick
from eztinker.recipes.troubleshooting import run_door

MODEL_ID = "Qwen/Qwen2-0.5B-Instruct"


def main() -> None:
    """Flags, data, run, figures."""
    parser = rejection_parser(__doc__, MODEL_ID)
    parser.add_argument("--dataset-type", choices=("gsm8k", "sharegpt"), default="gsm8k")
    parser.add_argument("--max-length", type=int, default=1024, help="prompt and answer (1024)")
    parser.add_argument("--similarity", choices=SIMILARITIES, default="word_f1", help="(word_f1)")
    parser.add_argument("--similarity-threshold", type=float, default=0.5, help='"correct" (0.5)')
    parser.add_argument("--only-similar", action="store_true", help="train on correct ones only")
    flags = parser.parse_args()
    scorer = scorer_choice(flags)
    progress = TerminalProgress()

    def create_run() -> str:
        # Edit the adapter here; a folder with an unfinished run then needs --reset-buffer.
        return create_training_run(
            base_model=flags.model,
            lora_rank=1,
            lora_alpha=2,
            lora_dropout=0.05,
            seed=flags.seed,
            client=client,
        )

    with EZTinkerClient(flags.base_url) as client:
        client.health()  # without a server there is no point in reading data
        if flags.dataset_type == "sharegpt":
            train, test = _conversations(flags, client, progress)
            # Replies may hold any text, and none of them is right or wrong.
            config = config_from(
                flags,
                max_length=flags.max_length,
                stop=(),
                train_on_incorrect=not flags.only_similar,
            )
        else:
            train, test = gsm8k_splits(flags)
            config = config_from(
                flags, max_length=flags.max_length, train_on_incorrect=scorer.is_unbounded
            )
        train = scorer.wrap(client, train)
        report = run_rejection_sft(config, client, train, test, progress, create_run)
    print_report(report, flags.output_dir, train)


def _conversations(flags, client, progress):
    if flags.data_path is None:
        raise InvalidRequestError(
            "--dataset-type sharegpt needs --data-path FILE, a JSON or JSONL file of conversations.",
            field="data_path",
        )
    dataset = ShareGPTDataset(
        file_path=flags.data_path,
        tokenizer=client.get_tokenizer(flags.model),
        max_length=flags.max_length,
        strict=False,
        similarity=flags.similarity,
        correct_from=flags.similarity_threshold,
    )
    progress.say(str(dataset.stats))
    for row in dataset.invalid[:5]:
        progress.say(pick("Left out: ", "已跳过：") + f"{row.path}:{row.line}: {row.reason}")
    progress.say(
        pick(
            f"Score of a candidate: {flags.similarity} with the reply in the file (unless --scorer asks a model); the "
            "best one is trained on.",
            f"候选的分数：与文件中回复的 {flags.similarity}（除非 --scorer 使用模型）；在得分最高的候选上训练。",
        )
    )
    return hold_out(dataset, flags.max_samples, flags.eval_size)


if __name__ == "__main__":
    sys.exit(run_door(main))
