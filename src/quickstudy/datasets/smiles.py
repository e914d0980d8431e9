"""Molecules written as SMILES: reading them, and their inputs for learners.

The inputs of a learner of molecules are a dict of tensors, rows first:

    smiles      (n, length) the canonical SMILES as codes of characters, for reports to draw
    counts      (n, bits)   counted ECFP fingerprints: how often each surrounding of an atom occurs
    atoms       (n, a, 6)   of each atom: atomic number, neighbours, charge + 4, hydrogens, whether
                            it is aromatic, whether it is in a ring; zeros where there is no atom
    neighbours  (n, a, 6)   the numbers of the atoms that it is bound to
    bonds       (n, a, 6)   the kinds of these bonds, 1 to 5; 0 where there is none

The last three are those of the graph, which :class:`quickstudy.backbones.GIN` reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.extras import optional
from quickstudy.base.skipped import SkippedInput
from quickstudy.base.words import count, first_few

BITS, RADIUS = 2048, 2
"""Of the counted fingerprints: their length, and how many bonds a surrounding reaches (ECFP4)."""
PROPERTIES, DEGREE = 6, 6
"""Numbers that describe an atom, and most neighbours of one; further ones are left out."""
LARGEST = (118, 6, 8, 8, 1, 1)
"""The largest value of each property of an atom; larger ones count as it."""
BOND_KINDS = 5
"""Single, double, triple, aromatic, and any other."""
LONGEST = 512
"""Characters of the longest SMILES that reports draw."""
MOST_ATOMS = 256
"""Atoms of the largest molecule that has a graph, without hydrogens."""


class Molecules(NamedTuple):
    """Different molecules, and which rows of a table are them.

    ``smiles``     canonical, of each molecule.
    ``molecules``  of RDKit.
    ``rows``       (n,): the rows that can be read.
    ``numbers``    (n,): which molecule each of them is.
    ``invalid``    the SMILES that cannot be read.
    """

    smiles: list[str]
    molecules: list[Any]
    rows: np.ndarray
    numbers: np.ndarray
    invalid: list[str]


def read_smiles(texts: Sequence[str], who: str, strict: bool = False) -> Molecules:
    """The different molecules among ``texts``; invalid ones, and those without atoms, are listed.

    Two texts are the same molecule where RDKit writes the same canonical SMILES for them.

    ``who``     begins the message of an error, and names the package's extra where it is missing.
    ``strict``  whether a text that cannot be read is an error.

    Raises ValueError where ``strict`` and a text cannot be read; ImportError without ``rdkit``.
    """
    optional("rdkit", "molecules", who)
    from rdkit import Chem, rdBase

    number_of: dict[str, int] = {}
    molecules: list[Any] = []
    rows, numbers, invalid = [], [], []
    with rdBase.BlockLogs():  # it prints a message for each
        for row, text in enumerate(texts):
            # RDKit reads up to the first character that no SMILES has, and says nothing.
            molecule = Chem.MolFromSmiles(text) if _is_plain(text) else None
            if molecule is None or molecule.GetNumAtoms() == 0:
                invalid.append(text)
                continue
            canonical = Chem.MolToSmiles(molecule)
            if canonical not in number_of:
                number_of[canonical] = len(molecules)
                molecules.append(molecule)
            rows.append(row)
            numbers.append(number_of[canonical])
    if invalid and strict:
        raise ValueError(
            f"{who}: every SMILES must be one that RDKit can read; found {unread(invalid, texts)}. "
            "Correct them, or leave strict out: they are then left out and counted."
        )
    return Molecules(
        list(number_of), molecules, np.array(rows, dtype=int), np.array(numbers, dtype=int), invalid
    )


def _is_plain(text: str) -> bool:
    """Whether a text has printable ASCII and tabulators alone."""
    return text.isascii() and text.replace("\t", " ").isprintable()


def unread(invalid: Sequence[str], texts: Sequence[str]) -> str:
    """How many of ``texts`` cannot be read, and the first of them."""
    shown = [repr(text[:60]) for text in invalid]
    return f"{len(invalid):,} of {count(len(texts), 'row')} that cannot be read: " + first_few(
        shown, 3
    )


def warn_of_unread(who: str, invalid: Sequence[str], texts: Sequence[str]) -> None:
    """SkippedInput where some of ``texts`` are left out."""
    if invalid:
        message = f"{who}: left out {unread(invalid, texts)}."
        warnings.warn(message, SkippedInput, stacklevel=3)


def molecule_inputs(molecules: Sequence[Any], graph: bool = False) -> dict[str, Tensor]:
    """The inputs of molecules of RDKit, as this module's page says.

    ``graph``  whether atoms and bonds are wanted too.

    Raises ValueError for a graph of more than 256 atoms.
    """
    inputs = {"smiles": spelled(molecules), "counts": counted_fingerprints(molecules)}
    return inputs | graphs(molecules) if graph else inputs


def spelled(molecules: Sequence[Any]) -> Tensor:
    """The canonical SMILES of molecules as codes (n, length) of characters, 0 after the end.

    Longer ones than 512 characters are left out: zeros alone.
    """
    from rdkit import Chem

    texts = [Chem.MolToSmiles(molecule).encode("ascii", "replace") for molecule in molecules]
    texts = [text if len(text) <= LONGEST else b"" for text in texts]
    found = np.zeros((len(texts), LONGEST), dtype=np.int16)
    for row, text in enumerate(texts):
        found[row, : len(text)] = np.frombuffer(text, dtype=np.uint8)
    return torch.from_numpy(found)


def counted_fingerprints(
    molecules: Sequence[Any], bits: int = BITS, radius: int = RADIUS
) -> Tensor:
    """Counted ECFP fingerprints (n, bits) as reals: of radius 2, ECFP4.

    Reference: Rogers and Hahn (2010), Extended-connectivity fingerprints; RDKit's Morgan
    fingerprint, folded to ``bits``.
    """
    from rdkit.Chem import rdFingerprintGenerator

    make = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    found = np.zeros((len(molecules), bits), dtype=np.float32)
    for row, molecule in enumerate(molecules):
        found[row] = make.GetCountFingerprintAsNumPy(molecule)
    return torch.from_numpy(found)


def graphs(molecules: Sequence[Any]) -> dict[str, Tensor]:
    """``atoms``, ``neighbours`` and ``bonds`` of molecules, padded to the largest of them."""
    largest = max((molecule.GetNumAtoms() for molecule in molecules), default=1)
    if largest > MOST_ATOMS:
        raise ValueError(
            f"molecules: a graph may have {MOST_ATOMS} atoms; found a molecule of {largest}. Leave "
            "it out, or use fingerprints."
        )
    shape = (len(molecules), largest)
    atoms = np.zeros((*shape, PROPERTIES), dtype=np.int64)
    neighbours, bonds = (np.zeros((*shape, DEGREE), dtype=np.int64) for _ in range(2))
    for row, molecule in enumerate(molecules):
        for atom in molecule.GetAtoms():
            place = atom.GetIdx()
            atoms[row, place] = np.minimum(_properties(atom), LARGEST)
            for slot, bond in enumerate(list(atom.GetBonds())[:DEGREE]):
                neighbours[row, place, slot] = bond.GetOtherAtomIdx(place)
                bonds[row, place, slot] = _kind(bond)
    return {
        name: torch.from_numpy(part)
        for name, part in (("atoms", atoms), ("neighbours", neighbours), ("bonds", bonds))
    }


def _properties(atom: Any) -> list[int]:
    return [
        max(atom.GetAtomicNum(), 1),  # 0, a wildcard, would read as no atom
        atom.GetDegree(),
        max(atom.GetFormalCharge() + 4, 0),
        atom.GetTotalNumHs(),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    ]


def _kind(bond: Any) -> int:
    if bond.GetIsAromatic():
        return 4
    kind = {1.0: 1, 2.0: 2, 3.0: 3}.get(bond.GetBondTypeAsDouble())
    return BOND_KINDS if kind is None else kind
