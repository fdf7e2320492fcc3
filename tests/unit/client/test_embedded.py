"""An embedded server: its settings arrive as they were given; one that is still ending is waited for."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

import pytest

from eztinker.client.embedded import EmbeddedServer, _environment, wait_for_predecessor
from eztinker.config import load_config
from eztinker.errors import InvalidRequestError


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


def test_the_server_of_a_killed_program_is_waited_for(tmp_path: Path) -> None:
    wait_for_predecessor(tmp_path)  # nobody was ever here
    held = (tmp_path / "lock").open("wb")
    fcntl.flock(held, fcntl.LOCK_EX)
    started_s = time.monotonic()
    ending = threading.Timer(0.3, held.close)
    ending.start()
    wait_for_predecessor(tmp_path)
    ending.join()
    assert 0.25 < time.monotonic() - started_s < 10


def test_a_folder_that_another_server_keeps_is_refused_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eztinker.client.embedded.wait_for_predecessor", lambda _folder: None)
    (tmp_path / "server.log").write_text("what an earlier server said\n", encoding="utf-8")
    with (tmp_path / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InvalidRequestError, match="uses the state folder") as caught:
            EmbeddedServer(state_dir=tmp_path)
    assert "earlier" not in caught.value.message
