from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from report_samples import NearestMeanPixels, evaluation_of, training_log, views_of

from quickstudy.evaluation.results import Evaluation
from quickstudy.reports.view_types import EpisodeView
from quickstudy.tasks.episodes import episodes
from quickstudy.tasks.rows import LabelledRows


@pytest.fixture
def squares() -> LabelledRows:
    """Twelve classes of images with a square at a different place each."""
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 90, (12, 20, 1, 28, 28), generator=noise, dtype=torch.uint8)
    for way in range(12):
        top, left = 7 * (way // 4) + 2, 6 * (way % 4) + 2
        images[way, :, :, top : top + 8, left : left + 8] += 14
    return LabelledRows(
        images.flatten(0, 1), torch.full((12,), 20), tuple(f"square {k}" for k in range(12))
    )


@pytest.fixture
def square_views(squares: LabelledRows) -> list[EpisodeView]:
    return views_of(episodes(squares, 5, 1, 15), NearestMeanPixels(30.0), 4)


@pytest.fixture
def make_evaluation() -> Callable[..., Evaluation]:
    return evaluation_of


@pytest.fixture
def metrics() -> list[dict[str, float]]:
    return training_log()
