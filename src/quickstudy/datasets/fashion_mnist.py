"""Fashion-MNIST: pictures of ten kinds of garments, and pairs of them laid over one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quickstudy.answers.specs import classification
from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.domains import read_verified
from quickstudy.datasets.limits import ArchiveError
from quickstudy.datasets.registry import card
from quickstudy.tasks.domains import domains
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.tasks.numbering import generator
from quickstudy.tasks.rows import LabelledRows

GARMENTS = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
SIDE, ROOM = 28, 36
"""Of a picture, and of two laid over one another, which are shifted by 8 pixels."""
PICTURES_OF = {"train": 8_000, "test": 2_000}
PAIRS_OF = {"train": 16_000, "test": 4_000}
SEED = 0


def load(root: str | Path | None = None) -> Dataset:
    """Ten garments as test classes: (1, 28, 28) uint8, 1,000 of each, the published test part.

    ``root``  holds ``fashion_mnist/t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, or
              these with ".gz".

    Raises what :func:`~quickstudy.datasets.domains.read_verified` raises.
    """
    pictures, labels = read(root)
    rows = LabelledRows.from_labels(pictures, [GARMENTS[k] for k in labels.tolist()])
    none = rows.without_classes()
    return Dataset(card("fashion_mnist"), none, none, rows)


def load_pairs(root: str | Path | None = None, part: str = "train") -> NamedTasks:
    """Multi-Fashion: tasks "left" and "right", which garment is at the upper left and lower right.

    Inputs (n, 1, 36, 36) in [0, 1], targets one of ten garments. 16,000 pairs of 8,000 pictures for
    training, 4,000 pairs of the 2,000 others for testing.

    ``root``  as for :func:`load`.
    ``part``  "train" or "test".

    Differs from the data of Lin et al. (2019) in that it is made of the published test part, since
    that is what the files are, and has 16,000 pairs instead of 120,000.
    """
    pictures, labels = read(root)
    order = torch.randperm(len(pictures), generator=generator(SEED))
    own = dict(zip(PICTURES_OF, order.split(list(PICTURES_OF.values())), strict=True))[part]
    seed = SEED + 1 + list(PICTURES_OF).index(part)
    return overlaid(pictures[own], labels[own], PAIRS_OF[part], seed)


def overlaid(pictures: Tensor, labels: Tensor, pairs: int, seed: int = 0) -> NamedTasks:
    """Tasks "left" and "right" of pairs of pictures, one laid over the other.

    The first of a pair is at the upper left of a larger picture, the second at the lower right, 8
    pixels further on both axes. Where both have ink the brighter pixel is taken. Pictures are drawn
    in rounds, so that each is on each side as often as any other, or once more or less.

    ``pictures``  (n, 1, 28, 28) uint8; ``labels`` (n,) ids below 10.
    ``seed``      of the choice of pairs.
    """
    random = generator(seed)
    left, right = (_in_rounds(len(pictures), pairs, random) for _ in range(2))
    laid = torch.zeros(pairs, 1, ROOM, ROOM, dtype=torch.uint8)
    laid[:, :, :SIDE, :SIDE] = pictures[left]
    corner = laid[:, :, ROOM - SIDE :, ROOM - SIDE :]
    torch.maximum(corner, pictures[right], out=corner)
    spec = classification(len(GARMENTS))
    return domains({"left": (laid, labels[left], spec), "right": (laid, labels[right], spec)})


def read(root: str | Path | None) -> tuple[Tensor, Tensor]:
    """All pictures (10000, 1, 28, 28) uint8, and which garment each is, (10000,)."""
    pictures = _idx(read_verified(root, "fashion_mnist", "t10k-images-idx3-ubyte"), 3)
    labels = _idx(read_verified(root, "fashion_mnist", "t10k-labels-idx1-ubyte"), 1)
    return torch.from_numpy(pictures)[:, None], torch.from_numpy(labels).long()


def _idx(data: bytes, dimensions: int) -> np.ndarray:
    """The bytes of an IDX file: two zeros, the type 8 (bytes), the dimensions, their sizes."""
    start = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(data[4:start], dtype=">u4").tolist())
    if data[:4] != bytes((0, 0, 8, dimensions)) or len(data) - start != np.prod(shape):
        raise ArchiveError(
            f"fashion_mnist: must be an IDX file of bytes with {dimensions} dimensions; found "
            f"{data[:4].hex()} and {len(data):,} bytes. Get it again."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy()


def _in_rounds(n: int, draws: int, random: torch.Generator) -> Tensor:
    rounds = [torch.randperm(n, generator=random) for _ in range(-(-draws // n))]
    return torch.cat(rounds)[:draws]
