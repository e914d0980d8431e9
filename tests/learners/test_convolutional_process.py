"""The convolutional conditional neural process equals sums over rows and grid points."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP, Features
from quickstudy.core import Task
from quickstudy.learners.memory.convolutional_process import EMPTY
from quickstudy.learners.memory.neural_process import gaussian_likelihood

GRID = 6
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64)


def made(floor: float = 0.2) -> qs.ConvolutionalConditionalNeuralProcess:
    torch.manual_seed(0)
    return qs.ConvolutionalConditionalNeuralProcess(
        Features(2), grid=GRID, channels=4, blocks=1, floor=floor
    ).double()


def rows(seed: int, n: int, outputs: int = 2) -> qs.Examples:
    generator = torch.Generator().manual_seed(seed)
    where = 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1
    values = torch.randn(n, outputs, generator=generator, dtype=torch.float64)
    return examples_of(where, values, WEIGHTS[:n])


def in_loops(
    learner: qs.ConvolutionalConditionalNeuralProcess, support: qs.Examples, k: int, query: Tensor
) -> tuple[float, float]:
    """Mean and deviation of output ``k`` at one place."""
    points = [(2 * i + 1) / GRID - 1 for i in range(GRID)]
    lengths = [float(each) for each in learner.log_lengths.detach().exp()]

    def near(a: float, b: float, place: Tensor, length: float) -> float:
        return math.exp(
            -((a - float(place[0])) ** 2 + (b - float(place[1])) ** 2) / (2 * length**2)
        )

    grid = torch.zeros(2, GRID, GRID, dtype=torch.float64)
    for i, a in enumerate(points):
        for j, b in enumerate(points):
            density = signal = 0.0
            for place, value, weight in zip(*support[:3], strict=True):
                share = float(weight) * near(a, b, place, lengths[0])
                density, signal = density + share, signal + share * float(value[k])
            grid[0, i, j], grid[1, i, j] = density, signal / (density + EMPTY)
    hidden = F.conv2d(grid[None], learner.first.weight, learner.first.bias, padding=1)
    _, one, _, two = learner.residual[0]
    inner = F.conv2d(hidden.clamp_min(0), one.weight, one.bias, padding=1)
    hidden = hidden + F.conv2d(inner.clamp_min(0), two.weight, two.bias, padding=1)
    maps = F.conv2d(hidden.clamp_min(0), learner.last.weight, learner.last.bias)[0]
    read = [0.0, 0.0]
    for i, a in enumerate(points):
        for j, b in enumerate(points):
            share = near(a, b, query, lengths[1])
            read = [read[c] + share * float(maps[c, i, j]) for c in range(2)]
    return read[0], learner.floor + (1 - learner.floor) * math.log1p(math.exp(read[1]))


def test_predictions_are_sums_over_rows_and_grid_points() -> None:
    learner, support, query = made(), rows(1, 4), rows(2, 3).inputs
    predictor = learner(support, qs.regression(2))
    means = predictor(query)
    deviations = learner.uncertainty(predictor.state, query)
    for k in range(2):
        for row in range(3):
            mean, deviation = in_loops(learner, support, k, query[row])
            assert float(means[row, k]) == pytest.approx(mean, abs=1e-10)
            assert float(deviations[row, k]) == pytest.approx(deviation, abs=1e-10)


def test_support_and_queries_moved_by_a_cell_give_the_same_predictions() -> None:
    torch.manual_seed(0)
    learner = qs.ConvolutionalConditionalNeuralProcess(
        Features(2), grid=24, channels=4, blocks=1
    ).double()
    support, query = rows(1, 4, 1), rows(2, 3, 1).inputs / 4
    support = support._replace(inputs=support.inputs / 4)  # far from the border
    moved = support._replace(inputs=support.inputs + 2 * 2 / 24)
    spec = qs.regression()
    here, there = learner(support, spec)(query), learner(moved, spec)(query + 2 * 2 / 24)
    torch.testing.assert_close(here, there, atol=1e-6, rtol=0)


def test_its_objective_is_the_gaussian_likelihood() -> None:
    learner, support, query = made(), rows(1, 4), rows(2, 3)
    outcome = gaussian_likelihood(learner, Task(support, query, qs.regression(2)))
    state = learner(support, qs.regression(2)).state
    mean, deviation = learner.distribution(state, query.inputs)
    negative = -torch.distributions.Normal(mean, deviation).log_prob(query.targets).mean(1)
    expected = (negative * query.weights).sum() / query.weights.sum()
    assert float(outcome.loss) == pytest.approx(float(expected), rel=1e-12)


def test_far_from_all_rows_and_points_the_mean_is_zero() -> None:
    predictor = made()(rows(1, 4), qs.regression(2))
    far = torch.full((1, 2), 30.0, dtype=torch.float64)
    assert torch.equal(predictor(far), torch.zeros(1, 2, dtype=torch.float64))


def test_other_features_are_mapped_to_the_plane() -> None:
    torch.manual_seed(0)
    whole = qs.ConvolutionalConditionalNeuralProcess(MLP(2, (3,)), GRID, 4, 1).double()
    plain = made(whole.floor)
    own = {k: v for k, v in whole.state_dict().items() if not k.startswith(("plane", "backbone"))}
    plain.load_state_dict(own)
    support, query = rows(1, 4), rows(2, 3).inputs
    spec = qs.regression(2)

    def placed(inputs: Tensor) -> Tensor:
        return whole.plane(whole.backbone(inputs))

    expected = plain(support._replace(inputs=placed(support.inputs)), spec)(placed(query))
    torch.testing.assert_close(whole(support, spec)(query), expected)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="grid must be at least 1"):
        qs.ConvolutionalConditionalNeuralProcess(Features(2), grid=0)
    with pytest.raises(ValueError, match="floor must lie between"):
        qs.ConvolutionalConditionalNeuralProcess(Features(2), floor=1.0)
