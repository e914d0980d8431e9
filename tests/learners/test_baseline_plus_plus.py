"""Baseline++ equals PyTorch's weight normalisation under PyTorch's own gradient descent."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP

TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 2, -1])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(**options: object) -> qs.BaselinePlusPlus:
    torch.manual_seed(0)
    return qs.BaselinePlusPlus(nn.Linear(4, 6).double(), **options)  # type: ignore[arg-type]


def fitted_by_torch(learner: qs.BaselinePlusPlus, support: qs.Examples, ways: int) -> nn.Linear:
    """The paper's head: its published settings, by ``torch.optim`` and autograd."""
    features = F.normalize(learner.backbone(support.inputs).detach())
    head = nn.Linear(features.shape[1], ways, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(made(steps=1)._first(ways, features).mT)
    weight_norm(head, dim=0)
    optimiser = torch.optim.SGD(
        head.parameters(), learner.rate, momentum=0.9, dampening=0.9, weight_decay=learner.decay
    )
    known = support.targets >= 0
    for _ in range(learner.steps):
        optimiser.zero_grad()
        losses = F.cross_entropy(
            learner.scale * head(features)[known], support.targets[known], reduction="none"
        )
        weights = support.weights[known]
        ((weights * losses).sum() / weights.sum()).backward()
        optimiser.step()
    return head


@pytest.mark.parametrize(
    "options", [{"steps": 60}, {"rate": 0.3, "decay": 0.1, "scale": 7.0, "steps": 40}]
)
def test_logits_equal_those_of_torchs_head_and_optimiser(options: dict[str, float]) -> None:
    learner = made(**options)
    support = examples_of(numbers(1, 8, 4), TARGETS, WEIGHTS)
    queries = numbers(2, 5, 4)
    with torch.no_grad():
        found = learner(support, qs.classification(3))(queries)
    head = fitted_by_torch(learner, support, 3)
    expected = learner.scale * head(F.normalize(learner.backbone(queries)))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-8, atol=1e-10)


def test_a_classs_first_weights_depend_on_the_seed_and_not_on_the_other_classes() -> None:
    features = numbers(3, 2, 6)
    three, five = (made()._first(ways, features) for ways in (3, 5))
    assert torch.equal(three, five[:, :3])
    assert not torch.equal(three, made(seed=1)._first(3, features))
    assert 1 / 6**0.5 > float(five.abs().max()) > 0.3


def test_a_class_without_rows_gets_no_probability() -> None:
    support = examples_of(numbers(1, 3, 4), torch.tensor([0, 2, -1]), torch.ones(3).double())
    probabilities = made(steps=5)(support, qs.classification(3))(numbers(2, 5, 4)).softmax(-1)
    assert torch.equal(probabilities[:, 1], torch.zeros(5, dtype=torch.float64))


def test_directions_are_classified_whatever_their_length() -> None:
    learner = qs.BaselinePlusPlus(nn.Identity())
    angles = torch.tensor([0.1, 1.3, 2.5, 0.2, 1.4, 2.6])
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    support = qs.examples(rows, [0, 1, 2, 0, 1, 2])
    found = learner(support, qs.classification(3))(1000 * rows)
    assert found.argmax(-1).tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1; found 0"),
        ({"rate": 0.0}, "rate and scale must be positive.*rate=0"),
        ({"decay": -0.1}, r"decay at least 0; found .*decay=-0\.1"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**options)
    with pytest.raises(ValueError, match="ends in a head"):
        qs.BaselinePlusPlus(MLP(4, outputs=3))
