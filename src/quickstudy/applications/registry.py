"""The cards of the applications: facts that are available without importing them, or torch.

A card is a TOML file beside the application's class, ``applications/<name>.toml``; CONTRIBUTING.md
explains its keys.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickstudy.base.names import unknown_name

OWN = "own"
"""The ``data`` of :meth:`.Application.prepare` for the user's files, in the folder ``root``."""


@dataclass(frozen=True)
class DataCard:
    """Data that an application can run on.

    ``name``     for ``quickstudy run --data``.
    ``asks``     one sentence: what these tasks ask, and of what.
    ``dataset``  the data set whose card names licence, source and checksums.
    """

    name: str
    asks: str
    dataset: str


@dataclass(frozen=True)
class Card:
    """Facts about an application that are available without importing it.

    ``name``        of the application, its module and its docs page; with ``own``, also the name
                    for ``quickstudy run --data`` with the user's files.
    ``class_name``  the class in the module of that name.
    ``title``       the name in prose, such as "Detection of objects".
    ``brings``      one sentence: what a practitioner gives.
    ``gives``       one sentence: what ``adapt`` and ``predict`` give back.
    ``answer``      the kind of answer of its tasks.
    ``own``         what the folder ``--root`` of the user's files holds; "" where runs are on the
                    library's data sets alone.
    ``data``        the data sets it can run on, by name.
    """

    name: str
    class_name: str
    title: str
    brings: str
    gives: str
    answer: str
    own: str
    data: Mapping[str, DataCard]

    @property
    def names(self) -> tuple[str, ...]:
        """What ``--data`` may be for this application."""
        return (*self.data, *([self.name] if self.own else []))

    def data_of(self, name: str) -> str:
        """The ``data`` of :meth:`.Application.prepare` for one of the :attr:`names`."""
        return name if name in self.data else OWN


def read_card(path: Path) -> Card:
    """The card in one file; ValueError, naming the file, for keys that no card has, or lacks."""
    values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    try:
        data = {
            name: DataCard(name, **{"dataset": name} | facts)
            for name, facts in values.pop("data", {}).items()
        }
        return Card(
            name=path.stem, class_name=values.pop("class"), own=values.pop("own", ""), data=data,
            **values,
        )  # fmt: skip
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: a card needs the fields of Card, but {error}.") from error


CARDS = {path.stem: read_card(path) for path in sorted(Path(__file__).parent.glob("*.toml"))}
"""Every application by name."""

DATA = {name: card for card in CARDS.values() for name in card.names}
"""The application of each name of ``quickstudy run --data`` that is an application's."""


def card(name: str) -> Card:
    """The card of the application ``name``; else ValueError with the nearest names."""
    if name not in CARDS:
        raise unknown_name("application", name, CARDS)
    return CARDS[name]
