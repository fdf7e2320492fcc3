"""The whole of LawShift in one go on generated cases: evaluate, sample, train, evaluate again.

Called by ``eztinker recipe lawshift-demo`` and ``make lawshift``; needs no network with the built-in model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from eztinker.dataset.lawshift import LawShiftDataset, read_cases
from eztinker.errors import InvalidRequestError
from eztinker.recipes.experiment.plan import Plan
from eztinker.recipes.experiment.policy import policy_of
from eztinker.recipes.experiment.settings import RecipeConfig, make_settings
from eztinker.recipes.lawshift import evaluation, sample, sft
from eztinker.recipes.lawshift.generated import CHANGES, write_generated
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.candidates import CandidateParams, Policy, examples_of
from eztinker.rl.durable import write_text
from eztinker.rl.scorecard import EvaluationParams, evaluate_examples

NAME = "lawshift-demo"
DATA_FOLDER = "LawShift"
CASES, KEPT = "cases.json", "kept.json"


class Config(RecipeConfig):
    """What the demo can be told."""

    model_name_or_path: str = Field("nano", min_length=1, description="Base model.")
    output_dir: Path = Field(Path("lawshift-demo"), description="Data, checkpoints, results.")
    num_train: int = Field(400, ge=1, description="Training cases of each round, all different.")
    num_test: int = Field(60, ge=1, description="Cases of each of the six test folders.")
    num_rounds: int = Field(2, ge=1, description="Rounds of sampling and training.")
    num_samples: int = Field(8, ge=1, le=256, description="Answers to each training case.")
    num_held_out: int = Field(200, ge=1, description="Held-out cases of the unchanged law.")
    temperature: float = Field(1.0, gt=0, description="Of the answers to training cases.")
    num_train_epochs: float = Field(6.0, gt=0, description="Passes over the kept questions.")
    learning_rate: float = Field(5e-3, gt=0, description="Peak learning rate.")
    lora_r: int = Field(32, ge=1, description="Rank of the adapter.")
    load_in_4bit: bool = Field(False, description="NF4 base weights (QLoRA).")
    max_new_tokens: int = Field(32, ge=1, description="Most tokens of an answer.")
    seed: int = Field(42, ge=0, lt=2**31, description="Of cases, samples, adapter and order.")


def plan(config: Config, client: Any) -> Plan:
    """What the demo would do."""
    facts = {
        "training_cases": config.num_train * config.num_rounds,
        "answers": config.num_train * config.num_rounds * config.num_samples,
        "test_cases": 2 * config.num_test * len(CHANGES),
    }
    return Plan(NAME, facts, settings=config.resolved())


def run(config: Config, client: Any, progress: Progress) -> dict[str, Any]:
    """Accuracy on held-out cases before and after."""
    started_s = time.monotonic()
    folder = config.output_dir
    _refuse_finished(folder)
    data = folder / DATA_FOLDER
    if not (data / "training_set.json").exists():
        write_generated(
            data,
            num_train=config.num_train * config.num_rounds,
            num_test=config.num_test,
            num_held_out=config.num_held_out,
            seed=config.seed,
        )
    progress.say(pick("1. Evaluate the base model", "1. 评测基础模型"))
    base = Policy(base_model=config.model_name_or_path)
    exact_before = _held_out(config, client, progress, base)
    before = _evaluate(config, client, progress, config.model_name_or_path, "base")
    model, rounds = config.model_name_or_path, []
    for number in range(1, config.num_rounds + 1):
        rounds.append(_round(config, client, progress, number, model))
        model = rounds[-1]["policy"]
    progress.say(pick("3. Evaluate the trained model", "3. 评测训练后的模型"))
    exact_after = _held_out(config, client, progress, policy_of(client, model, None)[0])
    after = _evaluate(config, client, progress, model, "trained")
    figures = {
        "exact_before": exact_before["accuracy"],
        "exact_before_ci95": exact_before["ci95"],
        "exact_after": exact_after["accuracy"],
        "exact_after_ci95": exact_after["ci95"],
        **_figures(before, after, rounds),
        "seconds": round(time.monotonic() - started_s, 1),
    }
    table = comparison(before, after)
    write_text(folder / "comparison.md", table)
    return {**figures, "comparison": str(folder / "comparison.md")}


def _refuse_finished(folder: Path) -> None:
    if (folder / "comparison.md").exists():
        raise InvalidRequestError(
            f"{folder} holds a finished demo. Name another output_dir.",
            code="output_exists",
            field="output_dir",
        )


def _held_out(config: Config, client: Any, progress: Progress, policy: Policy) -> dict[str, Any]:
    """Charge and term together, greedy, on held-out cases under the law as it is."""
    data = config.output_dir / DATA_FOLDER
    cases = LawShiftDataset(data / "held_out.json", data / "articles_original.json")
    params = EvaluationParams(CandidateParams(1, 0.0, config.max_new_tokens, stop=()))

    def track(answered: Iterable[Any]) -> Iterable[Any]:
        return progress.track(pick("held-out cases", "留出案件"), answered, len(cases))

    tokenizer = client.get_tokenizer(config.model_name_or_path)
    card = evaluate_examples(
        client, policy, tokenizer, cases, examples_of(cases), params, kind_of=lambda _: "", track=track
    )  # fmt: skip
    return card.figures()


def _evaluate(
    config: Config, client: Any, progress: Progress, model: str, name: str
) -> dict[str, Any]:
    settings = make_settings(
        evaluation.Config,
        {
            "model_path": model,
            "test_dir": config.output_dir / DATA_FOLDER,
            "output_dir": config.output_dir / "results" / name,
            "max_new_tokens": config.max_new_tokens,
            "seed": config.seed,
        },
    )
    return evaluation.run(settings, client, progress)


def _round(
    config: Config, client: Any, progress: Progress, number: int, model: str
) -> dict[str, Any]:
    """Sample from the model as it is, train the base model on all that was right so far.

    Each round has cases of its own and begins at the base model again, as in ReST-EM (Singh et al., 2023): what was
    learnt by heart in one round cannot pass for an answer in the next. A round that is done is not done again.
    """
    progress.say(
        pick(
            f"2. Round {number}: rejection sampling, then SFT",
            f"2. 第 {number} 轮：拒绝采样，然后 SFT",
        )
    )
    folder = config.output_dir / f"round_{number}"
    known = folder / "round.json"
    if known.exists():
        return json.loads(known.read_text(encoding="utf-8"))
    output = folder / "sampled_data.json"
    if not output.exists():
        _deal(config, number)
        sample.run(_sample_config(config, number, model), client, progress)
    _gather(config, number)
    trained = sft.run(_sft_config(config, number), client, progress)
    done = {
        "num_accepted": len(read_cases(output)),
        "steps": trained["steps"],
        "final_model": trained["final_model"],
        "policy": f"{trained['run_id']}@{sft.FINAL_CHECKPOINT}",
    }
    write_text(known, json.dumps(done, indent=1) + "\n")
    return done


def _deal(config: Config, number: int) -> None:
    """The round's own part of the training cases: an answer learnt by heart helps with none of the next."""
    cases = _read(config.output_dir / DATA_FOLDER / "training_set.json")
    part = cases[(number - 1) * config.num_train : number * config.num_train]
    write_text(config.output_dir / f"round_{number}" / CASES, _json(part))


def _gather(config: Config, number: int) -> None:
    """What all rounds so far have kept."""
    folders = [config.output_dir / f"round_{i}" for i in range(1, number + 1)]
    rows = [row for folder in folders for row in _read(folder / "sampled_data.json")]
    write_text(folders[-1] / KEPT, _json(rows))


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _sample_config(config: Config, number: int, model: str) -> sample.Config:
    values = {
        "model_path": model,
        "training_data": config.output_dir / f"round_{number}" / CASES,
        "articles": config.output_dir / DATA_FOLDER / "articles_original.json",
        "output": config.output_dir / f"round_{number}" / "sampled_data.json",
        "num_samples": config.num_samples,
        "temperature": config.temperature,
        "top_p": 1.0,
        "max_new_tokens": config.max_new_tokens,
        "seed": config.seed + number,
    }
    return make_settings(sample.Config, values)


def _sft_config(config: Config, number: int) -> sft.Config:
    folder = config.output_dir / f"round_{number}"
    values = {
        "model_name_or_path": config.model_name_or_path,
        "sampled_data": folder / KEPT,
        "articles_path": config.output_dir / DATA_FOLDER / "articles_original.json",
        "output_dir": folder / "checkpoints",
        "num_train_epochs": config.num_train_epochs,
        "learning_rate": config.learning_rate,
        "lora_r": config.lora_r,
        "lora_alpha": 2 * config.lora_r,
        "lora_dropout": 0.0,
        "load_in_4bit": config.load_in_4bit,
        "warmup_steps": 10,
        "save_steps": None,
        "report_to": "none",
        "seed": config.seed + number,
        "resume": any((folder / "checkpoints").glob("sft_*/state.json")),
    }
    return make_settings(sft.Config, values)


def _figures(
    before: dict[str, Any], after: dict[str, Any], rounds: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    was, now = before["total"]["original"], after["total"]["original"]
    return {
        "original_before": was["accuracy"],
        "original_after": now["accuracy"],
        "poisoned_before": before["total"]["poisoned"]["accuracy"],
        "poisoned_after": after["total"]["poisoned"]["accuracy"],
        "num_accepted": [one["num_accepted"] for one in rounds],
        "steps": sum(one["steps"] for one in rounds),
        "final_model": rounds[-1]["final_model"],
    }


def comparison(before: dict[str, Any], after: dict[str, Any]) -> str:
    """A table: both splits of every folder, before and after."""
    lines = [
        "| folder | label | original before | after | poisoned before | after | charge and term before | after |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, label in before["labels"].items():
        lines.append(_row(name, label, before["folders"][name], after["folders"][name]))
    lines.append(_row("**all**", "", before["total"], after["total"]))
    return "\n".join(lines) + "\n"


def _row(name: str, label: str, was: dict[str, Any], now: dict[str, Any]) -> str:
    cells = [
        f"{side[split][key]:.1%}"
        for split, key in (
            ("original", "accuracy"),
            ("poisoned", "accuracy"),
            ("original", "exact"),
        )
        for side in (was, now)
    ]
    return f"| {name} | {label} | {' | '.join(cells)} |"
