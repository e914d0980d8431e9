"""Task vectors: exact where tasks do not meet, and the same for all learners that move weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import clouds, examples_of
from quickstudy.backbones import MLP
from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.gradient.descend import Rate, Weights
from quickstudy.learners.transfer.starting_heads import zero_head
from quickstudy.learners.transfer.task_vectors import merged, remade, summed, task_vector
from quickstudy.tasks.numbering import draw


def identity_head(
    features: Tensor, support: Examples, spec: TaskSpec, l2: float
) -> tuple[Tensor, Tensor]:
    return torch.eye(2, dtype=features.dtype), features.new_zeros(2)


def body_alone(w: Weights, g: Weights, rate: Rate, memory: Any) -> tuple[Weights, Any]:
    assert isinstance(rate, dict)
    return {n: v if n.startswith("head") else v - rate[n] * g[n] for n, v in w.items()}, None


def test_the_sum_solves_tasks_that_do_not_meet_and_their_average_is_half_of_it() -> None:
    """Inputs of one task are zero where those of the other are not: their steps are apart."""
    torch.manual_seed(0)
    backbone = nn.Linear(4, 2, bias=False).double()
    learner = qs.FineTune(
        backbone, head=identity_head, steps=400, rate=0.3, update=body_alone
    ).eval()
    spec, wanted = qs.regression(2), torch.randn(4, 2).double()
    supports = []
    for part in (slice(0, 2), slice(2, 4)):
        x = torch.zeros(9, 4).double()
        x[:, part] = torch.randn(9, 2).double()
        supports.append(examples_of(x, x @ wanted))
    predictors = [learner(support, spec) for support in supports]
    vectors = [task_vector(predictor) for predictor in predictors]
    both = merged(learner, vectors, scale=1.0)
    torch.testing.assert_close(both.backbone.weight, wanted.T, rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]
    for predictor, support in zip(predictors, supports, strict=True):
        other = remade(predictor, vectors, scale=1.0)
        torch.testing.assert_close(other(support.inputs), support.targets, rtol=1e-6, atol=1e-6)
    average = merged(learner, vectors)
    torch.testing.assert_close(
        average.backbone.weight - backbone.weight, (both.backbone.weight - backbone.weight) / 2
    )
    assert not torch.equal(backbone.weight, both.backbone.weight)  # type: ignore[arg-type]


LEARNERS: dict[str, Any] = {
    "fine-tuning": lambda: qs.FineTune(MLP(4, (6, 5)), head=zero_head, steps=3, rate=0.05),
    "LoRA": lambda: qs.LoRA(MLP(4, (6, 5)), head=zero_head, steps=3, rate=0.05),
    "MAML": lambda: qs.MAML(MLP(4, (6, 5), outputs=3), 2, 0.1),
    "MAML of a part": lambda: qs.MAML(MLP(4, (6, 5), outputs=3), 2, 0.1, adapts="layers.2.*"),
    "Reptile": lambda: qs.Reptile(MLP(4, (6, 5), outputs=3), 2, 0.1, test_steps=2),
    "ProtoMAML": lambda: qs.ProtoMAML(MLP(4, (6, 5)), 2, 0.1),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_with_one_task_the_merged_learner_has_the_features_of_its_predictor(name: str) -> None:
    torch.manual_seed(0)
    learner, task = LEARNERS[name]().double().eval(), draw(clouds(shots=3), 0, 0)
    support = task.support._replace(inputs=task.support.inputs.double())
    predictor = learner(support, task.spec)
    vector = task_vector(predictor)
    assert vector
    assert not any("head" in each for each in vector)
    alone, x = merged(learner, [vector]), support.inputs
    body = nn.Sequential(alone.backbone.layers)
    assert not torch.allclose(body(x), learner.backbone.layers(x))
    torch.testing.assert_close(body(x), learner.embed(predictor.state, x))
    back = merged(alone, [vector], scale=-1.0)
    torch.testing.assert_close(back.backbone.layers(x), learner.backbone.layers(x))


def test_what_cannot_be_merged_is_refused() -> None:
    task = draw(clouds(shots=3), 0, 0)
    head = qs.FineTune(MLP(4), "head").eval()(task.support, task.spec)
    with pytest.raises(ValueError, match="moved nothing but a head"):
        task_vector(head)
    with pytest.raises(ValueError, match="moves no weights of a network"):
        task_vector(qs.Prototypical(MLP(4))(task.support, task.spec))
    learner = qs.FineTune(MLP(4, (6, 5)), steps=2).eval()
    vector = task_vector(learner(task.support, task.spec))
    with pytest.raises(ValueError, match="at least 1 task vector"):
        merged(learner, [])
    with pytest.raises(ValueError, match=r"only some have layers\.0\.weight"):
        summed([vector, {n: v for n, v in vector.items() if n != "layers.0.weight"}])
    with pytest.raises(ValueError, match="scale must be a finite number"):
        merged(learner, [vector], float("nan"))
    with pytest.raises(ValueError, match=r"has no layers\.2\.weight, layers\.0\.weight, layers"):
        merged(qs.FineTune(MLP(4, (7, 5))), [vector])
    maml = qs.MAML(MLP(4, (6, 5), outputs=3))
    with pytest.raises(ValueError, match="needs a predictor of FineTune; found one of MAML"):
        remade(maml(task.support, task.spec), [vector])
