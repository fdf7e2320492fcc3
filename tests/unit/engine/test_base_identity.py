"""The fingerprint of a base model's files, and a run whose base model is no longer the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eztinker.engine import base_identity
from eztinker.engine.base_identity import NUM_PIECES, PIECE_BYTES, fingerprint
from eztinker.types.records import BaseModelRecord
from tests.unit.engine.fake_worker import World
from tests.unit.engine.harness import Engine, a_pass, a_step, ended


def model(folder: Path, size: int = 3 * PIECE_BYTES) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * (size // 256))
    return folder


def test_equal_files_in_another_place_are_the_same_model(tmp_path: Path) -> None:
    assert fingerprint(model(tmp_path / "a")) == fingerprint(model(tmp_path / "b"))


def test_any_byte_of_a_small_model_counts(tmp_path: Path) -> None:
    weights = model(tmp_path / "a") / "model.safetensors"
    seen = {fingerprint(tmp_path / "a")}
    for position in (0, PIECE_BYTES + 7, weights.stat().st_size - 1):
        data = bytearray(weights.read_bytes())
        data[position] ^= 1
        weights.write_bytes(data)
        seen.add(fingerprint(tmp_path / "a"))
    (tmp_path / "a" / "config.json").write_text("[]")
    assert len(seen | {fingerprint(tmp_path / "a")}) == 5


def test_of_a_large_model_pieces_are_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(base_identity, "PIECE_BYTES", 256)
    folder = model(tmp_path / "a", 256 * NUM_PIECES * 100)
    before = fingerprint(folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert fingerprint(folder) != before


async def test_a_run_is_not_restored_on_another_base_model(
    tmp_path: Path, world: World, monkeypatch
) -> None:
    """The name leads to other files after a restart: refused by name, and whole again with the first."""
    first, second = model(tmp_path / "first"), model(tmp_path / "second", 4 * PIECE_BYTES)
    record = BaseModelRecord("nano", str(first), "Fake", 64, 100)

    async def resolve(_name: str) -> BaseModelRecord:
        return record

    monkeypatch.setattr(Engine, "_resolve", staticmethod(resolve))
    engine = await Engine(tmp_path / "state", world).start()
    await ended(await engine.create())
    await engine.do(a_pass(1))
    await engine.stop()
    record = replace(record, folder=str(second))
    engine = await Engine(tmp_path / "state", world).start()
    failed = await engine.do(a_step())
    assert failed.error.code == "base_model_changed"
    assert str(first) in failed.error.message
    assert str(second) in failed.error.message
    await engine.stop()
    record = replace(record, folder=str(first))
    engine = await Engine(tmp_path / "state", world).start()
    assert (await engine.do(a_step())).result.grad_norm == 1.0
    await engine.stop()
