"""The README of an exported model, and the command that serves it with vLLM.

Pure text. Called by ``export.py``.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank."""


def vllm_command(kind: str, name: str, base_model: str, folder: Path, rank: int, dtype: str) -> str:
    """A command line that serves the export.

    vLLM computes float32 weights in 16 bits unless it is told, and takes penalties and the like from the base model's
    ``generation_config.json``; the training server does neither.

    Args:
        kind: ``peft`` or ``merged``.
        name: what clients will call it.
        base_model: of an adapter.
        folder: where the export lies.
        rank: of an adapter.
        dtype: of a merged model's weights.
    """
    if kind == "merged":
        words = ["vllm", "serve", str(folder), "--served-model-name", name]
    else:
        most = next((known for known in _VLLM_RANKS if known >= rank), rank)
        words = ["vllm", "serve", base_model, "--enable-lora", "--max-lora-rank", str(most)]
        words += ["--lora-modules", f"{name}={folder}"]
    words += ["--generation-config", "vllm"]
    if kind == "merged" and dtype == "float32":
        words += ["--dtype", "float32"]
    return shlex.join(words)


def card(report: dict[str, Any]) -> str:
    """The model card, in the form that hubs read."""
    is_adapter = report["format"] == "peft"
    logprobs = report["logprobs"]
    trained_on = (
        "" if report["quantization"] == "none" else f" quantised to {report['quantization']}"
    )
    num_tokens = sum(prompt["num_tokens"] for prompt in logprobs["prompts"])
    return f"""---
base_model: {report["base_model"]}
library_name: {"peft" if is_adapter else "transformers"}
pipeline_tag: text-generation
tags: [lora, eztinker]
---

# {report["name"]}

{"A LoRA adapter" if is_adapter else "A model with its LoRA adapter merged in"}, trained with EZTinker on
`{report["base_model"]}`{trained_on}: run `{report["run_id"]}`, checkpoint `{report["checkpoint"]}`,
{report["step"]} optimizer steps.

## Use

```python
{_usage(report, is_adapter)}
```

```bash
{report["vllm"]}
```

## Is it the same model?

Reloaded with {"PEFT" if is_adapter else "transformers"} in float32, the log-probabilities of
{num_tokens} tokens in {len(logprobs["prompts"])} prompts differ from those of the training server by at most
{logprobs["max_difference"]:.2g} ({logprobs["mean_difference"]:.2g} on average). `export.json` has the details.
{_caution(report["quantization"]) if is_adapter else ""}"""


def _caution(quantization: str) -> str:
    """What an adapter meets in another base model than the one it was trained on."""
    if quantization == "none":
        return ""
    return f"""
That was measured on the base model's weights as {quantization} leaves them, against which the adapter was trained. The
commands above load the plain base model: there the log-probabilities differ by the quantisation error as well. An
export with `--format merged` holds the weights that it was trained on.
"""


def _usage(report: dict[str, Any], is_adapter: bool) -> str:
    if is_adapter:
        return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({report["base_model"]!r})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
    return """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")"""
