"""Assays of molecules as few-shot tasks: a table of molecules and labels, and its splits."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quickstudy.answers.specs import multilabel
from quickstudy.base.shown import shown
from quickstudy.base.skipped import SkippedInput
from quickstudy.base.trees import map_tree
from quickstudy.base.words import count, first_few
from quickstudy.core import Examples, Task
from quickstudy.datasets.domains import read_verified
from quickstudy.datasets.molecules import joined, read_table
from quickstudy.datasets.row_files import read_cells
from quickstudy.datasets.smiles import molecule_inputs, read_smiles, warn_of_unread
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.numbering import generator
from quickstudy.tasks.screening import Screening, usable

TOXCAST_TEST = ("ACEA", "APR", "CEETOX", "CLD", "NCCT", "NHEERL", "OT", "Tanguay")
"""Families of ToxCast to test on: all but the four largest, ATG, BSK, NVS and TOX21."""
ALL_LABELS = "all labels"
"""The name of the task that asks for all assays at once, as ``MultitaskFeatures`` knows it."""
HELD_OUT = 0.4
"""The share of molecules that only test tasks have."""


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class AssayTable:
    """Molecules, and what is known of each in each of many assays.

    ``smiles``   canonical, of each molecule.
    ``inputs``   of each, see :mod:`quickstudy.datasets.smiles`.
    ``labels``   (molecules, assays): 1 active, 0 not, NaN unknown.
    ``names``    of the assays.
    ``invalid``  SMILES that could not be read, and were left out.
    """

    smiles: tuple[str, ...]
    inputs: dict[str, Tensor]
    labels: Tensor
    names: tuple[str, ...]
    invalid: tuple[str, ...] = ()

    def __repr__(self) -> str:
        known = int((~self.labels.isnan()).sum())
        return (
            f"AssayTable({count(len(self.smiles), 'molecule')}, "
            f"{count(len(self.names), 'assay')}, {count(known, 'label')})"
        )

    def rows(self, chosen: Tensor) -> AssayTable:
        """The molecules of these numbers."""
        inputs = map_tree(lambda leaf: leaf[chosen], self.inputs)
        smiles = tuple(self.smiles[row] for row in chosen.tolist())
        return replace(self, smiles=smiles, inputs=inputs, labels=self.labels[chosen])

    def assays(self, names: Iterable[str]) -> AssayTable:
        """The assays of these names, in the table's order; ValueError for an unknown one."""
        asked = set(names)
        if unknown := asked - set(self.names):
            raise ValueError(
                f"assays: the table has no {first_few(sorted(unknown))}. It has: "
                f"{first_few(list(self.names))}."
            )
        kept = [place for place, name in enumerate(self.names) if name in asked]
        return replace(
            self, labels=self.labels[:, kept], names=tuple(self.names[place] for place in kept)
        )

    def usable(self, shots: int, queries: int = 1) -> AssayTable:
        """The assays that have molecules enough of both classes; see :func:`tasks.usable`."""
        enough = usable(self.labels, shots, queries)
        return self.assays(n for n, kept in zip(self.names, enough, strict=True) if kept)

    def tasks(
        self, shots: int = 16, queries: int | None = None, share: float | None = None
    ) -> Screening:
        """A task source of the assays; see :class:`quickstudy.tasks.Screening`."""
        return Screening(self.inputs, self.labels, self.names, shots, queries, share)

    def as_labels(self, rows: int = 256) -> LabelRows:
        """A task source of ``rows`` random molecules with all their labels at once."""
        return LabelRows(self, rows)


@dataclass(frozen=True, eq=False)
class LabelRows:
    """A source of tasks that ask for all assays of random molecules at once, to pretrain on.

    ``table``  whose molecules and assays; molecules without any label are never drawn.
    ``rows``   of a task, half of them support and half queries.
    """

    table: AssayTable
    rows: int = 256

    def __post_init__(self) -> None:
        if self.rows < 2 or not len(self._known):
            raise ValueError(
                f"LabelRows: needs 2 rows or more, and a molecule with a label; found "
                f"rows={self.rows}, {count(len(self._known), 'labelled molecule')}."
            )

    def __call__(self, generator: torch.Generator) -> Task:
        """One task, of the answer Labels."""
        known = self._known
        chosen = known[torch.randint(len(known), (self.rows,), generator=generator)]
        support, query = (self._examples(half) for half in chosen.split(-(-self.rows // 2)))
        return Task(support, query, multilabel(len(self.table.names), ALL_LABELS))

    def _examples(self, chosen: Tensor) -> Examples:
        weights = torch.ones(len(chosen))
        inputs = map_tree(lambda leaf: leaf[chosen], self.table.inputs)
        return Examples(inputs, self.table.labels[chosen], weights, one_place(weights))

    @cached_property
    def _known(self) -> Tensor:
        return (~self.table.labels.isnan()).any(1).nonzero()[:, 0]


class Parts(NamedTuple):
    """To train on and to test on; no assay and no molecule is in both."""

    train: AssayTable
    test: AssayTable


def family(assay: str) -> str:
    """The family of an assay of ToxCast: its name up to the first underscore, that of its maker."""
    return assay.split("_", 1)[0]


def split(
    table: AssayTable, test: Iterable[str], held_out: float = HELD_OUT, seed: int = 0
) -> Parts:
    """Parts that share no assay and no molecule.

    ``test``      the names of the assays to test on.
    ``held_out``  the share of the molecules, chosen at random by ``seed``, that only the test part
                  has. It has no others, so labels of its molecules in training assays, and of
                  training molecules in its assays, are read by no one.

    Raises ValueError for a share that is not between 0 and 1, and for a part without assays.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"split: held_out must be between 0 and 1; found {held_out}.")
    asked = set(test)
    rest = [name for name in table.names if name not in asked]
    if not asked or not rest:
        raise ValueError(
            f"split: needs assays to train on and to test on; found {len(rest)} and {len(asked)}. "
            "Name some of the assays, not all."
        )
    order = torch.randperm(len(table.smiles), generator=generator(seed))
    cut = round(held_out * len(order))
    away, kept = order[:cut].sort().values, order[cut:].sort().values
    return Parts(table.assays(rest).rows(kept), table.assays(asked).rows(away))


def load_assays(
    name: str, root: str | Path | None = None, graph: bool = False, strict: bool = False
) -> AssayTable:
    """The table of the data set ``name``: toxcast, tox21 or sider.

    Rows that are the same molecule are joined as :func:`quickstudy.datasets.molecules.assays` says.
    A warning counts and names the SMILES that RDKit cannot read, all of which ``invalid`` lists.

    ``graph``   whether the inputs hold atoms and bonds beside the fingerprints.
    ``strict``  whether a SMILES that cannot be read is an error.

    Raises what :func:`~quickstudy.datasets.domains.read_verified` raises, ValueError where
    ``strict`` and SMILES cannot be read, ImportError without the extra ``molecules``.
    """
    data = read_verified(root, name, f"{name}.csv", "molecules")
    smiles, labels, names = read_table(data, f"{name}.csv")
    return _table(smiles, labels, names, name, graph, strict)


def read_assays(path: Path, graph: bool = False, strict: bool = False) -> AssayTable:
    """The table in a CSV file of the user's: a column ``smiles``, and one of labels for each assay.

    Labels are 1 or 0, or true or false, and empty where unknown; a column that has other values,
    such as names, or none at all, is no assay and is left out with a warning. Warnings count too
    the SMILES that cannot be read, and the labels on which rows of one molecule disagree.

    Raises ValueError for a file without rows, without a column ``smiles`` or without labels, and
    where ``strict`` for SMILES that cannot be read.
    """
    head, rows = read_csv(path)
    place = smiles_column(path, head)
    columns: dict[str, np.ndarray] = {}
    left = []
    for column, name in enumerate(head):
        if column == place:
            continue
        values = [_label(row[column]) for row in rows]
        if None in values:
            left.append(f"{name} ({shown(rows[values.index(None)][column])})")
        elif np.isnan(known := np.array(values, dtype=np.float32)).all():
            left.append(f"{name} (nothing)")
        else:
            columns[name] = known
    if left:
        warnings.warn(
            f"{path}: {count(len(left), 'column')} with other values than 1, 0 and nothing, or "
            f"with nothing alone, {'is' if len(left) == 1 else 'are'} no assay, and left out: "
            f"{first_few(left)}.",
            stacklevel=2,
        )
    if not columns:
        raise ValueError(
            f"{path}: needs a column of labels for each assay, 1 for active and 0 for not; found "
            f"the columns {first_few(head)}. Add one."
        )
    labels = np.stack(list(columns.values()), 1)
    smiles = [row[place] for row in rows]
    return _table(smiles, labels, list(columns), str(path), graph, strict)


def read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table; ValueError for a file that is none, empty, or ragged."""
    table = read_cells(path)
    if not table.names:
        raise ValueError(f"{path}: must have a head and rows; found an empty file.")
    if not table.cells:
        raise ValueError(f"{path}: must have a row for each molecule; found its head only.")
    return table.names, table.cells


def smiles_column(path: Path, head: Sequence[str]) -> int:
    """The place of the column ``smiles``, in any case; ValueError where there is not one."""
    found = [place for place, name in enumerate(head) if name.lower() == "smiles"]
    if len(found) != 1:
        raise ValueError(
            f"{path}: needs one column named smiles; found {first_few(list(head))}. Name it so."
        )
    return found[0]


def _label(text: str) -> float | None:
    """1, 0, NaN where unknown; None for what is no label."""
    text = {"": "nan", "true": "1", "false": "0"}.get(text.strip().lower(), text)
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value in (0.0, 1.0) or np.isnan(value) else None


def _table(
    smiles: list[str], labels: np.ndarray, names: list[str], who: str, graph: bool, strict: bool
) -> AssayTable:
    found = read_smiles(smiles, who, strict)
    warn_of_unread(who, found.invalid, smiles)
    if not found.smiles:
        raise ValueError(f"{who}: no molecule of {count(len(smiles), 'row')} can be read.")
    table, disagreeing = joined(labels[found.rows], found.numbers, len(found.smiles))
    if disagreeing:
        warnings.warn(
            f"{who}: rows of one molecule disagree on {count(disagreeing, 'label')}, which "
            f"{'counts' if disagreeing == 1 else 'count'} as unknown. Leave the wrong rows out.",
            SkippedInput,
            stacklevel=3,
        )
    inputs: dict[str, Any] = molecule_inputs(found.molecules, graph)
    return AssayTable(
        tuple(found.smiles), inputs, torch.from_numpy(table), tuple(names), tuple(found.invalid)
    )
