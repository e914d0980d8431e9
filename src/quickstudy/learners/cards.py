"""The cards of the learners: facts about each learner that are available without importing it.

A card is a TOML file in the folder of the learner's class, ``<family>/<name>.toml``;
CONTRIBUTING.md explains its keys. Importing this module and reading the cards does not import
torch.

After a change of cards, ``python -m quickstudy.learners.listing`` rewrites the lists of learners.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FAMILIES = ("metric", "gradient", "memory", "transfer", "domains", "multitask")
"""The folders of learners, in the order of lists."""

OPTIMISERS = {"adam": 1e-3, "sgd": 0.1}
"""Optimisers of training by name, each with its default learning rate."""

PUBLISHED_INDUCTIVELY = ("yes", "no", "presumably no", "not known", "-")
"""Whether the paper's figure for Omniglot is inductive; "-" where the paper has no such figure."""


@dataclass(frozen=True)
class Training:
    """The default training of a learner, for settings that a recipe does not give.

    It takes about a minute for Conv4 on two CPU cores; several for gradient learners, which need
    more tasks. Metric learners learn faster with more ways than in tests (Snell et al., 2017).
    """

    steps: int
    tasks_per_step: int
    train_ways: int | None = None
    """Classes of a training task; None for as many as in testing."""
    optimiser: str = "adam"
    rate: float = OPTIMISERS["adam"]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, integers where both are integers.

    ``log``  whether to sample them uniformly on a logarithmic scale.
    """

    low: float
    high: float
    log: bool = False


Space = Range | tuple[Any, ...]
"""The values of one setting to try in tuning: a range of numbers, or a list of values."""


@dataclass(frozen=True)
class Card:
    """Facts about a learner that are available without importing it."""

    name: str
    family: str
    module: str
    class_name: str
    title: str
    year: int
    authors: str
    learns: str
    published_inductively: str
    training: Training
    head: bool = False
    """Whether its backbone ends in a head with the task's outputs, instead of giving features."""
    maps: bool = False
    """Whether its backbone gives feature maps (n, channels, height, width) instead of vectors."""
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """For each argument that is a function or a part: names, with their "module:attribute"."""
    search: Mapping[str, Space] = field(default_factory=dict)
    """Values to try in tuning, for settings of training ("rate")."""
    search_options: Mapping[str, Space] = field(default_factory=dict)
    """Values to try in tuning, for arguments of the learner's constructor."""

    @property
    def home(self) -> str:
        """The full name of the module that contains the class."""
        return f"quickstudy.learners.{self.family}.{self.module}"

    @property
    def target(self) -> str:
        """Module and class, as "module:class"."""
        return f"{self.home}:{self.class_name}"


@cache
def cards() -> dict[str, Card]:
    """The cards of all learners of this package by name; sorted by family, year and title."""
    return read_cards(Path(__file__).parent)


def read_cards(folder: Path) -> dict[str, Card]:
    """The cards ``<family>/<name>.toml`` in a folder, by name, sorted as in :func:`cards`.

    Raises ValueError, naming the file, for a wrong card, and for two cards of the same name.
    """
    found: dict[str, Card] = {}
    for path in folder.glob("*/*.toml"):
        card = read_card(path)
        if card.name in found:
            raise ValueError(
                f"{path}: names of learners must be unique; found the same name in "
                f"{found[card.name].family}. Rename one of the two files."
            )
        found[card.name] = card
    ordered = sorted(found.values(), key=lambda c: (FAMILIES.index(c.family), c.year, c.title))
    return {card.name: card for card in ordered}


_Types = Mapping[str, type]

_REQUIRED: _Types = {
    "class": str, "title": str, "year": int, "authors": str, "learns": str,
    "published_inductively": str, "training": dict,
}  # fmt: skip
_OPTIONAL: _Types = {"module": str, "head": bool, "maps": bool, "choices": dict, "search": dict}
_REQUIRED_IN_TRAINING: _Types = {"steps": int, "tasks_per_step": int}
_OPTIONAL_IN_TRAINING: _Types = {"train_ways": int, "optimiser": str, "rate": float}
_TYPE_NAMES: Mapping[type, str] = {
    dict: "a table", list: "a list", str: "a string", int: "a whole number", float: "a number",
    bool: "true or false",
}  # fmt: skip


def read_card(path: Path) -> Card:
    """The card in one file; name and family are the names of the file and of its folder.

    Raises ValueError for a file that is not TOML, an unknown or missing key, and a value of a wrong
    type or out of range.
    """
    family, where = path.parent.name, str(path)
    if family not in FAMILIES:
        raise ValueError(
            f"{where}: a card must be in the folder of its family, {_listed(FAMILIES)}; found "
            f"{family!r}. Move it, or add the family to FAMILIES."
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{where}: must be TOML; found an error: {error}. Correct the file."
        ) from error
    _check_keys(where, table, _REQUIRED, _OPTIONAL)
    _check_one_of(f"{where}: published_inductively", table["published_inductively"],
                  PUBLISHED_INDUCTIVELY)  # fmt: skip
    search = dict(table.get("search", {}))
    options = search.pop("options", {})
    _check_keys(f"{where}: search", search, {}, {"rate": object})
    return Card(
        name=path.stem,
        family=family,
        module=table.get("module", path.stem),
        class_name=table["class"],
        title=table["title"],
        year=table["year"],
        authors=table["authors"],
        learns=table["learns"],
        published_inductively=table["published_inductively"],
        training=_training(f"{where}: training", table["training"]),
        head=table.get("head", False),
        maps=table.get("maps", False),
        choices={
            argument: _choice(f"{where}: choices.{argument}", family, named)
            for argument, named in table.get("choices", {}).items()
        },
        search={key: _space(f"{where}: search.{key}", value) for key, value in search.items()},
        search_options={
            key: _space(f"{where}: search.options.{key}", value)
            for key, value in _checked(f"{where}: search.options", options, dict).items()
        },
    )


def _training(where: str, table: Mapping[str, Any]) -> Training:
    _check_keys(where, table, _REQUIRED_IN_TRAINING, _OPTIONAL_IN_TRAINING)
    optimiser = table.get("optimiser", "adam")
    _check_one_of(f"{where}: optimiser", optimiser, tuple(OPTIMISERS))
    for key, least in {"steps": 1, "tasks_per_step": 1, "train_ways": 2}.items():
        if table.get(key, least) < least:
            raise ValueError(f"{where}: {key} must be at least {least}; found {table[key]}.")
    rate = float(table.get("rate", OPTIMISERS[optimiser]))
    if not 0 < rate < math.inf:
        raise ValueError(f"{where}: rate must be a positive number; found {rate}.")
    return Training(**{**table, "optimiser": optimiser, "rate": rate})


def _choice(where: str, family: str, named: Any) -> dict[str, str]:
    targets = {}
    for name, target in _checked(where, named, dict).items():
        if not isinstance(target, str) or not re.fullmatch(r"\w+:\w+", target):
            raise ValueError(
                f'{where}: {name} must be "module:function", of a module of the family {family}; '
                f"found {target!r}."
            )
        targets[name] = f"quickstudy.learners.{family}.{target}"
    return targets


def _space(where: str, value: Any) -> Space:
    if isinstance(value, list) and value:
        return tuple(value)
    if not isinstance(value, dict):
        raise ValueError(
            f"{where} must be a list of values or a range, such as "
            f"{{ between = [0.1, 1.0], log = true }}; found {value!r}."
        )
    _check_keys(where, value, {"between": list}, {"log": bool})
    bounds, log = value["between"], value.get("log", False)
    if len(bounds) != 2 or not all(_is_a(bound, float) for bound in bounds):
        raise ValueError(f"{where}: between must be two numbers, [low, high]; found {bounds}.")
    low, high = bounds
    if not low < high or (log and low <= 0):
        raise ValueError(
            f"{where}: low must be less than high, and positive with log = true; found {bounds}."
        )
    return Range(low, high, log)


def _check_keys(where: str, table: Mapping[str, Any], required: _Types, optional: _Types) -> None:
    known = {**required, **optional}
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"{where}: {key!r} is not a key here. Valid keys: {', '.join(known)}.")
        _checked(f"{where}: {key}", value, known[key])
    missing = [key for key in required if key not in table]
    if missing:
        raise ValueError(
            f"{where}: needs the keys {_listed(missing)}, which are missing. Add them."
        )


def _check_one_of(where: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{where} must be one of {_listed(valid)}; found {value!r}.")


def _checked(where: str, value: Any, kind: type) -> Any:
    if not _is_a(value, kind):
        raise ValueError(
            f"{where} must be {_TYPE_NAMES.get(kind, kind.__name__)}; found {value!r}."
        )
    return value


def _is_a(value: Any, kind: type) -> bool:
    """Whether ``value`` is of type ``kind``; integers count as floats, but bools do not."""
    if isinstance(value, bool):
        return kind in (bool, object)
    return isinstance(value, (int, float) if kind is float else kind)


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(repr(name) for name in names)
