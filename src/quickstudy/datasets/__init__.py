"""Data sets: each hands its train, validation and test classes to ``quickstudy.episodes``.

>>> from quickstudy import datasets
>>> glyphs = datasets.load("glyphs")

``load(name)`` takes any name of :data:`CARDS`; ``folder(path)`` and ``arrays(X, y)`` take data of
your own. Importing this module imports neither torch nor any data set.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quickstudy.datasets.registry import CARDS, Card, card

if TYPE_CHECKING:
    from quickstudy.datasets.dataset import Dataset
    from quickstudy.datasets.folders import folder, read_classes
    from quickstudy.datasets.in_memory import arrays

__all__ = ["CARDS", "Card", "Dataset", "arrays", "card", "folder", "load", "read_classes"]

_LATE = {
    "Dataset": "quickstudy.datasets.dataset",
    "arrays": "quickstudy.datasets.in_memory",
    "folder": "quickstudy.datasets.folders",
    "read_classes": "quickstudy.datasets.folders",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    name: str,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    size: int | None = None,
    rotations: bool = False,
    strict: bool = False,
    download: bool = True,
) -> Dataset:
    """The data set ``name``, ready for episodes.

    ``root``       holds one folder per data set; default ``$QUICKSTUDY_DATA``, else the user's
                   cache folder. For ``folder`` it is the folder itself, for ``arrays`` the file.
    ``split``      which of the published splits, where there are several.
    ``size``       side of the square images in pixels; default the one customary for the data set.
    ``rotations``  adds every class turned by 90, 180 and 270 degrees as classes of its own.
    ``strict``     makes one unreadable image an error; otherwise it is reported and left out.
    ``download``   False never touches the network.

    Raises ValueError for an unknown name or an option that this data set does not take,
    FileNotFoundError with the remedy where files are missing, and ArchiveError or ImageError
    (both ValueError) where files are damaged.
    """
    chosen = card(name)
    asked: dict[str, Any] = {"split": split, "size": size}
    asked = {option: value for option, value in asked.items() if value is not None}
    asked |= {"rotations": True} if rotations else {}
    asked |= {"strict": True} if strict else {}
    refused = sorted(set(asked) - chosen.options)
    if refused:
        raise ValueError(
            f"datasets: {name} does not take {', '.join(refused)}. "
            f"It takes: {', '.join(sorted(chosen.options)) or 'no options'}."
        )
    if not download and "download" in chosen.options:
        asked["download"] = False
    module, function = chosen.loader.split(":")
    dataset: Dataset = getattr(import_module(module), function)(root, **asked)
    return dataset
