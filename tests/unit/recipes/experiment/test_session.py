"""Runs that are only read: made as the policy is held, and given their adapter once."""

from __future__ import annotations

from typing import Any

from eztinker.recipes.experiment.session import make_frozen


class Server:
    """Remembers what was created and loaded."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.loaded: list[tuple[str, str]] = []

    def get_runs(self) -> list[dict[str, Any]]:
        return [{"run_id": run_id} for run_id in self.runs]

    def create_run(self, base_model: str, *, run_id: str, **settings: Any) -> None:
        self.runs[run_id] = {"base_model": base_model, **settings}

    def load_checkpoint(self, run_id: str, name: str, **_: Any) -> None:
        self.loaded.append((run_id, name))


def test_a_reference_is_quantised_as_the_policy_is() -> None:
    server = Server()
    make_frozen(server, "reference", "nano", "run@final", quantization="nf4", r=4)
    assert server.runs["reference"]["quantization"] == "nf4"
    assert server.runs["reference"]["lora_config"] == {"r": 4}
    assert server.loaded == [("reference", "final")]
    make_frozen(server, "reference", "nano", "run@final", is_ready=True, quantization="nf4", r=4)
    assert len(server.loaded) == 1
