"""Amazon reviews: positive or negative, of four kinds of products, as counts of words."""

from __future__ import annotations

from pathlib import Path

from quickstudy.datasets.domains import Domains, of_arrays, read_verified, svmlight

COLUMNS = 5000
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
    arrays = {}
    for product in PRODUCTS:
        for part in ("train", "test"):
            domain = f"{product}_{part}"
            data = read_verified(root, "amazon_reviews", f"{domain}.svmlight")
            x, y = svmlight(data, COLUMNS, first=0)
            arrays[domain] = (x, y > 0)
    return of_arrays("amazon_reviews", arrays, ways=2)
