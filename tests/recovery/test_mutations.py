"""The mutations still fit the code; that they are noticed is shown by ``make recovery``."""

from __future__ import annotations

import pytest

from tests.recovery.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_one_place(mutation: Mutation) -> None:
    text = (ROOT / "src" / "eztinker" / mutation.path).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    for name in mutation.tests:
        assert (ROOT / name.partition("::")[0]).is_file()
