"""``eztinker recipe``: what needs no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eztinker.cli.recipe import _run
from eztinker.errors import ServerUnreachableError
from eztinker.recipes.catalogue import RECIPES, get_recipe
from eztinker.recipes.experiment import connection
from tests.unit.cli.conftest import Run


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("sfd", 4, "Did you mean 'sft'?"),
        ("sft train_fil=x", 2, "Did you mean 'train_file'?"),
        ("sft train_file=x.jsonl max_steps=1 num_train_epochs=2", 2, "no effect"),
        ("sft --config absent.yaml", 4, "No settings file"),
        ("sft", 2, "train_file=FILE or dataset_name=NAME"),
        ("rlhf sft.learning_rat=1 sft.dataset_name=gsm8k", 2, "Did you mean 'learning_rate'?"),
    ],
)
def test_mistakes_are_short_messages(run: Run, words: str, code: int, said: str):
    done = run("recipe", *words.split())
    assert (done.code, said in done.stderr) == (code, True), done.stderr


def test_without_a_name_the_recipes_are_listed(run: Run):
    rows = json.loads(run("recipe", "--json").stdout)
    assert {row["name"] for row in rows} == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_is_explained(run: Run, name: str):
    rows = json.loads(run("recipe", name, "--keys", "--json").stdout)
    keys = {row["key"] for row in rows}
    wanted = (
        {"root", "model.base_model"} if name == "finance" else {"model_name_or_path", "output_dir"}
    )
    assert wanted <= keys or "-" in name
    assert all(row["description"] for row in rows)
    assert callable(get_recipe(name).run)


def test_the_page_names_every_recipe_but_pipelines():
    page = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in RECIPES if "-" not in name)


@pytest.mark.parametrize(
    ("dry_run", "is_there", "keeps"),
    [(True, False, False), (True, True, True), (False, False, True)],
)
def test_a_plan_leaves_no_server_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool, is_there: bool, keeps: bool
) -> None:
    asked: list[Any] = []

    def client(base_url: Any, model: Any, state_dir: Any, progress: Any, api_key: Any) -> Any:
        asked.append(state_dir)
        raise ServerUnreachableError("nobody")

    monkeypatch.setattr(connection, "client_or_own_server", client)
    folder = tmp_path / "out"
    if is_there:
        (folder / "server").mkdir(parents=True)
    words = ["dataset_name=generated-math", f"output_dir={folder}"]
    with pytest.raises(ServerUnreachableError):
        _run(get_recipe("sft"), None, words, dry_run, None, None, as_json=False)
    assert asked == [folder / "server" if keeps else None]
    assert folder.exists() is is_there
