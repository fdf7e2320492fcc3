"""The request for a legal judgment, as a user's message in Chinese: statutes, facts, required form.

One wording for sampling, training and evaluation, so that a model is asked as it was trained. Knows no data set
and no tokenizer. Called by ``dataset/lawshift.py`` and the LawShift recipe.
"""

from __future__ import annotations

from collections.abc import Sequence

OPENING = "请依照所列法条判决（无期徒刑或死刑，月数写 XT）。"
NEW_LAW = "所列法条是刚刚修订施行的新法，与旧法不一致之处，一律以所列新法为准。"
FORM = "请给出罪名和刑期，格式为：罪名 | 月数，无罪则答：不违规。"


def judgment_request(
    fact: str, articles: Sequence[tuple[str, str]], *, is_new_law: bool = False
) -> str:
    """The message.

    Args:
        fact: what happened.
        articles: id and text of each statute; none leaves the section out.
        is_new_law: the statutes are not those the model may know, and the message says so.
    """
    opening = OPENING + (NEW_LAW if is_new_law else "")
    laws = [f"【{article_id}】{text}" for article_id, text in articles]
    statutes = ["相关法条：", *laws, ""] if laws else []
    return "\n".join([opening, "", *statutes, "案件事实：", fact, FORM])
