"""How long an accepted request takes to be durable: append and finish, alone and in company.

``python -m benchmarks.store [--json] [--out FILE] [--dir FOLDER]``. The folder should lie on the disk that a
state folder would lie on; a temporary folder below the working directory is the default.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from eztinker.store import log, runs
from eztinker.store.database import Database
from eztinker.types import codec
from eztinker.types.operations import PassResult, TrainingPass
from eztinker.types.records import RunRecord
from eztinker.types.training import Datum, LoRAConfig, LossSpec

NUM_TOKENS = 512
NUM_ROUNDS = 400
NUM_WRITERS = 64
NUM_ROUNDS_EACH = 25

numbers = itertools.count()


def main() -> None:
    """Measure both durabilities and report."""
    options = machine.parser(__doc__)
    options.add_argument("--dir", type=Path, default=Path.cwd(), help="where to write")
    arguments = options.parse_args()
    figures: dict[str, Any] = {"num_tokens_per_request": NUM_TOKENS}
    for durability in ("full", "normal"):
        machine.note(f"durability {durability} …")
        with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=arguments.dir) as folder:
            database = Database(Path(folder), durability=durability)
            database.open()
            try:
                figures[durability] = asyncio.run(_measure(database))
            finally:
                database.close()
    machine.report("store", figures, arguments)


async def _measure(database: Database) -> dict[str, Any]:
    await database.write(lambda connection: runs.insert_run(connection, _run()))
    await _append_and_finish(database, NUM_ROUNDS // 10)
    appends_s, finishes_s = await _append_and_finish(database, NUM_ROUNDS)
    started_s = time.perf_counter()
    told = await asyncio.gather(
        *(_append_and_finish(database, NUM_ROUNDS_EACH) for _ in range(NUM_WRITERS))
    )
    elapsed_s = time.perf_counter() - started_s
    return {
        "append": machine.percentiles_ms(appends_s),
        "finish": machine.percentiles_ms(finishes_s),
        "grouped": {
            "num_writers": NUM_WRITERS,
            "writes_per_s": round(2 * NUM_WRITERS * NUM_ROUNDS_EACH / elapsed_s),
            "append": machine.percentiles_ms([s for appends, _ in told for s in appends]),
            "finish": machine.percentiles_ms([s for _, finishes in told for s in finishes]),
        },
    }


async def _append_and_finish(
    database: Database, num_rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds from each request to its acknowledgement, and from each result to its commit."""
    appends_s: list[float] = []
    finishes_s: list[float] = []
    for _ in range(num_rounds):
        request = _request()
        started_s = time.perf_counter()
        await database.write(lambda c, request=request: log.append(c, request, scope="run_1"))
        appended_s = time.perf_counter()
        await database.write(lambda c, request=request: _finish(c, request))
        finishes_s.append(time.perf_counter() - appended_s)
        appends_s.append(appended_s - started_s)
    return appends_s, finishes_s


def _finish(connection: Any, request: log.Request) -> bool:
    logprobs_T = np.zeros(NUM_TOKENS, np.float32)
    result = codec.encode(PassResult(1.0, NUM_TOKENS, [logprobs_T], {"loss:sum": 1.0}))
    return log.finish(
        connection,
        request.job_id,
        status="completed",
        finished_at_s=time.time(),
        result=result,
        keep_payload=True,
    )


def _run() -> RunRecord:
    return RunRecord("run_1", "nano", LoRAConfig(), LossSpec(), 0, "none", "ready", time.time())


def _request() -> log.Request:
    number = next(numbers)
    tokens_T = np.arange(NUM_TOKENS, dtype=np.int32)
    datum = Datum(tokens_T, {"target_tokens": tokens_T.astype(np.int64)})
    operation = TrainingPass([datum], LossSpec())
    key = f"key_{number}"
    return log.Request(f"job_{number:08x}", "run_1", operation, True, time.time(), key, "digest")


if __name__ == "__main__":
    main()
