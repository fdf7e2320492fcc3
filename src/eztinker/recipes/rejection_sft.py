"""Rejection-sampling SFT: sample N answers to each question, keep the best, train on it, and again.

With answers y_1 … y_N ~ p_θ(· | x) and a grader f, the loss is -log p_θ(y* | x) for y* = argmax f(y_i), on the
answer's tokens only (Yuan et al., 2023, arXiv:2308.01825; rejection sampling fine-tuning). In four phases:

1. create a run (rank-1 LoRA), or find the one that an interrupted run left;
2. fill the buffer: sample and grade candidates for every example, best one into ``rejection_buffer.jsonl``;
3. epochs: the first trains on the buffer, whose candidates the untouched weights have just given; each later
   one samples new candidates with the updated weights, into a file of its own until the epoch is on record. Only correct answers are trained on, ``batch_size`` of
   them per optimizer step;
4. evaluation on held-out problems, greedy, before training and after every epoch.

It decides what to ask the server and in which order; sampling, selection and grading are in ``rl/``, what
survives an interruption in ``rejection_state.py`` and ``rejection_resume.py``, what is shown in ``rejection_report.py``. Called by
``rejection_sft_demo.py``, its ShareGPT twin and ``demo.py``.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from eztinker.errors import InvalidRequestError
from eztinker.recipes.rejection_config import RejectionSFTConfig
from eztinker.recipes.rejection_report import RejectionSFTReport, epoch_metrics
from eztinker.recipes.rejection_resume import can_continue, checkpoint_name, losses_since
from eztinker.recipes.rejection_state import (
    BUFFER_FILE,
    epoch_file,
    open_state,
    remove_epoch_files,
    remove_progress,
)
from eztinker.recipes.terminal import Progress, SilentProgress, pick
from eztinker.rl.buffer import Row, append_rows, load_buffer, save_buffer
from eztinker.rl.candidates import (
    Candidate,
    CandidateParams,
    Example,
    examples_of,
    prompt_tokens_of,
    training_datum,
)
from eztinker.rl.evaluation import measure_accuracy
from eztinker.rl.rejection_sampler import buffer_rows, missing_examples
from eztinker.rl.training import in_batches, train_steps
from eztinker.rl.training_run import create_training_run, find_run, tokenizer_of_run


def run_rejection_sft(
    config: RejectionSFTConfig,
    client: Any,
    dataset: Any,
    eval_dataset: Any,
    progress: Progress | None = None,
    create_run: Callable[[], str] | None = None,
) -> RejectionSFTReport:
    """Run, or continue, rejection-sampling SFT.

    Args:
        config: what to do.
        client: an ``EZTinkerClient``.
        dataset: examples to train on, with ``get_example_question`` and ``evaluate_answer``.
        eval_dataset: held-out examples of the same kind; nothing of it is ever trained on.
        progress: where notes and progress go; None is silent.
        create_run: makes the run and returns its id; None uses ``base_model`` and the ``lora_*`` settings.

    Returns:
        The figures, which also lie in ``<output_dir>/rejection_sft_results.json``.

    Raises:
        InvalidRequestError: the folder's buffer was made with something else; a setting is out of range.
        EZTinkerError: what the server refused; run it again to continue from the last step.
    """
    recipe = _Recipe(config, client, dataset, eval_dataset, progress or SilentProgress())
    recipe.open_run(create_run or partial(_create_run, config, client))
    recipe.fill_buffer()
    recipe.evaluate_untrained()
    for epoch in range(len(recipe.state.epochs) + 1, config.epochs + 1):
        recipe.run_epoch(epoch)
    return recipe.finish()


def _create_run(config: RejectionSFTConfig, client: Any) -> str:
    return create_training_run(
        config.base_model,
        config.lora_rank,
        config.lora_alpha,
        config.lora_dropout,
        seed=config.seed,
        client=client,
    )


class _Recipe:
    """One run of the recipe: its settings, its partners and where it stands."""

    def __init__(
        self,
        config: RejectionSFTConfig,
        client: Any,
        dataset: Any,
        eval_dataset: Any,
        progress: Progress,
    ) -> None:
        self.config = config
        self.client = client
        self.dataset = dataset
        self.eval_dataset = eval_dataset
        self.progress = progress
        self.params = config.candidate_params
        self.examples = examples_of(dataset, config.max_samples)
        self.eval_examples = examples_of(eval_dataset, config.eval_size)
        self.folder = Path(config.output_dir)
        if config.reset_buffer:
            remove_progress(self.folder)
        self.state = open_state(self.folder, config.made_with(self.examples, self.eval_examples))
        self.buffer: list[Row] = []
        self.num_unverified = 0

    @property
    def run_id(self) -> str:
        """The run; there is one after phase 1."""
        if self.state.run_id is None:
            raise InvalidRequestError("There is no run yet: open_run comes first.")
        return self.state.run_id

    # Phase 1 ------------------------------------------------------------------------------------------

    def open_run(self, create_run: Callable[[], str]) -> None:
        """Find the run of an interrupted recipe, or create one."""
        if self.state.run_id is not None and not can_continue(
            self.client, self.state, self.progress
        ):
            self.state.forget_epochs()
            remove_epoch_files(self.folder)
        if self.state.run_id is None:
            self._say("Phase 1: create a run", "阶段 1：创建训练运行")
            self.state.run_id = create_run()
            self.state.step = find_run(self.client, self.run_id)["step"]
            self.state.save(self.folder)
        self.tokenizer = tokenizer_of_run(self.client, self.run_id)

    # Phase 2 ------------------------------------------------------------------------------------------

    def fill_buffer(self) -> None:
        """Sample and grade candidates for every example that the buffer does not hold yet."""
        self.buffer = self._rows(BUFFER_FILE, "buffer")

    def _rows(self, name: str, purpose: str) -> list[Row]:
        """A file of best candidates, filled up with what it lacks."""
        path = self.folder / name
        missing = missing_examples(self.examples, path, self.params)
        if missing and purpose == "buffer":
            self._say("Phase 2: fill the buffer", "阶段 2：填充拒绝采样缓冲区")
        append_rows(self._best_candidates(missing, purpose) if missing else (), path)
        return load_buffer(path)

    def _best_candidates(self, examples: Sequence[Example], purpose: str) -> Any:
        rows = buffer_rows(
            self.client,
            self.run_id,
            self.tokenizer,
            self.dataset,
            examples,
            self.params,
            seed=self.config.seed,
            purpose=purpose,
        )
        return self.progress.track(pick("candidates", "生成候选"), rows, len(examples))

    # Phase 3 ------------------------------------------------------------------------------------------

    def run_epoch(self, epoch: int) -> None:
        """Best candidates, training, evaluation; then the epoch is on record."""
        started_s = time.monotonic()
        self._say(
            f"Epoch {epoch} of {self.config.epochs}", f"第 {epoch} 轮，共 {self.config.epochs} 轮"
        )
        # Before the first epoch the weights are those that gave the buffer its candidates.
        rows = self.buffer if epoch == 1 else self._rows(epoch_file(epoch), f"epoch {epoch}")
        data = self._training_data(rows)
        losses = self._train(epoch, list(data.values()))
        metrics = epoch_metrics(epoch, rows, losses, num_trained=len(data))
        evaluation = self._evaluate(epoch)
        metrics["test_accuracy_before"] = self.state.evaluations[-1]["accuracy"]
        metrics["test_accuracy_after"] = evaluation["accuracy"]
        metrics["seconds"] = round(time.monotonic() - started_s, 2)
        if epoch == 1:
            self._mark_trained(set(data))
        self.state.epochs.append(metrics)
        self.state.evaluations.append(evaluation)
        self.state.step += len(losses)
        self._save_epoch(epoch)

    def _training_data(self, rows: Sequence[Row]) -> dict[int, dict[str, Any]]:
        """Example id -> datum, for the rows that may be trained on."""
        chosen = [row for row in rows if row["is_correct"] or self.config.train_on_incorrect]
        by_id = {example.example_id: example for example in self.examples}
        data = {row["example_id"]: self._datum(by_id[row["example_id"]], row) for row in chosen}
        return {example_id: datum for example_id, datum in data.items() if datum is not None}

    def _datum(self, example: Example, row: Row) -> dict[str, Any] | None:
        prompt_tokens = prompt_tokens_of(self.tokenizer, example, self.params)
        answer = Candidate(row["best_response"], prompt_tokens, row.get("best_tokens", ()))
        return training_datum(self.tokenizer, answer, example.prompt, example.question)

    def _train(self, epoch: int, data: list[dict[str, Any]]) -> list[float]:
        """One pass over the data in a seeded order; the losses of its steps, taken now or before an interruption."""
        random.Random(f"{self.config.seed}/{epoch}").shuffle(data)  # noqa: S311  an order, not a secret
        batches = in_batches(data, self.config.batch_size)
        taken = losses_since(self.client, self.run_id, self.state.step, len(batches))
        left = batches[len(taken) :]
        steps = train_steps(
            self.client,
            self.run_id,
            left,
            learning_rate=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            grad_clip_norm=self.config.grad_clip_norm,
        )
        tracked = self.progress.track(pick("training", "训练"), steps, len(left))
        return taken + [step.loss for step in tracked]

    def _mark_trained(self, example_ids: set[int]) -> None:
        for row in self.buffer:
            row["trained"] = row["example_id"] in example_ids
        save_buffer(self.buffer, self.folder / BUFFER_FILE)

    def _save_epoch(self, epoch: int) -> None:
        if self.config.checkpoint:
            self.client.save_checkpoint(self.run_id, checkpoint_name(epoch), overwrite=True)
        self.state.save(self.folder)
        remove_epoch_files(self.folder)
        self.report().save(self.folder)

    # Phase 4 ------------------------------------------------------------------------------------------

    def evaluate_untrained(self) -> None:
        """Accuracy before training, unless it is known."""
        if not self.state.evaluations:
            self.state.evaluations.append(self._evaluate(0))
            self.state.save(self.folder)

    def _evaluate(self, epoch: int) -> dict[str, Any]:
        """Accuracy on the held-out problems with the weights as they are after ``epoch``."""
        record: dict[str, Any] = {"epoch": epoch}
        greedy = self._measure(self.params.greedy())
        record |= {
            "accuracy": greedy.value,
            "ci95": list(greedy.ci95),
            "num_correct": greedy.num_correct,
            "num_examples": greedy.num_examples,
            "mean_score": greedy.mean_score,
        }
        if self.config.evaluate_sampled:
            sampled = self._measure(replace(self.params, num_candidates=1, temperature=1.0))
            record |= {"sampled_accuracy": sampled.value, "sampled_ci95": list(sampled.ci95)}
        return record

    def _measure(self, params: CandidateParams) -> Any:
        label = pick("evaluation", "评估")
        accuracy = measure_accuracy(
            self.client,
            self.run_id,
            self.tokenizer,
            self.eval_dataset,
            self.eval_examples,
            params,
            seed=self.config.seed,
            track=lambda answers: self.progress.track(label, answers, len(self.eval_examples)),
        )
        self.num_unverified += accuracy.num_unverified
        return accuracy

    def report(self) -> RejectionSFTReport:
        """The figures so far."""
        lora = find_run(self.client, self.run_id)["lora_config"]
        config = json.loads(json.dumps(asdict(self.config), default=str))
        # A door may have created the run with its own adapter: what the server has is what was trained.
        config |= {"run_id": self.run_id, "lora_rank": lora["r"]}
        config |= {name: lora[name] for name in ("lora_alpha", "lora_dropout")}
        return RejectionSFTReport(
            config=config,
            training_metrics=list(self.state.epochs),
            evaluations=list(self.state.evaluations),
            buffer_size=len(self.buffer),
            num_unverified=self.num_unverified,
        )

    def finish(self) -> RejectionSFTReport:
        """Write results and plot."""
        report = self.report()
        report.save(self.folder)
        report.plot(self.folder)
        return report

    def _say(self, english: str, chinese: str) -> None:
        self.progress.say(pick(english, chinese))
