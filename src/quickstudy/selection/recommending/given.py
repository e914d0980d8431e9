"""From what a user gives to the problem that is raced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quickstudy import datasets
from quickstudy.base.names import unknown_name
from quickstudy.base.shown import shown
from quickstudy.core import Examples, TaskSpec
from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.domains import Domains
from quickstudy.selection.recommending.candidates import FEWEST, Problem
from quickstudy.selection.recommending.divisions import Splits, divided
from quickstudy.selection.recommending.of_classes import problem_of_classes
from quickstudy.selection.recommending.of_domains import of_transfer_tasks, problem_of_domains
from quickstudy.selection.recommending.of_functions import problem_of_source
from quickstudy.selection.recommending.of_named_tasks import problem_of_named_tasks
from quickstudy.selection.recommending.of_rows import problem_of_rows
from quickstudy.selection.recommending.on_pretrained import (
    OF_TEXTS,
    SHARE,
    Pretrained,
    for_pictures,
    for_texts,
    side_of_folders,
)
from quickstudy.selection.recommending.tables import (
    are_real,
    columns_of,
    is_frame,
    labelled_rows,
    same_columns,
    texts_of,
)
from quickstudy.tasks.domains import domains
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.fixed import FixedTasks
from quickstudy.tasks.labels import as_labels
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.splits import FEWEST_TO_SPLIT, split_classes
from quickstudy.tasks.transfer import TransferTasks


@dataclass(frozen=True)
class Asked:
    """The arguments of ``recommend`` that say what is asked.

    ``seconds``  that there are; infinite where steps are given.
    ``pretend``  whether only a plan is wanted, so that nothing large is computed.
    """

    targets: Any
    target: str | None
    sources: Mapping[str, Any] | None
    ways: int
    shots: int
    queries: int
    labelled: int
    seed: int
    seconds: float
    pretend: bool

    @property
    def for_features(self) -> float:
        """Seconds that computing features may take."""
        return SHARE * self.seconds


def problem_of(data: Any, asked: Asked) -> Problem:
    """The problem that ``data`` pose; ValueError for what poses none."""
    if isinstance(data, (str, Path)):
        data = datasets.folder(data, size=side_of_folders())
    for kinds, reader in _READERS.items():
        if isinstance(data, kinds):
            _refuse_unread(asked, type(data).__name__, isinstance(data, Domains))
            return reader(data, asked)
    if isinstance(data, Mapping):
        _refuse_unread(asked, "a mapping of tables", True)
        return _of_mapping(data, asked)
    if is_frame(data):
        return _of_frame(data, asked)
    if callable(data):
        _refuse_unread(asked, "a source", False)
        return problem_of_source(data, asked.seed)
    if (texts := texts_of(data)) is not None:
        return _of_texts(texts, asked)
    return _of_arrays("your rows", data, asked.targets, asked)


def _refuse_unread(asked: Asked, what: str, reads_target: bool) -> None:
    """ValueError for targets that are given beside ``what``, which has its own."""
    names = ("targets", "sources") if reads_target else ("targets", "sources", "target")
    beside = [name for name in names if getattr(asked, name) is not None]
    if beside:
        raise ValueError(
            f"recommend: {what} has its targets in it; found {', '.join(beside)} beside it. Leave "
            f"{'it' if len(beside) == 1 else 'them'} out."
        )


def _of_episodes(source: Episodes, asked: Asked) -> Problem:
    """Tasks of the size of those of ``source``; its classes are divided in three."""
    rows = source.classes
    ways, shots, queries = (each[1] for each in (source.ways, source.shots, source.queries))
    return _of_classes("your classes", rows, (ways, shots, queries), asked)


def _of_classes(name: str, rows: LabelledRows, size: tuple[int, int, int], asked: Asked) -> Problem:
    """``size`` of a task: ways, shots, and queries of each class."""
    if len(rows) < FEWEST:
        network = for_pictures(rows, asked.for_features, True)
        about = f"{name}: {len(rows)} classes, for {size[0]}-way {size[1]}-shot tasks"
        return Problem("few-shot classes", about, "class", len(rows), (), network.rules)
    divisions = divided(rows, *size, asked.seed)
    return problem_of_classes(
        name, divisions, for_pictures(rows, asked.for_features, asked.pretend)
    )


def _of_rows(rows: LabelledRows, asked: Asked) -> Problem:
    return _of_classes("your classes", rows, (asked.ways, asked.shots, asked.queries), asked)


def _of_dataset(data: Dataset, asked: Asked) -> Problem:
    if not data.new_classes:
        return _of_known_classes(data, asked)
    every = sum(len(each) for each in data.splits.values())
    name = data.card.title
    if data.card.texts:
        network = for_texts(asked.for_features, asked.pretend)
    else:
        network = for_pictures(data.train, asked.for_features, asked.pretend)
    if every < FEWEST:
        about = f"{name}: {every} classes, for {asked.ways}-way {asked.shots}-shot tasks"
        return Problem("few-shot classes", about, "class", every, (), network.rules)
    train, val = data.train, data.val
    if not len(val):  # some data sets have no validation classes
        if len(train) < FEWEST_TO_SPLIT:
            raise ValueError(
                f"recommend: {name} has no validation classes, and {len(train)} training classes "
                f"are too few to take some of them; found fewer than {FEWEST_TO_SPLIT}. Give its "
                "rows, qs.LabelledRows, to be divided anew."
            )
        train, val, _ = split_classes(data.train, seed=asked.seed)
    test = data.test if len(data.test) else None
    return problem_of_classes(
        name, [Splits(train, val, test, asked.ways, asked.shots, asked.queries)], network
    )


def _of_known_classes(data: Dataset, asked: Asked) -> Problem:
    """Data with too few classes to hold any out: new rows of the same classes."""
    parts = [part for part in data.splits.values() if len(part)]
    inputs = torch.cat([part.inputs for part in parts])
    ids = torch.cat([torch.arange(len(p)).repeat_interleave(p.counts) for p in parts])
    rows, spec, _ = labelled_rows(inputs, ids)
    network = for_pictures(data.train, asked.for_features, asked.pretend)
    return problem_of_rows(data.card.title, rows, spec, network, asked.seed)


def _of_named_tasks(tasks: NamedTasks, asked: Asked) -> Problem:
    return problem_of_named_tasks(tasks, asked.seed)


def _of_domains(data: Domains, asked: Asked) -> Problem:
    if asked.target is None:
        raise ValueError(
            "recommend: domains need the name of the target; found none. Give target=, one of: "
            f"{', '.join(data)}."
        )
    if asked.target not in data:
        raise unknown_name("recommend: target domain", asked.target, dict.fromkeys(data))
    others = {name: data[name] for name in data if name != asked.target}
    return problem_of_domains(
        others, data[asked.target], data.spec, asked.labelled, asked.seed, data.card.title
    )


def _of_transfer(tasks: TransferTasks, asked: Asked) -> Problem:
    return of_transfer_tasks(tasks, asked.seed)


def _of_fixed(tasks: FixedTasks, asked: Asked) -> Problem:
    return problem_of_source(tasks, asked.seed)


_READERS: Mapping[type | tuple[type, ...], Callable[[Any, Asked], Problem]] = {
    Episodes: _of_episodes,
    LabelledRows: _of_rows,
    Dataset: _of_dataset,
    NamedTasks: _of_named_tasks,
    Domains: _of_domains,
    TransferTasks: _of_transfer,
    FixedTasks: _of_fixed,
}


def _of_mapping(tables: Mapping[str, Any], asked: Asked) -> Problem:
    """Name -> DataFrame: tasks with names."""
    if not tables or not all(is_frame(each) for each in tables.values()):
        kinds = sorted({type(each).__name__ for each in tables.values()}) or ["none"]
        raise ValueError(
            f"recommend: a mapping must be from names to DataFrames; found {', '.join(kinds)}. "
            "For tasks with names give qs.tasks.domains({name: (inputs, targets, spec)})."
        )
    frames = list(tables.values())
    same_columns(frames[0], frames[1:], asked.target)
    columns = list(frames[0].columns)
    rows = {name: columns_of(frame[columns], asked.target) for name, frame in tables.items()}
    numbers = are_real(as_labels(np.concatenate([y for _, y in rows.values()]), "recommend"))
    named: dict[str, tuple[Examples, TaskSpec]] = {}
    for name, (x, y) in rows.items():
        found, spec, _ = labelled_rows(x, y[:, None] if numbers else y)
        named[name] = (found, spec)
    return problem_of_named_tasks(domains(named), asked.seed)


def _of_frame(frame: Any, asked: Asked) -> Problem:
    if asked.targets is not None:
        raise ValueError(
            "recommend: a DataFrame has its targets in a column; found y beside it. Put it in, "
            "frame.assign(y=y), and give target='y'; or give arrays, frame.to_numpy() and y."
        )
    if asked.sources is None:
        return _of_arrays("your table", *columns_of(frame, asked.target), asked)
    given = asked.sources if isinstance(asked.sources, Mapping) else {"": asked.sources}
    others = {name: each for name, each in given.items() if is_frame(each)}
    if len(others) != len(given) or not others:
        raise ValueError(
            "recommend: sources beside a DataFrame must be DataFrames with the same columns; found "
            f"{', '.join(type(each).__name__ for each in given.values()) or 'none'}. Give name -> "
            "DataFrame."
        )
    same_columns(frame, list(others.values()), asked.target)
    columns = list(frame.columns)
    parts = {name: columns_of(each[columns], asked.target) for name, each in others.items()}
    return _beside("your table", columns_of(frame, asked.target), parts, asked)


def _beside(
    name: str, own: tuple[Any, Any], parts: Mapping[str, tuple[Any, Any]], asked: Asked
) -> Problem:
    """A target beside sources, each X and y; classes are those of all together."""
    arrays = [(np.asarray(x), np.asarray(y)) for x, y in (own, *parts.values())]
    shapes = {(x.shape[1:], y.shape[1:]) for x, y in arrays}
    if len(shapes) > 1 or any(x.shape[:1] != y.shape[:1] or not y.ndim for x, y in arrays):
        found = "; ".join(f"{x.shape} and {y.shape}" for x, y in arrays)
        raise ValueError(
            "recommend: target and sources must have the same columns, and a target for each row; "
            f"found X and y of {found}. Give X (rows, columns) and y (rows,) of each."
        )
    sizes = [len(y) for _, y in arrays]
    inputs, targets = (np.concatenate(each) for each in zip(*arrays, strict=True))
    rows, spec, _ = labelled_rows(inputs, targets)
    cut = [Examples(*leaves) for leaves in
           zip(*(leaf.split(sizes) for leaf in rows), strict=True)]  # fmt: skip
    return problem_of_domains(
        dict(zip(parts, cut[1:], strict=True)), cut[0], spec, asked.labelled, asked.seed, name
    )


def _of_arrays(name: str, inputs: Any, targets: Any, asked: Asked) -> Problem:
    if inputs is None or isinstance(inputs, (bool, int, float)):
        raise ValueError(
            f"recommend: needs a source, a data set, rows, a folder or a table; found "
            f"{shown(inputs)}. See help(qs.recommend)."
        )
    if asked.sources is not None and not is_frame(inputs):
        return _beside(name, (inputs, targets), _pairs(asked.sources), asked)
    rows, spec, _ = labelled_rows(inputs, targets)
    network = Pretrained("")
    if torch.is_tensor(rows.inputs) and rows.inputs.ndim == 4:
        one = LabelledRows(rows.inputs, torch.tensor([len(rows.weights)]), ("rows",))
        network = for_pictures(one, asked.for_features, asked.pretend)
    return problem_of_rows(name, rows, spec, network, asked.seed)


def _pairs(sources: Any) -> dict[str, tuple[Any, Any]]:
    """Sources beside an array, each X and y; ValueError for anything else."""
    given = sources if isinstance(sources, Mapping) else {}
    wrong = [
        name for name, pair in given.items()
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or any(p is None for p in pair)
    ]  # fmt: skip
    if wrong or not given:
        found = f"others for {', '.join(map(str, wrong))}" if wrong else shown(sources)
        raise ValueError(
            f"recommend: sources beside an array must be name -> (X, y); found {found}. Give both "
            "arrays of each."
        )
    return {name: (x, y) for name, (x, y) in given.items()}


def _of_texts(texts: list[str], asked: Asked) -> Problem:
    """Texts and their labels: through the pretrained encoder, which turns them into features."""
    from quickstudy.backbones.pretrained.load import pretrained

    encoder: Any = pretrained(OF_TEXTS)
    if asked.targets is None:
        raise ValueError(
            "recommend: texts need their classes; found none. Give qs.recommend(texts, labels)."
        )
    rows = LabelledRows.from_labels(encoder.tokenize(texts), asked.targets)
    network = for_texts(asked.for_features, asked.pretend)
    if len(rows) < FEWEST:
        about = f"your texts: {len(rows)} classes"
        return Problem("few-shot classes", about, "class", len(rows), (), network.rules)
    divisions = divided(rows, asked.ways, asked.shots, asked.queries, asked.seed)
    return problem_of_classes("your texts", divisions, network)
