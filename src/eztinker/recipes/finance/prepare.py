"""Stage 1: questions with answers, typed and sampled, as ``dataraw/raw.jsonl``.

DianJin-R1-Data or a file of one's own, plus custom questions; typed by rules where a row names no type; a seeded sample
with the wanted shares. What was drawn is reported in ``dataraw/raw_stats.json``. Needs no model. Called by
``scripts/1_prepare_raw_data.py`` and the recipe ``finance``.
"""

from __future__ import annotations

import json
from typing import Any

from eztinker.dataset.finance import RawRow, as_jsonl, normalised_question
from eztinker.dataset.finance_sources import DIANJIN, Questions, find_dianjin, read_questions
from eztinker.recipes.finance.config import FinanceConfig
from eztinker.recipes.finance.outputs import refuse_finished
from eztinker.recipes.finance.strata import stratified_sample
from eztinker.recipes.terminal import Progress, pick
from eztinker.rl.durable import write_text

NAME = "finance-prepare"
STATS_FILE = "raw_stats.json"
LOCAL, CUSTOM = "local", "custom"


def run(config: FinanceConfig, client: Any, progress: Progress) -> dict[str, Any]:
    """Write the sample; its statistics.

    Args:
        client: not needed; every stage is called alike.

    Raises:
        InvalidRequestError: the output is there already (``code="output_exists"``), or no row can be used.
        NotFoundError: the questions are nowhere.
    """
    path = config.paths.raw
    refuse_finished(path, overwrite=config.overwrite)
    data = config.data
    if data.local_path is None:
        progress.say(pick("Looking for DianJin-R1-Data", "正在查找 DianJin-R1-Data"))
        found = read_questions(find_dianjin(), DIANJIN)
    else:
        found = read_questions([data.local_path], LOCAL)
    custom = Questions() if data.custom_path is None else read_questions([data.custom_path], CUSTOM)
    own, others = _apart(custom.rows, found)
    sample = stratified_sample(own, others, data.total_samples, data.type_shares, data.seed)
    statistics = {
        "num_rows": len(sample.rows),
        "by_type": sample.by_type,
        "refilled_from_other_types": sample.num_refilled,
        "custom_rows": len(own),
        "rows_read": len(found.rows) + len(custom.rows),
        "left_out": dict(found.left_out + custom.left_out),
        "settings": config.data.model_dump(mode="json"),
    }
    statistics_path = path.with_name(STATS_FILE)
    write_text(statistics_path, json.dumps(statistics, ensure_ascii=False, indent=1) + "\n")
    write_text(path, as_jsonl(sample.rows))  # the last: where it is, the stage is done
    _tell(statistics, data.total_samples, progress)
    return {**statistics, "output": str(path), "statistics": str(statistics_path)}


def _apart(own: list[RawRow], found: Questions) -> tuple[list[RawRow], list[RawRow]]:
    """Custom rows, and the others without those that custom rows repeat; no id twice."""
    keys = {normalised_question(row.question) for row in own}
    ids = {row.id for row in own}
    others: list[RawRow] = []
    for row in found.rows:
        if normalised_question(row.question) in keys or row.id in ids:
            found.leave_out("question or id of a custom row", row.id)
        else:
            others.append(row)
    return own, others


def _tell(statistics: dict[str, Any], wanted: int, progress: Progress) -> None:
    shares = ", ".join(f"{kind} {one['drawn']}" for kind, one in statistics["by_type"].items())
    progress.say(
        pick(
            f"{statistics['num_rows']} questions: {shares}",
            f"{statistics['num_rows']} 个问题：{shares}",
        )
    )
    if statistics["refilled_from_other_types"]:
        num = statistics["refilled_from_other_types"]
        progress.say(
            pick(f"{num} of them stand in for types that were short.", f"其中 {num} 个用来补足数量不够的类型。")
        )  # fmt: skip
    if statistics["num_rows"] < wanted:
        progress.say(
            pick(f"There were no more: {wanted} were asked for.", f"数据只有这么多（要求 {wanted} 个）。")
        )  # fmt: skip
