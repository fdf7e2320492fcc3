"""Makes ``nano`` from nothing but this repository: corpus, tokenizer, weights, scores, card.

Run from the root: ``OMP_WAIT_POLICY=PASSIVE python -m tools.nano.build``. All seeds are fixed; half
an hour on two CPU cores. The corpus stays in ``--work-dir``, which git ignores.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tools.nano.card import CHAT_QUESTIONS, write_card
from tools.nano.documents import Document
from tools.nano.evaluate import EVALUATION_SEED, SETS, load, scores, show_chat
from tools.nano.held_out import find_leaks
from tools.nano.known_logits import keep_known_logits
from tools.nano.make_corpus import STAGES, read_corpus, write_stage
from tools.nano.pretrain import (
    Encoded,
    PretrainSettings,
    Schedule,
    encode_documents,
    new_model,
    pretrain,
    save_model,
)
from tools.nano.simulate_demo import Recipe, simulate
from tools.nano.train_tokenizer import save_tokenizer, train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "src" / "eztinker" / "assets" / "nano"
SKILL_SCHEDULE = Schedule(top=1.0, last=0.25)
HABIT_SCHEDULE = Schedule(top=0.25, last=0.005, decay=0.9, by_document=True)
NUM_TOKENIZER_DOCUMENTS = 30_000
DEMO_SEEDS = (0, 1, 2)


def build(work_dir: Path, folder: Path) -> None:
    """Make everything and write it to ``folder``; what lies in ``work_dir`` is used again."""
    skilled = work_dir / "skilled"
    if not (skilled / "model.safetensors").exists():
        teach_skill(work_dir, skilled)
    teach_habit(work_dir, skilled, folder)
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")


def teach_skill(work_dir: Path, skilled: Path) -> None:
    """Tokenizer and first stage: sums, then documents with careful answers only."""
    sums, texts = (_documents(work_dir, stage) for stage in ("sums", "skill"))
    mixed = _documents(work_dir, "habit")
    sample = (texts + mixed)[:: len(texts + mixed) // NUM_TOKENIZER_DOCUMENTS]
    tokenizer = train_tokenizer(document.prompt + document.completion for document in sample)
    settings = PretrainSettings()
    model = new_model(tokenizer, settings)
    _train(work_dir, "skill", model, encode_documents(sums + texts, tokenizer), SKILL_SCHEDULE)
    save_tokenizer(tokenizer, skilled)
    save_model(model, skilled, torch.float32)


def teach_habit(work_dir: Path, skilled: Path, folder: Path) -> None:
    """Second stage: documents of mixed habit, at a lower rate."""
    model, tokenizer = load(skilled)
    model.config._attn_implementation = "eager"
    encoded = encode_documents(_documents(work_dir, "habit"), tokenizer)
    _train(work_dir, "habit", model, encoded, HABIT_SCHEDULE)
    save_tokenizer(tokenizer, folder)
    save_model(model, folder, torch.bfloat16)


def _documents(work_dir: Path, stage: str) -> list[Document]:
    path = work_dir / f"{stage}.jsonl"
    write_stage(path, stage)
    return list(read_corpus(path))


def _train(
    work_dir: Path, stage: str, model: Any, encoded: list[Encoded], schedule: Schedule
) -> None:
    started_s = time.monotonic()
    pretrain(model, encoded, schedule, PretrainSettings())
    record = {
        "num_documents": len(encoded),
        "num_tokens": sum(len(ids) for ids, _ in encoded),
        "num_parameters": model.num_parameters(),
        "training_s": round(time.monotonic() - started_s),
        "machine": _machine(),
        "torch": torch.__version__,
    }
    (work_dir / f"{stage}.json").write_text(json.dumps(record, indent=2), encoding="utf-8")


def describe(work_dir: Path, folder: Path) -> None:
    """Measure the weights in ``folder`` and write their card.

    Raises:
        RuntimeError: a held-out question is in the corpus.
    """
    held_out = [dataset("test", 2000, EVALUATION_SEED) for dataset in SETS]
    for stage in STAGES:
        if leaks := find_leaks(read_corpus(work_dir / f"{stage}.jsonl"), held_out):
            raise RuntimeError(f"{len(leaks)} held-out questions are in the corpus: {leaks[:3]}")
    record: dict[str, Any] = {
        stage: json.loads((work_dir / f"{stage}.json").read_text(encoding="utf-8"))
        for stage in ("skill", "habit")
    }
    record["settings"] = asdict(PretrainSettings())
    record["scores"] = scores(folder)
    record["chat"] = show_chat(folder, CHAT_QUESTIONS)
    record["recipe"] = asdict(Recipe())
    record["demo"] = [simulate(folder, Recipe(), seed) for seed in DEMO_SEEDS]
    write_card(record, folder)


def _machine() -> str:
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} threads of a {platform.machine()} CPU"


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work-dir", type=Path, default=ROOT / "build" / "nano")
    parser.add_argument("--output-dir", type=Path, default=ASSETS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--card-only", action="store_true", help="measure existing weights again")
    arguments = parser.parse_args()
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    if not arguments.card_only:
        build(arguments.work_dir, arguments.output_dir)
        keep_known_logits(arguments.output_dir)
    describe(arguments.work_dir, arguments.output_dir)


if __name__ == "__main__":
    main()
