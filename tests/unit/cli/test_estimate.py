"""``eztinker estimate``: sums before loading, and exit code 6 for what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eztinker.service.base_models import NANO_FOLDER
from tests.unit.cli.conftest import Run


def test_the_parts_add_up(run: Run):
    line = "estimate nano --rank 4 --batch 2 --seq-len 64 --num-samples 4 --memory-budget 9 --json"
    done = run(*line.split())
    found = json.loads(done.stdout)
    assert done.code == 0
    assert found["fits"] is True
    assert (found["dtype"], found["quantization"]) == ("float32", "none")
    assert found["weights"] == 4 * found["num_parameters"]
    assert found["resident"] == found["engine"] + found["weights"] + found["copies"] + found["run"]
    assert found["micro_batch_tokens"] == 128
    assert found["room_for_models"] == 9 * 10**9 - 275_000_000


def test_quantisation_and_type_shrink_it(run: Run):
    sizes = {}
    for flags in ("", "--quantization nf4", "--quantization int8", "--dtype bf16"):
        sizes[flags] = json.loads(run(*f"estimate nano {flags} --json".split()).stdout)["weights"]
    assert sizes["--dtype bf16"] == sizes[""] // 2
    assert sizes["--quantization nf4"] < sizes["--quantization int8"] < sizes["--dtype bf16"]


def test_what_does_not_fit_ends_with_6_and_the_sum(run: Run):
    done = run(*["estimate", "nano", "--batch", "64", "--seq-len", "512", "--memory-budget", "0.3"])
    assert done.code == 6
    assert "25.0 MB for models" in done.stderr
    assert "--quantization nf4" in done.stderr
    assert "largest micro-batch (512 tokens)" in done.stdout


def test_micro_batches_shrink_before_anything_is_refused(run: Run):
    done = run(
        *[
            "estimate",
            "nano",
            "--batch",
            "64",
            "--seq-len",
            "64",
            "--memory-budget",
            "0.4",
            "--json",
        ]
    )
    assert done.code == 0
    assert json.loads(done.stdout)["micro_batch_tokens"] < 64 * 64


def test_damaged_files_and_unknown_names_are_said(run: Run, tmp_path: Path):
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    done = run(*f"estimate {folder}".split())
    assert done.code == 2
    assert "it was cut short" in done.stderr
    assert run(*["estimate", "no/such/model/at/all"]).code == 4


@pytest.mark.parametrize("damage", [b"", b"12345678", b"\x05\0\0\0\0\0\0\0[1,2]", b"\xff" * 9])
def test_no_damage_shows_a_traceback(run: Run, tmp_path: Path, damage: bytes):
    folder = shutil.copytree(NANO_FOLDER, tmp_path / "bad")
    (folder / "model.safetensors").write_bytes(damage)
    done = run(*f"estimate {folder}".split())
    assert (done.code, "Traceback" in done.stderr) == (2, False)
    assert "model.safetensors" in done.stderr
