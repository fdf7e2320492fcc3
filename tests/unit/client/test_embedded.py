"""Settings of an embedded server arrive as they were given."""

from __future__ import annotations

from eztinker.client.embedded import _environment
from eztinker.config import load_config


def test_settings_of_every_kind_arrive() -> None:
    given = {
        "device": "cpu",
        "dtype": "fp32",
        "num_threads": 2,
        "aliases": {"a": "b"},
        "limits": {"max_rank": 4},
    }
    config = load_config(environ=_environment(given))
    assert (config.device, config.num_threads, config.aliases) == ("cpu", 2, {"a": "b"})
    assert config.limits.max_rank == 4
