"""Molecules with the results of many assays: fingerprints of their structure, one task an assay."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from quickstudy.base.extras import optional
from quickstudy.base.words import count, first_few
from quickstudy.datasets.domains import read_verified
from quickstudy.datasets.limits import ArchiveError
from quickstudy.datasets.smiles import read_smiles
from quickstudy.tasks.domains import columns
from quickstudy.tasks.named_tasks import NamedTasks

BITS, RADIUS = 1024, 2
"""Of the Morgan fingerprints: their length, and how many bonds an atom's surroundings reach."""
NO_ASSAY = ("smiles", "mol_id")
"""The columns that are no labels."""
VALUES = {"": np.nan, "0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}
"""What stands in a label's column."""


def load_tox21(root: str | Path | None = None) -> NamedTasks:
    """12 assays of toxicity; ``root`` holds ``molecules/tox21.csv``. See :func:`assays`."""
    return assays(root, "tox21")


def load_sider(root: str | Path | None = None) -> NamedTasks:
    """27 kinds of side effects; ``root`` holds ``molecules/sider.csv``. See :func:`assays`."""
    return assays(root, "sider")


def load_toxcast(root: str | Path | None = None) -> NamedTasks:
    """617 assays of toxicity; ``root`` holds ``molecules/toxcast.csv``. See :func:`assays`."""
    return assays(root, "toxcast")


def assays(root: str | Path | None, name: str) -> NamedTasks:
    """One task for each assay of the data set ``name``: inputs (n, 1024), labels (n, 1).

    Inputs are Morgan fingerprints of radius 2 and 1,024 bits, as zeros and ones; targets are 1
    where the molecule is active. The tasks share one table of inputs. The fingerprints are computed
    anew at every load, about 1 ms a molecule.

    Rows that are the same molecule, by its canonical SMILES, are joined: a label is known where one
    of them knows it, and unknown where they disagree. A warning counts the molecules that RDKit
    cannot read, which are left out, and the rows and labels that were joined.

    Needs the extra ``molecules``. Raises what
    :func:`~quickstudy.datasets.domains.read_verified` raises, and ArchiveError for another table.
    """
    optional("rdkit", "molecules", f"datasets: {name}")
    data = read_verified(root, name, f"{name}.csv", "molecules")
    smiles, labels, names = read_table(data, f"{name}.csv")
    found = fingerprints(smiles)
    table, disagreeing = joined(labels[found.rows], found.molecules, len(found.bits))
    repeated = len(found.rows) - len(found.bits)
    parts = [
        f"{count(len(found.invalid), 'SMILES', 'SMILES')} cannot be read and "
        f"{'is' if len(found.invalid) == 1 else 'are'} left out: {first_few(found.invalid, 3)}"
        if found.invalid else "",
        f"{count(repeated, 'row')} of molecules that stand twice {'is' if repeated == 1 else 'are'}"
        f" joined; {count(disagreeing, 'label')} on which such rows disagree count as unknown"
        if repeated else "",
    ]  # fmt: skip
    if any(parts):
        told = "; ".join(part for part in parts if part)
        warnings.warn(f"{name}: of {len(smiles):,} rows, {told}.", stacklevel=2)
    return columns(torch.from_numpy(found.bits.astype(np.float32)), torch.from_numpy(table), names)


def read_table(data: bytes, what: str) -> tuple[list[str], np.ndarray, list[str]]:
    """SMILES (n), labels (n, assays) with NaN where unknown, and the names of the assays.

    Raises ArchiveError for a file that is no such table.
    """
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8"))))
        head, body = rows[0], rows[1:]
        place = head.index("smiles")
        kept = [k for k, name in enumerate(head) if name not in NO_ASSAY]
        labels = np.array([[VALUES[row[k]] for k in kept] for row in body], dtype=np.float32)
        if not labels.size:
            raise ValueError("no labels")
    except (UnicodeDecodeError, csv.Error, KeyError, IndexError, ValueError) as error:
        raise ArchiveError(
            f"{what}: must be a table with a column smiles, and a column of 0, 1 and nothing for "
            f"each assay; found {error!r}. Get it again."
        ) from error
    return [row[place] for row in body], labels, [head[k] for k in kept]


class Fingerprints(NamedTuple):
    """Fingerprints of different molecules, and which rows are them.

    ``bits``       (molecules, 1024) of 0 and 1.
    ``rows``       the rows that can be read, (n,).
    ``molecules``  which molecule each of them is, (n,).
    ``invalid``    the SMILES that cannot be read.
    """

    bits: np.ndarray
    rows: np.ndarray
    molecules: np.ndarray
    invalid: list[str]


def fingerprints(smiles: list[str], bits: int = BITS, radius: int = RADIUS) -> Fingerprints:
    """Morgan fingerprints of SMILES; invalid ones, and those without atoms, are left out."""
    from rdkit.Chem import rdFingerprintGenerator

    make = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    found = read_smiles(smiles, "datasets: molecules")
    made = [make.GetFingerprintAsNumPy(molecule) for molecule in found.molecules]
    return Fingerprints(
        np.stack(made) if made else np.zeros((0, bits), np.uint8),
        found.rows, found.numbers, found.invalid,
    )  # fmt: skip


def joined(labels: np.ndarray, molecules: np.ndarray, n: int) -> tuple[np.ndarray, int]:
    """Labels (rows, assays) of rows -> (n, assays) of molecules, and how many disagree.

    ``molecules``  (rows,): which of the ``n`` molecules each row is.
    """
    no, yes = (np.zeros((n, labels.shape[1]), dtype=bool) for _ in range(2))
    np.logical_or.at(no, molecules, labels == 0)
    np.logical_or.at(yes, molecules, labels == 1)
    table = np.where(yes, 1.0, np.where(no, 0.0, np.nan)).astype(np.float32)
    table[yes & no] = np.nan
    return table, int((yes & no).sum())
