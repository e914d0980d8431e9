"""Newsgroup pairs: which of two top categories a post belongs to, from other subcategories."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from quickstudy.datasets.domains import Domains, of_arrays, read_verified
from quickstudy.datasets.registry import card


def load(root: str | Path | None = None) -> Domains:
    """Domains such as "rec_vs_talk_1" and "rec_vs_talk_2": word counts (n, 2000).

    The two parts of a pair, 1 (the usual source) and 2, have the same two top categories, but posts
    of different subcategories. Class 0 is the category named first.

    ``root``  holds ``newsgroup_pairs/rec_vs_talk_1.mat`` and the other three.

    Raises what :func:`~quickstudy.datasets.domains.read_verified` raises.
    """
    from scipy.io import loadmat

    def rows(domain: str) -> tuple[np.ndarray, np.ndarray]:
        table = loadmat(io.BytesIO(read_verified(root, "newsgroup_pairs", f"{domain}.mat")))
        return table["fea"].toarray(), table["gnd"].ravel().astype(int) - 1

    return of_arrays(
        "newsgroup_pairs", {each: rows(each) for each in card("newsgroup_pairs").domains}, ways=2
    )
