"""Stage 1, rejection sampling: several answers to each case, of which the right ones are kept.

Sample, drop duplicates, read the verdict, compare with the court, keep. Every finished case is written at once,
so an interrupted program continues where it stood. Called by ``train/rejection_sampling.py`` and ``eztinker
recipe lawshift-sample``.
"""

from __future__ import annotations

import datetime
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from eztinker.dataset.lawshift import Case, read_articles, read_cases
from eztinker.errors import EZTinkerError, InvalidRequestError
from eztinker.grading.legal import TermRule, grade_verdict
from eztinker.recipes.experiment.journal import Journal
from eztinker.recipes.experiment.plan import Plan, length_facts
from eztinker.recipes.experiment.policy import context_length, policy_of
from eztinker.recipes.lawshift.asking import (
    Asked,
    Asker,
    AskingConfig,
    answer_room,
    count_problems,
    distinct,
    longest_prompt,
    room_for_prompt,
    told,
)
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.candidates import (
    Candidate,
    CandidateParams,
    Example,
    Policy,
    sample_candidates,
    whole_text,
)
from eztinker.rl.durable import write_text

NAME = "lawshift-sample"


class Config(AskingConfig):
    """What rejection sampling can be told; the documented names."""

    training_data: Path = Field(Path("LawShift/training_set.json"), description="Cases.")
    articles: Path = Field(Path("LawShift/term_up/articles_original.json"), description="Statutes.")
    output: Path = Field(Path("train/sampled_data.json"), description="Where kept answers go.")
    num_samples: int = Field(8, ge=1, le=256, description="Answers to each case.")
    temperature: float = Field(0.8, gt=0, description="Of the samples.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus mass of the samples.")
    max_samples: int | None = Field(None, ge=1, description="The first so many cases.")
    tolerance: int = Field(0, ge=0, description="Months that a term may be off.")
    bands: list[int] = Field(default_factory=list, description="Upper ends of bands of months.")
    overwrite: bool = Field(False, description="Start afresh although the output exists.")

    @property
    def output_dir(self) -> Path:
        """Where a server that is started for this keeps its state."""
        return self.output.parent

    @property
    def rule(self) -> TermRule:
        """When terms are equal."""
        return TermRule(self.tolerance, tuple(self.bands))


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that sampling needs, read and checked."""

    policy: Policy
    tokenizer: Any
    asked: list[Asked]
    params: CandidateParams


def prepare(config: Config, client: Any) -> Setup:
    """Read cases and statutes, make the prompts."""
    cases = read_cases(config.training_data, config.max_samples)
    if not cases:
        raise InvalidRequestError(
            f"{config.training_data} holds no case.", code="empty_dataset", field="training_data"
        )
    articles = read_articles(config.articles)
    policy, base = policy_of(client, config.model_path, config.base_model)
    tokenizer = client.get_tokenizer(base)
    context = context_length(client, base)
    prompt_room = room_for_prompt(config.max_prompt_length, context)
    asker = Asker(tokenizer, prompt_room, is_strict=config.strict)
    asked = [asker.ask(case, articles) for case in cases]
    room = answer_room(config.max_new_tokens, longest_prompt(asked, prompt_room), context)
    params = CandidateParams(
        config.num_samples, config.temperature, room, stop=(), top_p=config.top_p
    )
    return Setup(policy, tokenizer, asked, params)


def plan(config: Config, client: Any) -> Plan:
    """What sampling would do."""
    setup = prepare(config, client)
    facts: dict[str, Any] = {
        "cases": len(setup.asked),
        "answers": len(setup.asked) * config.num_samples,
        "max_new_tokens": setup.params.max_new_tokens,
        **length_facts([len(one.tokens) for one in setup.asked if one.fits]),
        **count_problems(setup.asked),
    }
    first = [one.prompt for one in setup.asked if one.fits][:2]
    return Plan(NAME, facts, first, settings=config.resolved())


def run(config: Config, client: Any, progress: Progress) -> dict[str, Any]:
    """Sample, select, write the kept answers and the statistics; the statistics.

    Raises:
        InvalidRequestError: the output belongs to other settings.
        EZTinkerError: no answer was accepted (``code="nothing_accepted"``; the statistics are written).
    """
    setup = prepare(config, client)
    with Journal.open(config.output, config.resolved(), overwrite=config.overwrite) as journal:
        _tell(setup, config, journal, progress)
        started_s = time.monotonic()
        left = [i for i in range(len(setup.asked)) if i not in journal.done]
        outcomes = _outcomes(config, client, setup, left)
        for outcome in progress.track(pick("sampling", "采样"), outcomes, len(left)):
            journal.add(outcome)
        done = [journal.done[i] for i in range(len(setup.asked))]
        statistics = _statistics(config, setup, done, left, time.monotonic() - started_s)
        path = write_statistics(config.output, statistics)
        rows = [
            row for one, o in zip(setup.asked, done, strict=True) for row in kept_rows(one.case, o)
        ]
        if not rows:
            raise _nothing_accepted(statistics, path)
        write_text(config.output, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        journal.finish()
    return {**statistics, "output": str(config.output), "statistics": str(path)}


def _nothing_accepted(statistics: dict[str, Any], path: Path) -> EZTinkerError:
    return EZTinkerError(
        f"None of {statistics['total_generated']} answers was right, so there is nothing to train on. Reasons: "
        f"{statistics['reasons']}. Statistics: {path}. Try more --num_samples, a stronger model, or a --tolerance.",
        code="nothing_accepted",
    )


def _tell(setup: Setup, config: Config, journal: Journal, progress: Progress) -> None:
    problems = count_problems(setup.asked)
    if any(problems.values()):
        progress.say(told(problems))
    if setup.params.max_new_tokens < config.max_new_tokens:
        progress.say(
            pick(
                f"The model's context leaves {setup.params.max_new_tokens} tokens for an answer.",
                f"模型上下文只能容纳 {setup.params.max_new_tokens} 个回答词元。",
            )
        )
    if journal.done:
        progress.say(
            pick(f"Continuing after {len(journal.done)} cases.", f"已完成 {len(journal.done)} 个案件，继续。")
        )  # fmt: skip


def _outcomes(
    config: Config, client: Any, setup: Setup, left: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """One JSON outcome per case: its distinct answers with their reasons."""
    for index in left:
        if not setup.asked[index].fits:
            yield {"index": index, "num_sampled": 0, "num_tokens": 0, "answers": []}
    examples = [Example(i, "", setup.asked[i].prompt, "") for i in left if setup.asked[i].fits]
    for example, candidates in sample_candidates(
        client,
        setup.policy,
        setup.tokenizer,
        examples,
        setup.params,
        seed=config.seed,
        purpose=NAME,
    ):
        case = setup.asked[example.example_id].case
        yield _outcome(example.example_id, case, candidates, setup.tokenizer, config.rule)


def _outcome(
    index: int, case: Case, candidates: Sequence[Candidate], tokenizer: Any, rule: TermRule
) -> dict[str, Any]:
    # An answer that the length limit cut is no answer, whatever it holds so far.
    is_cut = {whole_text(tokenizer, c): c.stop_reason == "length" for c in candidates}
    answers = []
    for text in distinct(whole_text(tokenizer, c) for c in candidates):
        reason = grade_verdict(text, case.verdict, rule).reason
        answers.append({"text": text, "reason": "cut_off" if is_cut[text] else reason})
    return {
        "index": index,
        "num_sampled": len(candidates),
        "num_tokens": sum(len(candidate.tokens) for candidate in candidates),
        "answers": answers,
    }


def kept_rows(case: Case, outcome: dict[str, Any]) -> list[dict[str, Any]]:
    """The documented rows of one case: one for each right answer."""
    kept = [answer["text"] for answer in outcome["answers"] if answer["reason"] == "correct"]
    return [
        {
            "fact": case.fact,
            "relevant_articles": list(case.relevant_articles),
            "charge": case.charge,
            "prison_time": case.prison_time,
            "response": text,
            "num_correct_for_this_sample": len(kept),
        }
        for text in kept
    ]


def _statistics(
    config: Config,
    setup: Setup,
    outcomes: Sequence[dict[str, Any]],
    new: Sequence[int],
    seconds: float,
) -> dict[str, Any]:
    """The documented counts and more; the speed is that of this program's own cases (``new``)."""
    reasons = Counter(a["reason"] for outcome in outcomes for a in outcome["answers"])
    num_generated = sum(len(outcome["answers"]) for outcome in outcomes)
    num_accepted = reasons["correct"]
    num_sampled = sum(outcome["num_sampled"] for outcome in outcomes)
    num_tokens = sum(outcomes[index]["num_tokens"] for index in new)
    without = sum(all(a["reason"] != "correct" for a in o["answers"]) for o in outcomes)
    return {
        "total_samples": len(outcomes),
        "total_generated": num_generated,
        "total_accepted": num_accepted,
        "acceptance_rate": num_accepted / num_generated if num_generated else 0.0,
        "samples_with_no_correct": without,
        "avg_correct_per_sample": num_accepted / len(outcomes),
        "reasons": dict(reasons.most_common()),
        "duplicates_removed": num_sampled - num_generated,
        **count_problems(setup.asked),
        "tokens_per_s": round(num_tokens / seconds, 1) if new else None,
        "seconds": round(seconds, 1),
        "settings": config.resolved(),
    }


def write_statistics(output: Path, statistics: dict[str, Any]) -> Path:
    """Write ``sampling_stats_<timestamp>.json`` beside the output."""
    stamp = datetime.datetime.now().strftime("%Y%m%d_%H%M%S")
    path = output.with_name(f"sampling_stats_{stamp}.json")
    write_text(path, json.dumps(statistics, ensure_ascii=False, indent=2) + "\n")
    return path
