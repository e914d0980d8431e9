"""Messages of a program's user interface, in English and 91 languages.

The catalogues of Django 5.2: what its forms, dates and pages of administration say. Translations
that a human translator had not checked ("fuzzy"), and messages with several plural forms, are left
out; so are languages of fewer than 300 messages.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from quickstudy.datasets.domains import read_verified

FILE = "messages.json"


@dataclass(frozen=True)
class Messages:
    """Messages in many languages: entry i of each tuple says the same; None where it is missing.

    ``english``       (m,) the messages.
    ``translations``  (m,) by the code of the language, such as "pt_BR".
    """

    english: tuple[str, ...]
    translations: dict[str, tuple[str | None, ...]]

    def pairs(self, language: str) -> list[int]:
        """The numbers of the messages that this language has."""
        return [i for i, text in enumerate(self.translations[language]) if text]


def load(root: str | Path | None = None) -> Messages:
    """The messages in ``root/django_messages/messages.json``.

    Raises what :func:`~quickstudy.datasets.domains.read_verified` raises.
    """
    read = json.loads(read_verified(root, "django_messages", FILE))
    return Messages(
        tuple(read["en"]),
        {language: tuple(texts) for language, texts in read["translations"].items()},
    )


def almost_equal(text: str) -> str:
    """The same for messages that differ in case, quotes, spaces or a plural s alone.

    Such messages must be on one side of a split: who saw the one knows the other.
    """
    return re.sub(r"[\W_]+", "", text.casefold()).rstrip("s")
