"""Chat streams over the OpenAI-compatible API, against sampling the same without streams, by turns.

``python -m benchmarks.openai_streams [--json] [--out FILE] [--rounds N] [--streams N] [--tokens N]``. One server
over the random model S (``benchmarks/shapes.py``), with a vocabulary in which every token has text. Throughput:
as many chats at once as ``--streams``, once as native jobs whose answers come whole, once as streams. First
token: one chat alone, until its first text, against a whole answer of one token. The streams are read by a bare
socket loop, so that the reader takes as little of the machine as it can. Beside the throughput stands the
CPU time of a token, in the reader (``client``), the server and its worker (Linux).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks import machine, process_memory, process_times, shapes
from benchmarks.running_server import running, until
from eztinker import EZTinkerClient

VOCAB_SIZE = 2048
NUM_ALONE = 20
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


def main() -> None:
    """Measure and report."""
    options = machine.parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--streams", type=int, default=64)
    options.add_argument("--tokens", type=int, default=128, help="of each answer")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="eztinker-benchmark-") as temporary:
        folder = Path(temporary)
        machine.note("making the model S …")
        shapes.write(folder / "model", "S", torch.float32, vocab_size=VOCAB_SIZE)
        _write_tokenizer(folder / "model")
        with running(folder, {"s": folder / "model"}) as url:
            with EZTinkerClient(url) as client:
                until(lambda: client.health().get("engine") == "ready")
            figures = asyncio.run(_measure(url, arguments))
    machine.report("openai_streams", figures, arguments)


def _write_tokenizer(folder: Path) -> None:
    """Bytes, then pairs and triples of letters: every id has text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = (a + b + c for a in ["", *letters] for b in letters for c in letters)
    pieces = [*alphabet, *(word for word, _ in zip(words, range(VOCAB_SIZE), strict=False))]
    vocab = {piece: i for i, piece in enumerate(pieces[:VOCAB_SIZE])}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=TEMPLATE)
    fast.save_pretrained(folder)


async def _measure(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    ask = Asker(url, arguments.tokens)
    whole_s, streamed_s, num_chunks = [], [], []
    whole_cpus_s, streamed_cpus_s = [], []
    for number in range(arguments.rounds + 1):
        machine.note(f"round {number} …")
        whole, whole_cpus = await _together(ask.whole, number, arguments.streams)
        before = ask.num_chunks
        streamed, streamed_cpus = await _together(ask.streamed, number, arguments.streams)
        if number:  # the first one warms up
            whole_s.append(whole)
            streamed_s.append(streamed)
            whole_cpus_s.append(whole_cpus)
            streamed_cpus_s.append(streamed_cpus)
            num_chunks.append(ask.num_chunks - before)
    num_tokens = arguments.streams * arguments.tokens
    ratios = [whole / streamed for whole, streamed in zip(whole_s, streamed_s, strict=True)]
    return {
        "concurrent_chats": {
            "num_streams": arguments.streams,
            "tokens_each": arguments.tokens,
            "whole_tokens_per_s": round(num_tokens / median(whole_s)),
            "streamed_tokens_per_s": round(num_tokens / median(streamed_s)),
            "streamed_to_whole": round(median(ratios), 3),
            "streamed_to_whole_each": [round(ratio, 3) for ratio in ratios],
            "tokens_per_chunk": round(num_tokens / median(num_chunks), 2),
            "whole_cpu_us_per_token": _cpu_us(whole_cpus_s, num_tokens),
            "streamed_cpu_us_per_token": _cpu_us(streamed_cpus_s, num_tokens),
        },
        "alone": await _alone(ask),
    }


async def _together(
    one: Callable[[str], Awaitable[Any]], number: int, count: int
) -> tuple[float, dict[str, float]]:
    """Seconds on the wall, and of CPU time by process."""
    pid = process_memory.worker_pid()
    before_s, start_s = process_times.engine_cpus_s(pid), time.perf_counter()
    await asyncio.gather(*(one(f"round {number}, chat {i}") for i in range(count)))
    wall_s, after_s = time.perf_counter() - start_s, process_times.engine_cpus_s(pid)
    return wall_s, {name: after_s[name] - before_s[name] for name in after_s}


def _cpu_us(rounds_s: list[dict[str, float]], num_tokens: int) -> dict[str, int]:
    names = rounds_s[0]
    return {
        name: round(median(cpus_s[name] for cpus_s in rounds_s) / num_tokens * 1e6)
        for name in names
    }


async def _alone(ask: Asker) -> dict[str, Any]:
    """One chat at a time: first text of a stream, a whole answer of one token, and one more step."""
    first_s, whole_s, step_s = [], [], []
    for number in range(NUM_ALONE + 2):
        prompt = f"alone {number}"
        first = await ask.streamed(f"{prompt} a")
        start_s = time.perf_counter()
        await ask.chat(f"{prompt} b", max_tokens=1)
        one = time.perf_counter() - start_s
        start_s = time.perf_counter()
        await ask.chat(f"{prompt} c", max_tokens=65)
        many = time.perf_counter() - start_s
        if number >= 2:
            first_s.append(first)
            whole_s.append(one)
            step_s.append((many - one) / 64)
    return {
        "first_text_of_a_stream": machine.percentiles_ms(first_s),
        "whole_answer_of_one_token": machine.percentiles_ms(whole_s),
        "decode_step_ms": round(median(step_s) * 1e3, 3),
        "first_text_minus_whole_ms": round((median(first_s) - median(whole_s)) * 1e3, 3),
    }


class Asker:
    """Asks the server, each time over a connection of its own.

    Attributes:
        num_chunks: pieces of text that streams have brought.
    """

    def __init__(self, url: str, num_tokens: int) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._num_tokens = num_tokens
        self.num_chunks = 0

    async def whole(self, prompt: str) -> None:
        """The answer as a native job."""
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "base_model": "s",
            "max_new_tokens": self._num_tokens,
            "top_k": 0,
        }
        reader, writer = await self._post("/v1/sample?wait=60", body)
        content = await reader.read()
        writer.close()
        assert b'"completed"' in content, content[-500:]

    async def streamed(self, prompt: str) -> float:
        """The answer as a stream; seconds until its first text."""
        start_s, first_s = time.perf_counter(), 0.0
        reader, writer = await self._post(
            "/v1/chat/completions", {**self._chat(prompt, self._num_tokens), "stream": True}
        )
        tail = b""
        while b"data: [DONE]" not in tail:
            piece = await reader.read(65536)
            assert piece, tail
            num_texts = piece.count(b'"delta":{"content"')
            if num_texts and not first_s:
                first_s = time.perf_counter() - start_s
            self.num_chunks += num_texts
            tail = (tail + piece)[-64:]
        writer.close()
        return first_s

    async def chat(self, prompt: str, max_tokens: int) -> None:
        """A whole answer over the same API."""
        reader, writer = await self._post("/v1/chat/completions", self._chat(prompt, max_tokens))
        content = await reader.read()
        writer.close()
        assert b'"finish_reason"' in content, content[-500:]

    def _chat(self, prompt: str, max_tokens: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return {"model": "s", "messages": messages, "max_tokens": max_tokens}

    async def _post(
        self, path: str, body: dict[str, Any]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        content = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        await writer.drain()
        return reader, writer


if __name__ == "__main__":
    main()
