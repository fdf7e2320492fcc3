"""Manual check of training with GPT-2: run with targets c_attn and c_proj, loss, optimizer step.

Start a server in another terminal (eztinker server), then: python test_training.py
When the server cannot get gpt2, a tiny GPT-2 with random weights is made in a temporary folder and used instead;
that needs a server on this machine. This is no pytest file; those are below tests/.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from eztinker import EZTinkerClient
from eztinker.errors import NotFoundError
from eztinker.recipes.terminal import pick, print_out
from eztinker.recipes.training_check import check_training
from eztinker.recipes.troubleshooting import run_door

MODEL_ID = "gpt2"
TARGET_MODULES = ("c_attn", "c_proj")


def main() -> None:
    """Check the named model, or a tiny one of the same kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help=f"base model (default {MODEL_ID})")
    parser.add_argument(
        "--target-modules", nargs="+", help=f"default for {MODEL_ID}: {' '.join(TARGET_MODULES)}"
    )
    parser.add_argument("--base-url", metavar="URL", help="server (http://localhost:8000)")
    flags = parser.parse_args()
    is_gpt2 = flags.model in (None, MODEL_ID)
    targets = flags.target_modules or (TARGET_MODULES if is_gpt2 else "all-linear")
    with EZTinkerClient(flags.base_url) as client:
        try:
            check_training(client, flags.model or MODEL_ID, targets)
        except NotFoundError as error:
            if flags.model is not None or error.code != "model_not_found":
                raise
            print_out(
                pick(
                    f"The server cannot get {MODEL_ID}; using a tiny GPT-2 with random weights instead.",
                    f"服务器无法获取 {MODEL_ID}；改用随机权重的微型 GPT-2。",
                )
            )
            with tempfile.TemporaryDirectory(prefix="tiny-gpt2-") as folder:
                check_training(client, str(make_tiny_gpt2(Path(folder))), targets)


def make_tiny_gpt2(folder: Path) -> Path:
    """Write a two-layer GPT-2 with random weights and a byte tokenizer into ``folder``."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<|endoftext|>")  # noqa: S106
    torch.manual_seed(0)
    end = len(tokenizer) - 1
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=end,
        eos_token_id=end,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.exit(run_door(main))
