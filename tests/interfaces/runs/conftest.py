from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quickstudy.interfaces.runs.recipe import Recipe


@pytest.fixture(scope="session")
def points(tmp_path_factory) -> Path:
    """Twelve classes of points in the plane: 8 to train on, 2 to validate, 2 to test."""
    path = tmp_path_factory.mktemp("points") / "points.npz"
    y = np.repeat(np.arange(12), 10)
    noise = np.random.default_rng(0).normal(size=(len(y), 2))
    np.savez(path, X=(noise + 4 * y[:, None]).astype(np.float32), y=y)
    return path


@pytest.fixture
def short(points) -> Recipe:
    """A run of two seconds."""
    return Recipe(data="arrays", root=str(points), backbone="mlp", ways=2, queries=3,
                  train_queries=3, steps=4, test_tasks=5, device="cpu")  # fmt: skip
