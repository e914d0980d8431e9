"""Stacked tasks of different sizes give the results of single tasks."""

from __future__ import annotations

import pytest
import torch
from contract_cases import (
    CLASSIFIER_CASES,
    CLASSIFIERS,
    VECTORS,
    classifier,
    of_pixels,
    of_vectors,
    source_for,
)
from torch import Tensor

import quickstudy as qs
from made_up import bright_places, planes, yes_or_no
from quickstudy.base.trees import concatenate, map_tree
from quickstudy.compute.engine import accumulate, as_outcome
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.contract.check import doubled
from quickstudy.core import Examples, Learner, Task
from quickstudy.objectives import objective_of, set_progress
from quickstudy.tasks.numbering import draw
from quickstudy.tasks.stacks import stack, unknown_value
from witness import as_step, flat


@pytest.mark.parametrize(("name", "norm"), CLASSIFIER_CASES)
def test_stacked_tasks_of_different_sizes_equal_single_tasks(name: str, norm: str) -> None:
    sizes = ((3, 1), (2, 2))
    tasks = [doubled(draw(source_for(name, *size), 0, i)) for i, size in enumerate(sizes)]
    compare_to_single(classifier(name, norm), tasks)


@pytest.mark.parametrize("name", VECTORS)
def test_stacked_regression_tasks_equal_single_tasks(name: str) -> None:
    tasks = [doubled(draw(planes(shots=n, queries=n + 1), 0, n)) for n in (2, 5, 3)]
    compare_to_single(of_vectors(name), tasks)


@pytest.mark.parametrize("name", ["maml", "probe, ridge", "in context"])
def test_stacked_tasks_with_unknown_targets_equal_single_tasks(name: str) -> None:
    for source in (lambda n: planes(2, True, n, n), lambda n: yes_or_no(2, n, n)):
        compare_to_single(of_vectors(name, 2), [doubled(draw(source(n), 0, n)) for n in (2, 4)])


def test_stacked_tasks_of_pixels_equal_single_tasks() -> None:
    compare_to_single(of_pixels(), [doubled(draw(bright_places(n, n), 0, n)) for n in (1, 2)])


def compare_to_single(learner: Learner, tasks: list[Task]) -> None:
    """Under the learner's own objective, as it is when training begins."""
    assert len({len(t.support.weights) for t in tasks}) > 1
    objective = objective_of(learner)
    set_progress(learner, objective, 0.0)
    losses, gradients = [], []
    for task in tasks:  # unpadded, under its own spec, without the engine
        learner.zero_grad()
        loss = as_outcome(objective(learner, task)).loss
        loss.backward()
        losses.append(loss.detach())
        gradients.append(gradient_of(learner))
    for mapping in [Mapping.LOOP, Mapping.VMAP_GRAD if learner.differentiates else Mapping.VMAP]:
        learner.zero_grad()
        step = as_step(learner, stack(tasks))
        outcome = accumulate(learner, step, objective, Plan(mapping, "", 2))
        torch.testing.assert_close(outcome.loss, torch.stack(losses), rtol=1e-9, atol=1e-9)
        mean = torch.stack(gradients).mean(0)
        assert (gradient_of(learner) - mean).norm() <= 1e-9 * mean.norm()


def gradient_of(learner: Learner) -> Tensor:
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters()])


def unlabelled(rows: Examples) -> Examples:
    unknown = map_tree(lambda leaf: torch.full_like(leaf, unknown_value(leaf)), rows.targets)
    return rows._replace(targets=unknown)


def absent(rows: Examples) -> Examples:
    return rows._replace(weights=torch.zeros_like(rows.weights))


def some(rows: Examples, start: int, stop: int) -> Examples:
    part: Examples = map_tree(lambda leaf: leaf[start:stop], rows)
    return part


def attends(learner: Learner) -> bool:
    return hasattr(learner, "attention")


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if attends(classifier(name))])
def test_attention_of_classifiers_is_shared_among_the_rows_present(name: str) -> None:
    task = doubled(draw(source_for(name), 0, 0))
    attention_is_shared_among_the_rows_present(classifier(name), task)


@pytest.mark.parametrize("name", [name for name in VECTORS if attends(of_vectors(name))])
def test_attention_of_regressors_is_shared_among_the_rows_present(name: str) -> None:
    task = doubled(draw(planes(), 0, 0))._replace(spec=qs.regression(missing=True))
    attention_is_shared_among_the_rows_present(of_vectors(name), task)


def attention_is_shared_among_the_rows_present(learner: Learner, task: Task) -> None:
    """Rows of weight 0 and rows without a label, also among the first and the last, get nothing."""
    one, two, three = (some(task.query, i, i + 1) for i in range(3))
    support = concatenate(absent(one), task.support, unlabelled(two), absent(three))
    with torch.no_grad():
        shares, alone = (
            learner.attention(learner.adapt(rows, task.spec), task.query.inputs)  # type: ignore[operator]
            for rows in (support, task.support)
        )
    assert shares.shape == (len(task.query.weights), len(support.weights))
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones_like(shares[:, 0]), rtol=0, atol=1e-9)
    assert (shares[:, [0, -2, -1]] == 0).all()
    torch.testing.assert_close(shares[:, 1:-2], alone, rtol=1e-9, atol=1e-9)


OWN_OBJECTIVES = [name for name in CLASSIFIERS if type(classifier(name)).objective is not None]


@pytest.mark.parametrize("name", [*OWN_OBJECTIVES, "prototypical", "maml", "snail"])
def test_query_rows_count_by_their_weights_in_the_objective(name: str) -> None:
    learner = classifier(name, "batch")  # its statistics include every row that is not absent
    task = doubled(draw(source_for(name), 0, 0))
    one = some(task.support, 0, 1)

    def found(*more: Examples) -> Tensor:
        query = concatenate(task.query, *more)
        outcome = as_outcome(objective_of(learner)(learner, task._replace(query=query)))
        return torch.stack([part.detach() for part in outcome]).nan_to_num()

    torch.testing.assert_close(found(absent(one)), found(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found(unlabelled(one)), found(), rtol=1e-9, atol=1e-9)
    # MANN and LSTM read queries as a sequence, and Reptile deals rows out to its inner batches.
    if not isinstance(learner, qs.MANN | qs.LSTM | qs.Reptile):
        twice = one._replace(weights=2 * one.weights)
        torch.testing.assert_close(found(twice), found(one, one), rtol=1e-9, atol=1e-9)


INEXACT = {
    "maml, 2 steps, first order": "leaves second derivatives out",
    "maml, differences": "approximates second derivatives",
    "maml, implicit": "differentiates the optimum, which two steps do not reach",
    "reptile": "its objective is a displacement, whose derivative it leaves out",
    "fine_tune, last layer by batches": "takes its steps as constants",
    "lstm_meta_learner": "takes the inner gradients as constants",
}


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name not in INEXACT])
def test_the_meta_gradient_equals_finite_differences(name: str) -> None:
    """The gradient includes every path from a parameter to the objective."""
    learner = classifier(name)
    task = doubled(draw(source_for(name), 0, 0))
    parameters = [p for p in learner.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]
    direction = [torch.randn_like(p) / p.numel() ** 0.5 for p in parameters]

    def loss(step: float) -> Tensor:
        with torch.no_grad():
            for p, at, along in zip(parameters, start, direction, strict=True):
                p.copy_(at + step * along)
        return as_outcome(objective_of(learner)(learner, task)).loss

    gradients = torch.autograd.grad(loss(0.0), parameters)
    found = sum(float((g * along).sum()) for g, along in zip(gradients, direction, strict=True))
    h = 1e-7  # so small that hardly any ReLU changes sign
    assert found == pytest.approx(float(loss(h).detach() - loss(-h).detach()) / (2 * h), rel=1e-4)
