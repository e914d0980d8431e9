"""The cards of the data sets: name, licence, size, citation. Importing it imports no data set.

A card is a TOML file beside the loader, ``datasets/<name>.toml``, whose keys are the fields of
:class:`Card`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quickstudy.base.names import unknown_name


@dataclass(frozen=True)
class Checksum:
    """The expected ``digest`` (hexadecimal) of ``what``, a file or its unpacked content."""

    what: str
    algorithm: str
    digest: str

    def __str__(self) -> str:
        return f"{self.what} {self.algorithm}:{self.digest}"


@dataclass(frozen=True)
class PublishedError:
    """The error, in %, of a method on published test tasks, and where it was published."""

    method: str
    percent: float
    reference: str

    def __str__(self) -> str:
        return f"{self.method} {self.percent:.1f}% ({self.reference})"


@dataclass(frozen=True)
class Card:
    """Facts about a data set, available without loading it.

    ``name``        the name for :func:`quickstudy.datasets.load`.
    ``title``       the name in prose.
    ``summary``     one sentence.
    ``licence``     of the data, as far as its publisher states one.
    ``citation``    the publication to cite.
    ``url``         web page of the source.
    ``resize``      how its pictures were reduced, "area" for drawings or "bicubic"; other pictures
                    are reduced alike for a learner that was trained on it.
    ``loader``      the function that loads it, ``module:function``; in the file without the
                    package, and by default ``load`` of the module of its name.
    ``shape``       of one input, (channels, height, width); None where it depends on the source.
    ``classes``     of the train, validation and test split; None where it depends on the source.
    ``options``     the options of :func:`~quickstudy.datasets.load` that it takes.
    ``splits``      the names of its splits, the default first.
    ``downloads``   whether the library downloads it; otherwise the user provides the files.
    ``checked``     what is verified before the data are used, and how.
    ``checksum``    the expected checksums; empty where every copy differs.
    ``size_bytes``  of the archives to provide or to download; 0 where none is needed.
    ``published``   error in % of methods on these tasks, for published test tasks; they are loaded
                    by :func:`~quickstudy.datasets.load_tasks`.
    ``trained_on``  data sets, with their splits, whose training classes include classes of these
                    tasks, so that a learner trained on them cannot be compared.
    ``domains``     the names of its domains, for data of several; these are loaded by
                    :func:`~quickstudy.datasets.load_domains`.
    ``named_tasks`` the function that loads it as named tasks, as ``loader``, for
                    :func:`~quickstudy.datasets.load_named_tasks`; the only one where no other
                    loader is given.
    ``parts``       of its named tasks, where their rows were divided by the publisher, the first
                    by default.
    ``texts``       whether its inputs are tokens of texts, which
                    :func:`~quickstudy.datasets.load_texts` gives as they are.
    ``sounds``      whether its inputs are spectrograms of sounds.
    ``application`` the application that reads what its loader gives, such as "detection", for data
                    that are no classes.
    """

    name: str
    title: str
    summary: str
    licence: str
    citation: str
    url: str
    loader: str
    shape: tuple[int, int, int] | None = None
    classes: tuple[int, int, int] | None = None
    resize: str = "bicubic"
    options: frozenset[str] = frozenset()
    splits: tuple[str, ...] = ()
    downloads: bool = False
    checked: str = ""
    checksum: tuple[Checksum, ...] = ()
    size_bytes: int = 0
    published: tuple[PublishedError, ...] = ()
    trained_on: tuple[tuple[str, str], ...] = ()
    domains: tuple[str, ...] = ()
    named_tasks: str = ""
    parts: tuple[str, ...] = ()
    texts: bool = False
    sounds: bool = False
    application: str = ""

    def digest(self, what: str) -> str:
        """The hexadecimal digest expected of ``what``; KeyError where the card states none."""
        return {each.what: each.digest for each in self.checksum}[what]

    @property
    def load_with(self) -> tuple[str, str]:
        """What it has, and the function of :mod:`quickstudy.datasets` that loads that."""
        if self.application:
            return f"data for the application {self.application}", self.loader.replace(":", ".")
        if self.published:
            return "published test tasks", "load_tasks"
        if self.domains:
            return "domains to transfer between", "load_domains"
        if self.loader == self.named_tasks:
            return "named tasks", "load_named_tasks"
        return "classes", "load"


def read_card(path: Path) -> Card:
    """The card in one file; ValueError, naming the file, for keys that no card has, or lacks."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    named = values.pop("named_tasks", "")
    loader = values.pop("loader", named or f"{path.stem}:load")
    made: dict[str, Any] = {key: _frozen(value) for key, value in values.items()}
    made["checksum"] = tuple(Checksum(**each) for each in values.get("checksum", ()))
    made["published"] = tuple(PublishedError(**each) for each in values.get("published", ()))
    made["options"] = frozenset(values.get("options", ()))
    try:
        return Card(path.stem, loader=_whole(loader), named_tasks=_whole(named), **made)
    except TypeError as error:
        raise ValueError(f"{path}: a card needs the fields of Card, but {error}.") from error


def _whole(function: str) -> str:
    """``module:function`` with the package, ``load`` by default; "" where none is given."""
    module, _, name = function.partition(":")
    return f"quickstudy.datasets.{module}:{name or 'load'}" if module else ""


def _frozen(value: Any) -> Any:
    """``value`` with tuples for lists, so that cards are equal by value and never change."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _read_cards(folder: Path) -> dict[str, Card]:
    """The cards of a folder by name, in order; those of the user's own data last."""
    cards = [read_card(path) for path in sorted(folder.glob("*.toml"))]
    return {card.name: card for card in sorted(cards, key=lambda each: not each.url)}


CARDS = _read_cards(Path(__file__).parent)
"""Every data set by name."""


def card(name: str) -> Card:
    """The card of data set ``name``; else ValueError with the nearest names."""
    if name not in CARDS:
        raise unknown_name("datasets", name, CARDS)
    return CARDS[name]
