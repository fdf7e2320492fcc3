"""vLLM's engine, one batch of requests for each line on stdin: a peer of ``benchmarks/sampling.py``.

``python vllm_peer.py MODEL_FOLDER DTYPE``, with the interpreter of an environment that has vllm; it needs nothing of this
project. The engine is asked in its own process, without HTTP, after it has compiled the model. Answers each line with
a JSON object on stdout: ``{"seconds", "resident_bytes"}``; the first answer says that it is ready.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Generate until stdin ends."""
    folder, dtype = sys.argv[1:3]
    del sys.path[0]  # modules beside this file are no modules of vLLM's
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print must not mix with the answers
    from vllm import LLM  # pyright: ignore[reportMissingImports]

    work = json.loads(sys.stdin.readline())
    engine = LLM(
        model=folder,
        dtype=dtype,
        max_model_len=work["max_length"],
        max_num_seqs=work["max_rows"],
        generation_config="vllm",
        disable_log_stats=True,
    )
    _answer(answers, 0.0)
    for line in sys.stdin:
        asks = json.loads(line)
        started_s = time.perf_counter()
        _generate(engine, asks)
        _answer(answers, time.perf_counter() - started_s)


def _generate(engine, asks) -> None:
    """All at once, every answer at its full length."""
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

    params = [
        SamplingParams(
            n=ask["num_samples"],
            max_tokens=ask["num_new"],
            ignore_eos=True,
            temperature=1.0,
            detokenize=False,
        )
        for ask in asks
    ]
    prompts = [{"prompt_token_ids": ask["prompt"]} for ask in asks]
    found = engine.generate(prompts, params, use_tqdm=False)
    lengths = {len(one.token_ids) for answer in found for one in answer.outputs}
    if lengths != {ask["num_new"] for ask in asks}:
        raise RuntimeError(f"answers of {sorted(lengths)} tokens")


def _answer(answers, seconds: float) -> None:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident = 1024 * int(fields["VmRSS"].split()[0])
    answers.write(json.dumps({"seconds": seconds, "resident_bytes": resident}) + "\n")


if __name__ == "__main__":
    main()
