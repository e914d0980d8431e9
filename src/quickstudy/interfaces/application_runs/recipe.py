"""The recipe of an application's run. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from quickstudy.applications.registry import CARDS, DATA, Card, DataCard
from quickstudy.base.names import unknown_name
from quickstudy.base.shown import shown
from quickstudy.compute.plan import Compute
from quickstudy.datasets.registry import CARDS as DATASETS
from quickstudy.interfaces.runs.settings import check_settings, checked


@dataclass(frozen=True)
class ApplicationRecipe:
    """The settings of one run of an application. None means the default of the application.

    ``application``  its name.
    ``data``         the name for ``--data``.
    ``root``         the folder of data sets, or of the user's files.
    ``learner``      one of the application's ``learners``.
    ``shots``        support rows of each class, or as the application counts them.
    ``options``      the application's own options, fields of its class.
    ``steps``, ``tasks_per_step``, ``rate``, ``clip``   of training; the rate is that of Adam, and
                     follows a cosine schedule. 0 steps train nothing.
    ``validate_every``, ``patience``   validation during training, never for 0; the best weights
                     are kept.
    ``test_tasks``, ``seed``, ``test_seed``  evaluation and randomness; tests take ``seed`` too.
    ``threads``, ``device``, ``workers``, ``compile``   as in every run.

    Raises ValueError for unknown names and for numbers out of range.
    """

    application: str
    data: str
    root: str | None = None
    learner: str | None = None
    shots: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    tasks_per_step: int | None = None
    rate: float | None = None
    clip: float | None = None
    validate_every: int | None = None
    patience: int | None = None
    test_tasks: int | None = None
    seed: int = 0
    test_seed: int | None = None
    threads: int | None = None
    device: str | None = None
    workers: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        if self.application not in CARDS:
            raise unknown_name("application", self.application, CARDS)
        if self.data not in self.card.names:
            names = ", ".join(self.card.names)
            raise ValueError(
                f"data: the application {self.application} runs on {names}; found "
                f"{shown(self.data)}. Give one of these."
            )
        if self.own and self.root is None:
            raise ValueError(
                f"root: --data {self.data} reads your own files. Give --root, {self.card.own}; or "
                f"take {_either(tuple(self.card.data))}."
                if self.card.data
                else f"root: --data {self.data} reads your own files. Give --root, {self.card.own}."
            )
        check_settings(self)

    @property
    def card(self) -> Card:
        """Facts about the application."""
        return CARDS[self.application]

    @property
    def own(self) -> bool:
        """Whether the run is on the user's own files."""
        return self.data not in self.card.data

    @property
    def data_card(self) -> DataCard | None:
        """What the data ask; None for the user's own files."""
        return self.card.data.get(self.data)

    @property
    def compute(self) -> Compute:
        """How training steps are computed."""
        return Compute(workers=self.workers, compile=self.compile)

    @property
    def folder(self) -> Path | None:
        """The root as a path."""
        return None if self.root is None else Path(self.root).expanduser()

    @property
    def data_name(self) -> str:
        """The title of the data set; for the user's own files, the name of their folder or file."""
        return data_name(self.application, self.data, self.root)

    def with_absolute_root(self) -> ApplicationRecipe:
        """The recipe as a run records it, so that it can go on from any folder."""
        root = self.folder
        return self if root is None else replace(self, root=str(root.absolute()))

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON (and YAML) values."""
        return asdict(self)


SETTINGS = tuple(each.name for each in fields(ApplicationRecipe))
"""The names of all settings."""


def data_name(application: str, data: str, root: str | None) -> str:
    """The title of an application's data; of the user's own files, the name of folder or file."""
    found = CARDS[application].data.get(data)
    if found is None:
        return Path(root or "").name
    if found.dataset == data and data in DATASETS:
        return DATASETS[data].title
    return data.replace("_", " ")


def is_of_application(values: Mapping[str, Any]) -> bool:
    """Whether the ``values`` of a recipe or of the command line are those of an application."""
    data = values.get("data")
    return "application" in values or (isinstance(data, str) and data in DATA)


def read_application_recipe(values: Mapping[str, Any]) -> ApplicationRecipe:
    """A recipe from plain values; ValueError for an unknown name or a value of the wrong type."""
    hints = get_type_hints(ApplicationRecipe)
    known = {name: hints[name] for name in SETTINGS}
    for name in values:
        if name not in known:
            raise unknown_name("recipe", str(name), known)
    data = checked("recipe: data", values.get("data"), str | None)
    if data is not None and data not in DATA:
        raise unknown_name("data of an application", str(data), DATA)
    usual = {} if data is None else {"application": DATA[data].name}
    for needed in ("application", "data"):
        if needed not in {**usual, **values}:
            raise ValueError(f"recipe: the run of an application needs {needed}. Add it.")
    return ApplicationRecipe(**{
        name: checked(f"recipe: {name}", value, known[name])
        for name, value in {**usual, **values}.items()
    })  # fmt: skip


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(f"--data {name}" for name in names)
