"""What the command line says, in English or Chinese.

Chosen by ``EZTINKER_LANG``, else by the locale variables (``zh…`` is Chinese, anything else English). The words are in
``help_texts.py`` and ``messages.py``. Called by every command.
"""

from __future__ import annotations

import os

from eztinker.cli.help_texts import HELP
from eztinker.cli.messages import MESSAGES

_TEXTS = HELP | MESSAGES


def language() -> str:
    """``zh`` or ``en``."""
    for name in ("EZTINKER_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def say(key: str, **values: object) -> str:
    """The text of ``key`` in the user's language, with ``{name}`` places filled."""
    english, chinese = _TEXTS[key]
    text = chinese if language() == "zh" else english
    return text.format(**values) if values else text
