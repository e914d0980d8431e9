"""Data sets: train, validation and test classes, from which ``quickstudy.episodes`` makes tasks.

>>> from quickstudy import datasets
>>> datasets.card("omniglot").classes  # of the train, validation and test split
(1028, 172, 423)

``load(name)`` takes any name in :data:`CARDS`; ``folder(path)`` and ``arrays(X, y)`` take your own
data. ``load_tasks(name)`` gives published test tasks, which are evaluated as they are,
``load_domains(name)`` the rows of several domains, to transfer between, ``load_named_tasks(name)``
tasks to learn together, and ``load_texts(name)`` the texts of a data set of texts. Importing this
module imports neither torch nor any data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quickstudy.datasets.registry import CARDS, Card, card

if TYPE_CHECKING:
    from quickstudy.datasets.clinc150 import Texts
    from quickstudy.datasets.dataset import Dataset
    from quickstudy.datasets.domains import Domains
    from quickstudy.datasets.folders import folder, read_classes
    from quickstudy.datasets.in_memory import arrays
    from quickstudy.datasets.published import PublishedTasks
    from quickstudy.datasets.tokenizer import TextTokenizer
    from quickstudy.tasks.named_tasks import NamedTasks
    from quickstudy.tasks.rows import LabelledRows

__all__ = [
    "CARDS", "Card", "Dataset", "Domains", "PublishedTasks", "TextTokenizer", "Texts", "arrays",
    "card", "folder", "load", "load_classes", "load_domains", "load_named_tasks", "load_tasks",
    "load_texts", "read_classes",
]  # fmt: skip

_LAZY = {
    "Dataset": "quickstudy.datasets.dataset",
    "Domains": "quickstudy.datasets.domains",
    "PublishedTasks": "quickstudy.datasets.published",
    "TextTokenizer": "quickstudy.datasets.tokenizer",
    "Texts": "quickstudy.datasets.clinc150",
    "arrays": "quickstudy.datasets.in_memory",
    "folder": "quickstudy.datasets.folders",
    "read_classes": "quickstudy.datasets.folders",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(
    name: str,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    size: int | None = None,
    rotations: bool = False,
    strict: bool = False,
    fractions: Sequence[float] | None = None,
    split_seed: int | None = None,
    ways: int | None = None,
    download: bool = True,
) -> Dataset:
    """The data set ``name``, ready for episodes.

    ``root``       a folder with one folder per data set; by default ``$QUICKSTUDY_DATA``, else the
                   user's cache folder. For ``folder`` it is that folder, for ``arrays`` the file.
    ``split``      name of a published split, where there are several.
    ``size``       side of the square images in pixels; by default the usual one of the data set.
    ``rotations``  add every class rotated by 90, 180 and 270 degrees as three further classes; of
                   spoken words, every training class played backwards as one further class.
    ``strict``     raise an error for an unreadable image, instead of a warning that leaves it out.
    ``fractions``  of your own classes for training, validation and test; fitted to their number by
                   default, see :func:`quickstudy.tasks.split_classes`.
    ``split_seed`` of that split, 0 by default.
    ``ways``       of the tasks you want, to which the default split is fitted.
    ``download``   False never uses the network.

    Raises ValueError for an unknown name or an option that this data set does not take,
    FileNotFoundError where files are missing, and ArchiveError or ImageError (both ValueError)
    where files are damaged.
    """
    chosen = _card_for("load", name)
    options: dict[str, Any] = {
        "split": split, "size": size, "fractions": fractions, "split_seed": split_seed,
        "ways": ways,
    }  # fmt: skip
    options = {option: value for option, value in options.items() if value is not None}
    options |= {"rotations": True} if rotations else {}
    options |= {"strict": True} if strict else {}
    dataset: Dataset = _loaded(chosen, root, options, download)
    return dataset


def load_classes(
    name: str, root: str | Path | None = None, *, size: int | None = None, strict: bool = False
) -> LabelledRows:
    """All classes of your own data, ``folder`` or ``arrays``, without a split.

    Raises ValueError for any other data set, and for data that have a split already.
    """
    chosen = card(name)
    if "fractions" not in chosen.options:
        raise ValueError(
            f"datasets: {name} has a published split, so it cannot be split otherwise. "
            "Leave the options of the split out, or use your own data: folder or arrays."
        )
    options: dict[str, Any] = {"size": size} if size is not None else {}
    options |= {"strict": True} if strict else {}
    _refuse_options(chosen, options)
    module, _ = chosen.loader.split(":")
    classes: LabelledRows = import_module(module).load_classes(root, **options)
    return classes


def load_tasks(
    name: str,
    root: str | Path | None = None,
    *,
    size: int | None = None,
    shuffled: bool = False,
    download: bool = True,
) -> PublishedTasks:
    """The published test tasks ``name``: fixed tasks on which every method is scored.

    ``qs.evaluate(learner, load_tasks("lake_runs").source)`` scores each once.

    ``root``, ``size``, ``download``  as for :func:`load`.
    ``shuffled``  support rows in a fixed random order, for learners that read them as a sequence.

    Raises ValueError for a name that is not one of published tasks, and else as :func:`load`.
    """
    chosen = _card_for("load_tasks", name)
    options: dict[str, Any] = {} if size is None else {"size": size}
    options |= {"shuffled": True} if shuffled else {}
    tasks: PublishedTasks = _loaded(chosen, root, options, download)
    return tasks


def load_domains(name: str, root: str | Path | None = None) -> Domains:
    """The data set ``name``, of several domains: a mapping from their names to their rows.

    >>> import quickstudy as qs
    >>> found = qs.datasets.load_domains("mushrooms")  # doctest: +SKIP
    >>> source, target = found["enlarging"], found["tapering"]  # doctest: +SKIP
    >>> tasks = qs.tasks.transfer(source, target, found.spec, labelled=23)  # doctest: +SKIP

    ``root``  as for :func:`load`.

    Raises ValueError for a name that is not one of such data, FileNotFoundError where files are
    missing, and ArchiveError where they are damaged.
    """
    chosen = _card_for("load_domains", name)
    domains: Domains = _loaded(chosen, root, {}, download=False)
    return domains


def load_named_tasks(
    name: str, root: str | Path | None = None, *, part: str | None = None
) -> NamedTasks:
    """The data set ``name`` as tasks with names, for learners of many tasks.

    >>> import quickstudy as qs
    >>> schools = qs.datasets.load_named_tasks("school")  # doctest: +SKIP
    >>> train, test = schools.split_rows(0.75)  # doctest: +SKIP

    ``root``  as for :func:`load`.
    ``part``  of the rows, where their publisher divided them, such as "train" or "test": see
              ``card(name).parts``. By default the first.

    Raises ValueError for a name that is not one of such data, and for an unknown part,
    FileNotFoundError where files are missing, and ArchiveError where they are damaged.
    """
    chosen = card(name)
    if not chosen.named_tasks:
        known = ", ".join(each.name for each in CARDS.values() if each.named_tasks)
        has, function = chosen.load_with
        raise ValueError(
            f"datasets: {name} has {has}, not named tasks. Load it with {function}; data sets with "
            f"named tasks are: {known}."
        )
    if part is not None and part not in chosen.parts:
        raise ValueError(
            f"datasets: {name} has no part {part!r}; its parts are: "
            f"{', '.join(chosen.parts) or 'none, since its rows were not divided'}."
        )
    module, function = chosen.named_tasks.split(":")
    options = {"part": part or chosen.parts[0]} if chosen.parts else {}
    tasks: NamedTasks = getattr(import_module(module), function)(root, **options)
    return tasks


def load_texts(
    name: str, root: str | Path | None = None, *, split: str | None = None, download: bool = True
) -> dict[str, Texts]:
    """The texts of the data set ``name`` as they are: "train", "val" and "test" -> texts, labels.

    For a tokenizer of your own: ``LabelledRows.from_labels(tokenize(part.texts), part.labels)``.

    ``root``, ``split``, ``download``  as for :func:`load`.

    Raises ValueError for a data set that has no texts, and else as :func:`load`.
    """
    chosen = card(name)
    if not chosen.texts:
        known = ", ".join(each.name for each in CARDS.values() if each.texts)
        raise ValueError(
            f"datasets: {name} has no texts. Load it with load; data sets of texts are: {known}."
        )
    options: dict[str, Any] = {} if split is None else {"split": split}
    module, _ = chosen.loader.split(":")
    texts: dict[str, Texts] = import_module(module).load_texts(root, **options, download=download)
    return texts


def _card_for(function: str, name: str) -> Card:
    """The card of data set ``name``; ValueError where another function than this loads it."""
    chosen = card(name)
    has, loader = chosen.load_with
    if loader == function:
        return chosen
    kinds = {each.name: each.load_with for each in CARDS.values()}
    known = [name for name, (_, needed) in kinds.items() if needed == function]
    wanted = kinds[known[0]][0]
    further = ", or give it to `quickstudy evaluate RUN --data`" if chosen.published else ""
    raise ValueError(
        f"datasets: {name} has {has}, not {wanted}. Load it with {loader}{further}; those with "
        f"{wanted} are: {', '.join(known)}."
    )


def _loaded(chosen: Card, root: str | Path | None, options: dict[str, Any], download: bool) -> Any:
    _refuse_options(chosen, options)
    if not download and "download" in chosen.options:
        options["download"] = False
    module, function = chosen.loader.split(":")
    return getattr(import_module(module), function)(root, **options)


def _refuse_options(chosen: Card, options: Mapping[str, Any]) -> None:
    refused = sorted(set(options) - chosen.options)
    if refused:
        raise ValueError(
            f"datasets: {chosen.name} does not take {', '.join(refused)}. "
            f"It takes: {', '.join(sorted(chosen.options)) or 'no options'}."
        )
