"""Amazon reviews: positive or negative, of four kinds of products, as counts of words."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quickstudy.datasets.domains import Domains, of_arrays, read_verified, svmlight
from quickstudy.tasks.domains import domains
from quickstudy.tasks.named_tasks import NamedTasks

COLUMNS = 5000
PARTS = ("train", "test")
PRODUCTS = ("books", "dvd", "electronics", "kitchen")


def load(root: str | Path | None = None) -> Domains:
    """Domains "books_train", "books_test", and so on for dvd, electronics and kitchen.

    Inputs (n, 5000) count the commonest words and pairs of words; the columns mean the same in all
    domains. Class 1 is positive, 0 negative. 2,000 rows of each product are for training, 3,586 to
    5,945 for testing. Rows are counts as in the files: take ``inputs.log1p()`` or
    ``(inputs > 0).float()`` for learners that want numbers of like size.

    ``root``  holds ``amazon_reviews/books_train.svmlight`` and so on, or these with ".gz".

    Raises what :func:`~quickstudy.datasets.domains.read_verified` raises.
    """
    names = [f"{product}_{part}" for product in PRODUCTS for part in PARTS]
    return of_arrays("amazon_reviews", {name: _read(root, name) for name in names}, ways=2)


def load_named_tasks(root: str | Path | None = None, part: str = "train") -> NamedTasks:
    """Tasks "books", "dvd", "electronics" and "kitchen": whether a review is positive.

    Rows are those of :func:`load`.

    ``part``  "train", 2,000 rows of each, or "test".
    """
    read = {product: _read(root, f"{product}_{part}") for product in PRODUCTS}
    return domains(of_arrays("amazon_reviews", read, ways=2))


def _read(root: str | Path | None, domain: str) -> tuple[np.ndarray, np.ndarray]:
    """Counts (n, 5000) of one file, and whether each review is positive, (n,)."""
    data = read_verified(root, "amazon_reviews", f"{domain}.svmlight")
    x, y = svmlight(data, COLUMNS, first=0)
    return x, y > 0
