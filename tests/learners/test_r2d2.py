"""R2D2: the Woodbury form and its gradients equal those of the direct solution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP
from quickstudy.learners.transfer.heads import ridge_weight


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def direct(x: Tensor, y: Tensor, w: Tensor, l2: Tensor) -> Tensor:
    """(X' D X + l2 I)^-1 X' D Y."""
    eye = torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.inv(x.mT @ torch.diag(w) @ x + l2 * eye) @ x.mT @ torch.diag(w) @ y


@pytest.mark.parametrize(("rows", "features"), [(4, 9), (9, 4)])
def test_weight_and_gradients_equal_those_of_the_direct_solution(rows: int, features: int) -> None:
    x, y = numbers(1, rows, features), numbers(2, rows, 3)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5] * 3, dtype=torch.float64)[:rows]
    inputs = [t.requires_grad_() for t in (x, y, weights, torch.tensor(0.3).double())]
    found, expected = ridge_weight(*inputs), direct(*inputs)
    torch.testing.assert_close(found, expected)
    upstream = numbers(3, features, 3)
    gradients = (torch.autograd.grad(weight, inputs, upstream) for weight in (found, expected))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_logits_equal_those_of_the_equations() -> None:
    torch.manual_seed(0)
    learner = qs.R2D2(MLP(4, (8, 8)), l2=0.7, scale=3.0).double()
    targets = torch.tensor([0, 2, 0, -1, 2])
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    rows = examples_of(numbers(1, 5, 4), targets, weights)
    queries = numbers(2, 6, 4)
    f, q = learner.backbone(rows.inputs), learner.backbone(queries)
    labels = torch.eye(3, dtype=torch.float64)[targets.clamp_min(0)]
    counted = torch.tensor([1.0, 2.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    weight = direct(f, labels, counted, torch.tensor(0.7))
    logits = learner(rows, qs.classification(3))(queries)
    torch.testing.assert_close(logits[:, [0, 2]], 3.0 * (q @ weight)[:, [0, 2]], rtol=1e-6, atol=0)
    assert torch.equal(logits.softmax(-1)[:, 1], torch.zeros(6, dtype=torch.float64))


def test_penalty_and_scale_are_learnt() -> None:
    torch.manual_seed(0)
    learner = qs.R2D2(MLP(4, (8, 8)))
    rows = qs.examples(numbers(1, 6, 4).float(), [0, 1, 2] * 2)
    before = learner(rows, qs.classification(3))(rows.inputs)
    with torch.no_grad():
        learner.log_l2 += 1
        learner.log_scale += 0.5
    after = learner(rows, qs.classification(3))(rows.inputs)
    changed = qs.R2D2(MLP(4, (8, 8)), l2=torch.e, scale=10 * torch.e**0.5)
    changed.backbone = learner.backbone
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, changed(rows, qs.classification(3))(rows.inputs))


@pytest.mark.parametrize("learner", [qs.R2D2, qs.MetaOptNet])
def test_the_weight_has_the_memory_layout_of_a_loaded_one(
    learner: type[qs.R2D2 | qs.MetaOptNet],
) -> None:
    """Rounding of products depends on layout, and a loaded predictor must be exact."""
    rows = qs.examples(numbers(1, 9, 4).float(), [0, 1, 2] * 3)
    state = learner(MLP(4, (8, 8))).adapt(rows, qs.classification(3))
    assert state["weight"].is_contiguous()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="l2 > 0 and scale > 0; found l2=0"):
        qs.R2D2(MLP(4), l2=0)
