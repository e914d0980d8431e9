"""Files of a user's molecules: tested ones, a library to search, a picture of the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quickstudy.base.atomic import write_atomically
from quickstudy.base.trees import map_tree
from quickstudy.base.words import count, first_few
from quickstudy.core import Examples
from quickstudy.datasets.assays import read_assays, read_csv, smiles_column
from quickstudy.datasets.row_files import read_utf8
from quickstudy.datasets.smiles import molecule_inputs, read_smiles, warn_of_unread
from quickstudy.tasks.examples import one_place

DRAWN = 24
"""Molecules of a result that are drawn, the first ones."""
TILE = 200
"""Side of the drawing of one molecule, in pixels."""


class Tested(NamedTuple):
    """Molecules with a label in one assay."""

    assay: str
    smiles: list[str]
    examples: Examples


def tested_molecules(path: Path, assay: str, graph: bool, strict: bool) -> Tested:
    """The molecules of a CSV file whose label in ``assay`` is known; "" for the only one.

    Raises ValueError as :func:`~quickstudy.datasets.assays.read_assays`, and where the assay is not
    in the file, is not named among several, or has labels of one class only.
    """
    table = read_assays(path, graph, strict)
    if not assay and len(table.names) > 1:
        raise ValueError(
            f"{path}: has {count(len(table.names), 'assay')}, {first_few(list(table.names))}, and "
            "one must be chosen. Name it as assay (--set assay=NAME), or leave the others out."
        )
    if assay and assay not in table.names:
        raise ValueError(
            f"{path}: has no assay {assay!r}; found {first_few(list(table.names))}. Name one of "
            "them."
        )
    table = table.assays([assay or table.names[0]])
    labels = table.labels[:, 0]
    known = (~labels.isnan()).nonzero()[:, 0]
    active = int((labels == 1).sum())
    if active in (0, len(known)):
        raise ValueError(
            f"{path}: the assay {table.names[0]} needs active and inactive molecules to learn "
            f"from; found {active} active of {len(known)} with a label. Add some of the other kind."
        )
    weights = torch.ones(len(known))
    rows = Examples(
        map_tree(lambda leaf: leaf[known], table.inputs), labels[known].long(), weights,
        one_place(weights),
    )  # fmt: skip
    return Tested(table.names[0], [table.smiles[row] for row in known.tolist()], rows)


def library(
    paths: Sequence[Path], graph: bool, strict: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """The inputs of the different molecules of ``paths``, and their canonical SMILES.

    A file named ``.csv`` or ``.tsv`` has a column ``smiles``; any other has one SMILES a line, of
    which what follows the first space is a name. A folder stands for the files in it that are named
    so, or ``.smi`` or ``.txt``.

    Raises ValueError for files without a molecule that can be read, and where ``strict`` for any
    SMILES that cannot be.
    """
    files = [file for path in paths for file in _files(Path(path))]
    texts = [text for file in files for text in _smiles_of(file)]
    who = ", ".join(map(str, files[:3])) or "molecules"
    found = read_smiles(texts, who, strict)
    warn_of_unread(who, found.invalid, texts)
    if not found.molecules:
        raise ValueError(
            f"{who}: needs a molecule that can be read; found none in {count(len(texts), 'row')}. "
            "Give SMILES."
        )
    return molecule_inputs(found.molecules, graph), found.smiles


def pictures(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The best of ``rows`` as an SVG of a grid of molecules, each with its place and score."""
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    best = sorted(rows, key=lambda row: row["place"])[:DRAWN]
    across = min(len(best), 6)
    down = -(-len(best) // across)
    drawing = rdMolDraw2D.MolDraw2DSVG(across * TILE, down * TILE, TILE, TILE)
    drawing.DrawMolecules(
        [Chem.MolFromSmiles(row["name"]) for row in best],
        legends=[f"{row['place']}: {row['score']:.2f}" for row in best],
    )
    drawing.FinishDrawing()
    write_atomically(path, drawing.GetDrawingText().encode())


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix.lower() in _SUFFIXES)


_TABLES = (".csv", ".tsv")
_SUFFIXES = (*_TABLES, ".smi", ".txt")


def _smiles_of(path: Path) -> list[str]:
    if path.suffix.lower() in _TABLES:
        head, rows = read_csv(path)
        place = smiles_column(path, head)
        return [row[place] for row in rows]
    return [line.split()[0] for line in read_utf8(path).splitlines() if line.strip()]
