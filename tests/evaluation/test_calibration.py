"""Calibration error against a computation by hand."""

from __future__ import annotations

import pytest
import torch

from quickstudy.evaluation.calibration import calibration_error


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
