"""Data sets of several domains: rows of the same columns and classes from different places.

A data set of this kind is a loader function ``(root) -> Domains`` and a card whose ``domains`` name
its domains. :func:`quickstudy.datasets.load_domains` loads it by name.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quickstudy.answers.specs import classification
from quickstudy.core import Examples, TaskSpec
from quickstudy.datasets.cache import data_root
from quickstudy.datasets.limits import ArchiveError, Limits, bomb
from quickstudy.datasets.registry import Card, card
from quickstudy.datasets.sources import find
from quickstudy.tasks.examples import examples


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class Domains(Mapping[str, Examples]):
    """The rows of each domain by its name, in the order of the card.

    ``card``  facts about the data set: licence, citation, checksums.
    ``rows``  all rows of each domain. They have the same columns and the same classes.
    ``spec``  of a task whose rows are those of any domain.

    A source and a target of it make tasks by :func:`quickstudy.tasks.transfer`.
    """

    card: Card
    rows: Mapping[str, Examples]
    spec: TaskSpec

    def __getitem__(self, name: str) -> Examples:
        """The rows of domain ``name``; ValueError for a name that is not one of them."""
        if name not in self.rows:
            raise ValueError(
                f"{self.card.name}: has no domain {name!r}. Its domains are: "
                f"{', '.join(self.rows)}."
            )
        return self.rows[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the domains."""
        return iter(self.rows)

    def __contains__(self, name: object) -> bool:
        """Whether a domain has this name."""
        return name in self.rows

    def __len__(self) -> int:
        """The number of domains."""
        return len(self.rows)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(rows.weights):,}" for name, rows in self.rows.items())
        return f"Domains({self.card.name}: {counts} rows; {self.spec.answer})"


def of_arrays(name: str, arrays: Mapping[str, tuple[np.ndarray, np.ndarray]], ways: int) -> Domains:
    """The domains of the data set ``name`` from inputs (n, ...) and class ids (n,) of each."""
    rows = {
        domain: examples(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y.astype(int)))
        for domain, (x, y) in arrays.items()
    }
    return Domains(card(name), rows, classification(ways))


def read_verified(
    root: str | Path | None, name: str, file: str, folder: str | None = None
) -> bytes:
    """The bytes of ``file`` of the data set ``name``, with the SHA-256 that the card states.

    It is looked for in ``root/folder`` and in ``root``, also with ".gz" added, and then unpacked:
    the checksum is that of the unpacked bytes.

    ``folder``  by default ``name``.

    Raises FileNotFoundError where it is missing, ArchiveError where it is damaged.
    """
    place = data_root(root) / (folder or name)
    path = find([place, place.parent], [file, f"{file}.gz"])
    if path is None:
        raise FileNotFoundError(
            f"{name}: {file} is not in {place}. Get it from {card(name).url} and put it "
            f"there, as it is or as {file}.gz."
        )
    data = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
    found, expected = hashlib.sha256(data).hexdigest(), card(name).digest(file)
    if found != expected:
        raise ArchiveError(
            f"{path}: differs from the published file (SHA-256 {found[:16]}…, expected "
            f"{expected[:16]}…). Get it again from {card(name).url}."
        )
    return data


def svmlight(data: bytes, columns: int, first: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, columns) in float32, and labels (n,), of text "label column:value …".

    ``first``  the number of the first column, 1 or 0.

    The rows are dense: scikit-learn's learners refuse sparse ones whose indices have 64 bits, as
    some readers give them.
    """
    from sklearn.datasets import load_svmlight_file

    sparse, labels = load_svmlight_file(
        io.BytesIO(data), n_features=columns, dtype=np.float32, zero_based=first == 0
    )
    return sparse.toarray(), labels


def _unpacked(path: Path) -> bytes:
    """The content of a gzip file, up to the limit of a file."""
    limit = Limits().file_bytes
    try:
        with gzip.open(path) as stream:
            data = stream.read(limit + 1)
    except (OSError, EOFError) as error:
        raise ArchiveError(f"{path}: is not a gzip file, or is cut off. Get it again.") from error
    if len(data) > limit:
        raise bomb(str(path), f"refused: it unpacks to over {limit:,} bytes")
    return data
