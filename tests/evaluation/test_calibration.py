"""Calibration error against a computation by hand."""

from __future__ import annotations

import pytest
import torch

from quickstudy.evaluation.calibration import (
    calibration_error,
    error_at,
    fit_temperature,
    temperature_of,
)


def test_calibration_error_equals_a_hand_computed_value() -> None:
    # Bins of width 1/15: 0.61 and 0.65 share one (two rows, one right), 0.95 is alone (right).
    confidence = torch.tensor([0.61, 0.65, 0.95])
    right = torch.tensor([1.0, 0.0, 1.0])
    expected = (abs(0.61 + 0.65 - 1) + abs(0.95 - 1)) / 3
    assert calibration_error(confidence, right) == pytest.approx(expected, abs=1e-6)
    twice = torch.tensor([1.0, 1.0, 2.0])
    expected = (abs(0.61 + 0.65 - 1) + 2 * abs(0.95 - 1)) / 4
    assert calibration_error(confidence, right, twice) == pytest.approx(expected, abs=1e-6)
    assert calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])) == 0


def drawn(temperature: float, rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (rows, 5), and targets drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    probabilities = (logits / temperature).softmax(1)
    return logits, torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_targets_is_found(temperature: float) -> None:
    """4,000 rows; over ten seeds the largest error was 6%."""
    logits, targets = drawn(temperature, 4000, seed=0)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.15)


def test_the_loss_has_no_gradient_at_the_temperature() -> None:
    """d/dT of the mean of log sum_j exp(z_j / T) - z_y / T, by hand, is 0 there."""
    logits, targets = drawn(2.0, 500, seed=1)
    t = fit_temperature(logits, targets)
    mean = ((logits / t).softmax(1) * logits).sum(1)
    true = logits.gather(1, targets[:, None]).squeeze(1)
    assert float((true - mean).mean()) / t**2 == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("seed", range(10))
def test_a_temperature_never_raises_the_error_of_the_half_it_was_not_fitted_on(seed: int) -> None:
    """Also where there is nothing to gain: with the true temperature 1, it often stays at 1."""
    for true in (1.0, 2.5):
        pairs = [drawn(true, 20, 100 * seed + k) for k in range(20)]
        logits, targets = zip(*pairs, strict=True)
        found = temperature_of(logits, targets)
        held_out = torch.cat(logits[1::2]), torch.cat(targets[1::2])
        assert error_at(*held_out, found) <= error_at(*held_out)
        assert found == 1 or true == 1 or 1.5 < found < 4


def test_one_task_and_impossible_rows_leave_the_temperature_at_1() -> None:
    logits, targets = drawn(3.0, 50, seed=0)
    assert temperature_of([logits], [targets]) == 1
    absent = logits.clone()
    absent[torch.arange(50), targets] = -1e30
    assert fit_temperature(absent, targets) == 1
    with_one = torch.cat([logits, absent[:1]]), torch.cat([targets, targets[:1]])
    assert fit_temperature(*with_one) == pytest.approx(fit_temperature(logits, targets))


def test_tasks_of_several_ways_have_one_temperature() -> None:
    two = [drawn(2.0, 200, seed) for seed in range(2)]
    wide = [torch.cat([logits, torch.full((200, 2), -1e30)], 1) for logits, _ in two]
    targets = [each for _, each in two]
    mixed = [two[0][0], wide[1]]
    assert temperature_of(mixed, targets) == pytest.approx(temperature_of(wide, targets))
