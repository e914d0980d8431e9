"""EarlyStopping equals steps written out, and stops where the held-out rows are predicted best."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.core import Examples, Task
from quickstudy.learners.gradient.descend import sgd
from quickstudy.learners.transfer.early_stopping import multitask_loss, parted

N, RATE, STEPS = 10, 0.05, 12
SPEC = qs.regression()


class Line(nn.Module):
    """x -> x w, whose gradient is 2 mean((x w - y) x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.full((1, 1), 0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


def rows(noise: float = 1.0) -> Examples:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, 1, generator=generator, dtype=torch.float64)
    y = 2 * x + noise * torch.randn(N, 1, generator=generator, dtype=torch.float64)
    return Examples(x, y, torch.ones(N, dtype=torch.float64), torch.zeros(N).long())


def stopping(**options: object) -> qs.EarlyStopping:
    settings = {"steps": STEPS, "rate": RATE, "batch": 3, "held_out": 0.3, "every": 2}
    return qs.EarlyStopping(Line(), update=sgd, clip=None, **(settings | options))


def by_hand(support: Examples, held: list[int], every: int, patience: int) -> tuple[float, int]:
    """The weight and the number of steps, from the equations in the docstring, in floats."""
    xs, ys = (t.flatten().tolist() for t in support[:2])
    fitted = [i for i in range(N) if i not in held]
    w, best, least, stopped, since = 0.5, 0.5, math.inf, 0, 0
    for k in range(STEPS + 1):
        if k % every == 0:
            loss = sum((xs[i] * w - ys[i]) ** 2 for i in held) / len(held)
            since = 0 if loss < least else since + 1
            if loss < least:
                best, least, stopped = w, loss, k
            if since == patience:
                break
        begin = int(math.fmod(0.5 + k * (math.sqrt(5) - 1) / 2, 1) * len(fitted))
        batch = [fitted[(begin + j) % len(fitted)] for j in range(3)]
        w -= RATE * sum(2 * (xs[i] * w - ys[i]) * xs[i] for i in batch) / 3
    return best, stopped


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("patience", [1, 5])
def test_weights_and_number_of_steps_equal_the_steps_by_hand(every: int, patience: int) -> None:
    support = rows()
    learner = stopping(every=every, patience=patience)
    held = parted(support, SPEC, 0.3).is_held.nonzero().flatten().tolist()
    assert held == [3, 6, 9]  # three of ten, evenly
    state = learner.adapt(support, SPEC)
    expected, stopped = by_hand(support, held, every, patience)
    assert float(state["weights"]["w"]) == pytest.approx(expected, abs=1e-12)
    assert int(state["stopped"]) == stopped


def test_it_stays_where_it_is_if_steps_only_harm_the_held_out_rows() -> None:
    """Held-out rows lie on the line that the network knows, all others on another."""
    support = rows(noise=0.0)
    held = parted(support, SPEC, 0.3).is_held
    targets = torch.where(held[:, None], 0.5, -3.0) * support.inputs
    state = stopping().adapt(support._replace(targets=targets), SPEC)
    assert int(state["stopped"]) == 0
    assert float(state["weights"]["w"]) == 0.5


def test_without_held_out_rows_it_takes_all_steps() -> None:
    state = stopping(held_out=0.0).adapt(rows(noise=0.0), SPEC)
    assert int(state["stopped"]) == STEPS


def test_no_class_loses_its_only_row() -> None:
    targets = torch.tensor([0, 1, 2, 2, 2, 0])
    given = Examples(torch.zeros(6, 1), targets, torch.ones(6), torch.zeros(6).long())
    split = parted(given, qs.classification(3), 0.9)
    assert split.is_held.sum() == 3
    assert set(targets[~split.is_held].tolist()) == {0, 1, 2}


def test_rows_of_a_batch_are_about_equally_long() -> None:
    lengths = torch.tensor([5, 1, 4, 2, 3, 1])
    targets = torch.where(torch.arange(5) < lengths[:, None], 1, -1)
    given = Examples(torch.zeros(6, 1), targets, torch.ones(6), torch.zeros(6).long())
    split = parted(given, qs.tokens(3), 0.0)
    assert lengths[split.order].tolist() == sorted(lengths.tolist())


def test_its_own_objective_is_the_loss_of_all_rows_before_any_step() -> None:
    given = rows()
    task = Task(given, given, SPEC)
    loss = multitask_loss(stopping(), task)
    expected = (given.inputs * 0.5 - given.targets).square().mean()
    assert float(loss) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"held_out": 1.0}, "below 1; found 1.0"), ({"patience": 0}, "at least 1; found 0"),
     ({"steps": 0}, "steps must be at least 1")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qs.EarlyStopping(MLP(2, outputs=1), **options)
