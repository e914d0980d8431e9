"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import quickstudy as qs

torch.set_num_threads(1)  # the tests run in two processes already


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data: $QUICKSTUDY_DATA, or ``../shared/data`` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("QUICKSTUDY_DATA", beside))
    if not (root / "omniglot").is_dir():
        pytest.skip(f"real data is not here: {root} has no omniglot folder; set QUICKSTUDY_DATA")
    return root


def random_classes(classes: int = 8, rows: int = 10, side: int = 16) -> qs.Classes:
    """Noisy pictures around one random picture per class: learnable, and made in no time."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(classes, 1, 1, side, side, generator=generator)
    noise = torch.rand(classes, rows, 1, side, side, generator=generator)
    pixels = ((0.6 * centres + 0.4 * noise) * 255).to(torch.uint8).flatten(0, 1)
    names = tuple(f"class {i}" for i in range(classes))
    return qs.Classes(pixels, torch.full((classes,), rows), names)


@pytest.fixture
def classes() -> qs.Classes:
    return random_classes()
