"""MeanRegularised equals the joint problem solved from scratch as one large linear system."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import examples_of, planes, yes_or_no
from quickstudy.backbones import MLP, Features
from quickstudy.contract.check import doubled
from quickstudy.testing import check_learner

D = 4
SIZES = {"many": 30, "some": 9, "few": 3, "one": 1}


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def named(outputs: int = 1, unknown: bool = False) -> dict[str, qs.Examples]:
    """Tasks of unequal sizes and row weights, around a common weight; some with fewer rows than
    features."""
    common, tasks = numbers(1, D, outputs), {}
    for seed, (name, n) in enumerate(SIZES.items(), 10):
        x = numbers(seed, n, D) + 1
        y = x @ (common + 0.5 * numbers(seed + 100, D, outputs)) + seed + numbers(seed + 200, n, 1)
        if unknown:
            hidden = numbers(seed + 300, n, outputs) > 0.8
            hidden[0] = False
            y = y.masked_fill(hidden, torch.nan)
        weights = torch.tensor([1.0, 2.0, 0.5] * n, dtype=torch.float64)[:n]
        tasks[name] = examples_of(x, y, weights)
    return tasks


def jointly(
    tasks: dict[str, qs.Examples], column: int, l2: float, l2_offset: float | None, l2_shared: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(w0, b0) and each (w_t, b_t) by least squares over all unknowns of all tasks at once.

    Unknowns: w0 (d), b0 (1), and for each task v_t (d) and c_t (1). A penalty is one more row of
    the system. Without l2_offset there is no b0, and c_t has no penalty.
    """
    p = D + 1
    unit = np.eye(p * (len(tasks) + 1)).reshape(len(tasks) + 1, p, -1)
    shared = unit[0] if l2_offset is not None else unit[0] * (np.arange(p) < D)[:, None]
    system, right = [math.sqrt(l2_shared) * shared[:D]], [np.zeros(D)]
    penalties = np.sqrt([*[l2] * D, l2_offset or 0.0])
    for own, task in zip(unit[1:], tasks.values(), strict=True):
        known = ~task.targets[:, column].isnan()
        x, y = task.inputs[known].numpy(), task.targets[known, column].numpy()
        root = task.weights[known].sqrt().numpy()
        with_ones = np.hstack([x, np.ones((len(x), 1))])
        system += [root[:, None] * (with_ones @ (shared + own)), penalties[:, None] * own]
        right += [root * y, np.zeros(p)]
    found = np.linalg.lstsq(np.vstack(system), np.concatenate(right), rcond=None)[0].reshape(-1, p)
    return found[0], {name: found[0] + own for name, own in zip(tasks, found[1:], strict=True)}


@pytest.mark.parametrize("l2_shared", [0.0, 0.7])
@pytest.mark.parametrize("l2_offset", [None, 3.0])
@pytest.mark.parametrize("unknown", [False, True])
def test_learning_and_adapting_give_the_joint_optimum(
    unknown: bool, l2_offset: float | None, l2_shared: float
) -> None:
    tasks, spec = named(2, unknown), qs.regression(2, missing=unknown)
    learner = qs.MeanRegularised(Features(D), outputs=2, l2_offset=l2_offset and 1.0).double()
    learner.learn_from(tasks, spec, l2=2.0, l2_offset=l2_offset, l2_shared=l2_shared)
    for column in range(2):
        shared, each = jointly(tasks, column, 2.0, l2_offset, l2_shared)
        np.testing.assert_allclose(learner.weight[:, column].detach(), shared[:D], rtol=1e-8)
        if learner.offset is not None:
            np.testing.assert_allclose(learner.offset[column].detach(), shared[D], rtol=1e-8)
        for name, rows in tasks.items():
            state = learner(rows, spec).state
            found = torch.cat([state["weight"], state["offset"].unsqueeze(0)])[:, column]
            np.testing.assert_allclose(found.detach(), each[name], rtol=1e-7, atol=1e-9)


def test_a_new_task_is_pulled_to_the_shared_weight() -> None:
    """The normal equations of the task alone, with w0 given."""
    learner = qs.MeanRegularised(Features(D), l2=2.0).double().learn_from(named(), qs.regression())
    new = examples_of(numbers(7, 3, D), numbers(8, 3, 1))
    w0 = learner.weight.detach().numpy()
    x, y = new.inputs.numpy(), new.targets.numpy()
    xc, yc = x - x.mean(0), y - y.mean(0)
    expected = w0 + np.linalg.solve(xc.T @ xc + 2 * np.eye(D), xc.T @ (yc - xc @ w0))
    state = learner(new, qs.regression()).state
    np.testing.assert_allclose(state["weight"].detach(), expected, rtol=1e-8)
    offset = y.mean(0) - x.mean(0) @ expected
    np.testing.assert_allclose(state["offset"].detach(), offset, rtol=1e-8)


def test_a_small_penalty_fits_alone_and_a_large_one_shares_one_weight() -> None:
    tasks = named()
    apart = qs.MeanRegularised(Features(D)).double().learn_from(tasks, qs.regression(), l2=1e-9)
    alone = qs.LinearProbe(Features(D), l2=1e-9).double()
    queries = numbers(9, 5, D)
    found, expected = (m(tasks["many"], qs.regression())(queries) for m in (apart, alone))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    pooled = qs.MeanRegularised(Features(D), l2_offset=1.0).double()
    pooled.learn_from(tasks, qs.regression(), l2=1e9, l2_offset=1e9)
    every = examples_of(*(torch.cat([getattr(t, part) for t in tasks.values()])
                          for part in ("inputs", "targets", "weights")))  # fmt: skip
    together = qs.LinearProbe(Features(D), l2=1e-9).double()(every, qs.regression())(queries)
    for rows in tasks.values():
        found = pooled(rows, qs.regression())(queries)
        torch.testing.assert_close(found, together, rtol=1e-5, atol=1e-5)


def test_shares_one_weight_in_single_precision_too() -> None:
    """Learning is in float64 and adapting is fitted to what w0 leaves, so little is lost."""
    tasks = named()
    exact = qs.MeanRegularised(Features(D), l2=2.0).double().learn_from(tasks, qs.regression())
    rough = qs.MeanRegularised(Features(D), l2=2.0).learn_from(tasks, qs.regression())
    for rows in tasks.values():
        found, expected = (m(rows, qs.regression())(rows.inputs) for m in (rough, exact))
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("l2_offset", [None, (0.1, 10.0)])
def test_the_penalties_chosen_predict_left_out_rows_best(
    l2_offset: tuple[float, ...] | None,
) -> None:
    """Every fold is left out, learnt from and adapted to by the learner's own methods."""
    tasks = {name: rows for name, rows in named().items() if name != "one"}
    pulls = (0.01, 1.0, 3.0, 300.0)
    learner = qs.MeanRegularised(Features(D), l2_offset=l2_offset and 1.0).double()
    learner.learn_from(tasks, qs.regression(), l2=pulls, l2_offset=l2_offset, folds=3, seed=5)
    generator = torch.Generator().manual_seed(5)
    folds = {n: torch.randperm(len(t.weights), generator=generator) % 3 for n, t in tasks.items()}
    errors = {}
    for setting in [(a, b) for a in pulls for b in l2_offset or (None,)]:
        error = 0.0
        for fold in range(3):
            rest = {n: t._replace(weights=t.weights * (folds[n] != fold)) for n, t in tasks.items()}
            each = copy.deepcopy(learner)
            each.learn_from(rest, qs.regression(), l2=setting[0], l2_offset=setting[1])
            for n, t in tasks.items():
                wrong = each(rest[n], qs.regression())(t.inputs).detach() - t.targets
                error += float((t.weights * (folds[n] == fold) * wrong[:, 0] ** 2).sum())
        errors[setting] = error
    best = min(errors, key=errors.__getitem__)
    assert len(set(errors.values())) == len(errors)
    assert math.isclose(learner.log_l2.detach().exp(), best[0], rel_tol=1e-9)
    if learner.log_l2_offset is not None and best[1] is not None:
        assert math.isclose(learner.log_l2_offset.detach().exp(), best[1], rel_tol=1e-9)


@pytest.mark.parametrize("source", [planes(2, missing=True), yes_or_no(2)])
def test_the_contract_holds_after_learning(source: qs.TaskSource) -> None:
    learner = qs.MeanRegularised(MLP(4, (6, 6)), outputs=2, l2_offset=2.0).double().eval()
    tasks = [source(torch.Generator().manual_seed(seed)) for seed in range(4)]
    rows = {str(number): doubled(task).support for number, task in enumerate(tasks)}
    check_learner(learner.learn_from(rows, tasks[0].spec), source)


def test_classes_share_a_weight_and_what_was_learnt_is_saved(tmp_path: Path) -> None:
    """Domains with the same two classes; a new one with one row of each is adapted."""
    direction = numbers(1, D)

    def domain(seed: int, n: int) -> qs.Examples:
        x = numbers(seed, n, D).float()
        along = x.double() @ direction + 0.3 * (x.double() @ numbers(seed + 50, D))
        return qs.examples(x, (along > 0).long())

    tasks = {str(seed): domain(seed, 60) for seed in range(5)}
    spec = qs.classification(2)
    learner = qs.MeanRegularised(Features(D), outputs=2).learn_from(tasks, spec, l2=[1.0, 100.0])
    new, rest = domain(99, 2), domain(99, 400)
    new = new._replace(
        targets=torch.tensor([0, 1]), inputs=rest.inputs[rest.targets.argsort()[[0, -1]]]
    )
    predictor = learner(new, spec)
    assert (predictor(rest.inputs).argmax(-1) == rest.targets).double().mean() > 0.85
    loaded = qs.load(qs.save(predictor, tmp_path / "new.safetensors"))
    assert torch.equal(loaded(rest.inputs), predictor(rest.inputs))
    assert torch.equal(loaded.learner.log_l2, learner.log_l2)


def test_training_by_gradients_learns_the_shared_weight() -> None:
    """Of tasks with 2 rows each, which alone say little about 4 numbers."""
    common = numbers(1, D, 1).float()

    def source(generator: torch.Generator) -> qs.Task:
        x = torch.randn(12, D, generator=generator)
        y = x @ (common + 0.1 * torch.randn(D, 1, generator=generator))
        return qs.Task(qs.examples(x[:2], y[:2]), qs.examples(x[2:], y[2:]), qs.regression())

    learner = qs.MeanRegularised(Features(D))
    before = qs.evaluate(learner, source, tasks=20, baselines=False).mean
    qs.fit(learner, source, 60, 8, optimiser=qs.optimisers.adam(0.05), progress=False)
    assert qs.evaluate(learner, source, tasks=20, baselines=False).mean < 0.3 * before
    assert torch.cosine_similarity(learner.weight[:, 0], common[:, 0], dim=0) > 0.95


def test_wrong_calls_are_refused() -> None:
    tasks, spec = named(), qs.regression()
    learner = qs.MeanRegularised(Features(D)).double()
    with pytest.raises(ValueError, match="must be positive; found l2=0"):
        qs.MeanRegularised(Features(D), l2=0)
    with pytest.raises(ValueError, match="does not declare it"):
        qs.MeanRegularised(torch.nn.Identity())
    with pytest.raises(ValueError, match="at least one task; found none"):
        learner.learn_from({}, spec)
    with pytest.raises(ValueError, match="needs the spec of each task; found none"):
        learner.learn_from(tasks)
    with pytest.raises(ValueError, match="found none for 'few', but of many"):
        learner.learn_from(tasks, {"many": spec, "some": spec})
    with pytest.raises(ValueError, match=r"l2_offset=2.0 needs offsets with a penalty"):
        learner.learn_from(tasks, spec, l2_offset=2.0)
    with pytest.raises(ValueError, match="needs l2 > 0"):
        learner.learn_from(tasks, spec, l2=[1.0, -1.0])
    with pytest.raises(ValueError, match="at least 2 folds; found 1"):
        learner.learn_from(tasks, spec, l2=[1.0, 2.0], folds=1)
    with pytest.raises(ValueError, match="2 outputs, but the learner has 1"):
        learner.learn_from(named(2), qs.regression(2))
    with pytest.raises(ValueError, match="task 'many': support: regression needs real targets"):
        learner.learn_from(named(2), spec)
    unlabelled = tasks | {"empty": tasks["few"]._replace(weights=torch.zeros(3))}
    with pytest.raises(ValueError, match="rows with known targets; found none in empty"):
        learner.learn_from(unlabelled, spec)
    with pytest.raises(ValueError, match="same features; found 4 in 'many' and 5 in 'wide'"):
        learner.learn_from(tasks | {"wide": examples_of(numbers(1, 6, 5), numbers(2, 6, 1))}, spec)
    with pytest.warns(UserWarning, match="found one task, 'few', so nothing is shared"):
        learner.learn_from({"few": tasks["few"]}, spec)


def test_a_penalty_of_one_on_offsets_is_one():
    """Its logarithm is 0. Against the normal equations of a ridge with a constant column."""
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double()
    y = (x @ torch.tensor([[1.0], [-2.0]]).double()) + 3.0
    learner = qs.MeanRegularised(qs.backbones.Features(2), l2=1.0, l2_offset=1.0).double()
    support = qs.examples(x, y)._replace(inputs=x, targets=y, weights=torch.ones(8).double())
    state = learner.adapt(support, qs.regression())
    ones = torch.cat([x, torch.ones(8, 1).double()], 1)
    expected = torch.linalg.solve(ones.T @ ones + torch.eye(3).double(), ones.T @ y)
    torch.testing.assert_close(torch.cat([state["weight"], state["offset"][None]]), expected)
