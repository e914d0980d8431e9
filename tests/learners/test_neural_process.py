"""Neural processes equal loops over rows, outputs and heads, written from the equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP
from quickstudy.core import Task, TaskSpec
from quickstudy.learners.memory.neural_process import gaussian_likelihood

Process = qs.ConditionalNeuralProcess | qs.AttentiveConditionalNeuralProcess


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(kind: str) -> Process:
    torch.manual_seed(0)
    if kind == "conditional":
        return qs.ConditionalNeuralProcess(MLP(4, (6, 5)), size=8, floor=0.2).double()
    return qs.AttentiveConditionalNeuralProcess(MLP(4, (6, 5)), size=8, heads=2, floor=0.2).double()


WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0, 1.0], dtype=torch.float64)
CLASSES = torch.tensor([0, 2, 1, 2, 0, 1])
REALS = numbers(5, 6, 2)


def in_loops(
    learner: Process, support: qs.Examples, k: int, query: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of output ``k`` at one query."""
    f = learner.backbone(query[None])[0]
    total, read = 0.0, torch.zeros(8, dtype=torch.float64)
    for row, target, weight in zip(
        learner.backbone(support.inputs), support.targets, support.weights, strict=True
    ):
        real = support.targets.is_floating_point()
        count = weight if real or target == k else 0 * weight
        label = target[k : k + 1] if real else torch.ones(1, dtype=torch.float64)
        encoded = learner.encoder(torch.cat([row, label]))
        if isinstance(learner, qs.AttentiveConditionalNeuralProcess):
            products = (learner.place(f) * learner.place(row)).reshape(2, 4).sum(1)
            count = (count * (products / 2).exp()).repeat_interleave(4)  # (size,): heads of 4
        total, read = total + count, read + count * encoded
    read = read / total
    if isinstance(learner, qs.AttentiveConditionalNeuralProcess):
        read = learner.mix(read)
    mean, spread = learner.decoder(torch.cat([f, read]))
    return mean, 0.2 + 0.8 * (1 + spread.exp()).log()


@pytest.mark.parametrize("kind", ["conditional", "attentive"])
@pytest.mark.parametrize(
    ("targets", "spec"), [(CLASSES, qs.classification(3)), (REALS, qs.regression(2))]
)
def test_mean_and_deviation_equal_those_of_loops(
    kind: str, targets: Tensor, spec: TaskSpec
) -> None:
    learner, queries = made(kind), numbers(2, 3, 4)
    support = examples_of(numbers(1, 6, 4), targets, WEIGHTS)
    with torch.no_grad():
        predictor = learner(support, spec)
        means = predictor(queries)
        deviations = learner.uncertainty(predictor.state, queries)
        for i, query in enumerate(queries):
            for k in range(spec.outputs):
                mean, deviation = in_loops(learner, support, k, query)
                torch.testing.assert_close(means[i, k], mean, rtol=1e-10, atol=1e-12)
                torch.testing.assert_close(deviations[i, k], deviation, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["conditional", "attentive"])
def test_without_support_rows_the_prior_predicts(kind: str) -> None:
    """It is finite, and does not depend on absent rows."""
    learner, queries, answers = made(kind), numbers(2, 3, 4), []
    for seed in (1, 3):
        nothing = examples_of(numbers(seed, 6, 4), REALS, torch.zeros_like(WEIGHTS))
        answers.append(learner(nothing, qs.regression(2))(queries))
    assert answers[0].isfinite().all()
    assert torch.equal(answers[0], answers[1])


@pytest.mark.parametrize("kind", ["conditional", "attentive"])
def test_the_objective_equals_the_gaussian_likelihood(kind: str) -> None:
    learner = made(kind)
    support = examples_of(numbers(1, 6, 4), REALS, WEIGHTS)
    query = examples_of(numbers(2, 3, 4), numbers(6, 3, 2), torch.tensor([1.0, 0.0, 3.0]).double())
    query.targets[1] = torch.nan
    state = learner(support, qs.regression(2)).state
    mean, deviation = learner.distribution(state, query.inputs)
    surprise = -torch.distributions.Normal(mean, deviation).log_prob(query.targets.nan_to_num())
    expected = (surprise.mean(1)[0] + 3 * surprise.mean(1)[2]) / 4
    found = gaussian_likelihood(learner, Task(support, query, qs.regression(2))).loss
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_attention_over_present_rows_sums_to_one() -> None:
    learner = made("attentive")
    assert isinstance(learner, qs.AttentiveConditionalNeuralProcess)
    support = examples_of(numbers(1, 6, 4), REALS, WEIGHTS)
    share = learner.attention(learner(support, qs.regression(2)).state, numbers(2, 3, 4))
    torch.testing.assert_close(share.sum(-1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(share[:, 4], torch.zeros(3, dtype=torch.float64))
