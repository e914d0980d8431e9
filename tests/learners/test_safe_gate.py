"""The gate's errors equal a cross-validation written out; it chooses, and says where it cannot."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

import quickstudy as qs
from quickstudy.answers import Reals
from quickstudy.contract.check import applicable, check_laws, doubled
from quickstudy.core import Learner, State, Task
from quickstudy.learners.domains.left_out_errors import FLOOR, calibrated_losses
from quickstudy.learners.domains.safe_gate import _first_good_enough
from quickstudy.learners.domains.target_folds import NOWHERE, fewest_rows, target_folds
from quickstudy.tasks.numbering import draw

SPEC = qs.classification(2)


def moved(flipped: bool, seed: int = 0, labelled: int = 5, shift: float = 1.0) -> Task:
    """A target of two classes on a line, and a source like it or with the labels flipped."""
    generator = torch.Generator().manual_seed(seed)

    def rows(n: int) -> qs.Examples:
        y = torch.arange(n) % 2
        x = torch.randn(n, 2, generator=generator)
        x[:, 0] += 2 * shift * y
        return qs.examples(x, y)

    source, target = rows(60), rows(200)
    if flipped:
        source = source._replace(targets=1 - source.targets)
    tasks = qs.tasks.transfer(source, target, SPEC, labelled=labelled, unlabelled=4)
    return draw(tasks, seed, 0)


def gate(**options: float) -> qs.SafeGate:
    return qs.SafeGate([qs.LinearProbe(torch.nn.Identity())], **options)  # type: ignore[arg-type]


def test_the_errors_are_those_of_a_cross_validation_written_out() -> None:
    """Ridge heads in numpy, each fold left out; log losses at the best factor by scipy's search."""
    task = doubled(moved(False))
    learner = gate(repeats=1)
    state = learner(task.support, SPEC).state
    x, y, groups = (
        part.numpy() for part in (task.support.inputs, task.support.targets, task.support.groups)
    )
    division = target_folds(task.support, SPEC.answer, 10, 1)[0].numpy()
    places = np.flatnonzero((groups == 0) & (y >= 0))

    def head(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        rows = rows[y[rows] >= 0]
        f, t = x[rows], np.eye(2)[y[rows]]
        mean, offset = f.mean(0), t.mean(0)
        w = np.linalg.solve((f - mean).T @ (f - mean) + np.eye(2), (f - mean).T @ (t - offset))
        return 10 * ((x[at] - mean) @ w + offset)

    def loss(logits: np.ndarray) -> float:
        def at(log_factor: float) -> float:
            z = np.exp(log_factor) * logits
            p = np.exp(z - z.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            return -np.log((1 - FLOOR) * p[np.arange(len(p)), y[places]] + FLOOR / 2).mean()

        return min(minimize_scalar(at, (start, start + 1)).fun for start in (-6, -3, 0))

    expected = []
    for given in (groups == 0, groups != 0, np.ones(len(y), bool)):
        logits = np.stack([
            head(np.flatnonzero(given & (division != division[i])), np.array([i]))[0]
            for i in places
        ])  # fmt: skip
        expected.append(loss(logits))
    # The gate tries factors that are sqrt(2) apart, so that its losses are slightly larger.
    assert state["errors"].numpy() == pytest.approx(expected, rel=0.01)
    assert (state["errors"].numpy() >= np.array(expected) - 1e-9).all()
    assert state["errors"].dtype == torch.float64


def test_calibrated_losses_do_not_depend_on_the_size_of_logits_nor_punish_small_ones() -> None:
    logits, y = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.5, 0.0]]), torch.tensor([1, 1, 1])
    once, large = (calibrated_losses(s * logits, y, torch.ones(3)) for s in (1.0, 1000.0))
    assert torch.allclose(once, large)
    right = calibrated_losses(1e-9 * torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 0]),
                              torch.ones(2))  # fmt: skip
    assert float(right.max()) < 0.01
    wrong = calibrated_losses(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 1]),
                              torch.ones(2))  # fmt: skip
    assert 0.69 < float(wrong.mean()) < 0.70  # as much as no logits: log 2
    absent = calibrated_losses(torch.tensor([[-1e30, 0.0], [-1e30, 0.0]]), torch.tensor([0, 1]),
                               torch.ones(2))  # fmt: skip
    assert float(absent[0]) == pytest.approx(-np.log(FLOOR / 2), rel=1e-4)
    assert float(absent[1]) < 0.01


def test_a_flipped_source_is_refused_and_a_good_one_is_used() -> None:
    """In ten of ten draws, with 5 labels a class; a good source of 60 rows is used in most."""
    refused = [gate().choice(gate()(moved(True, s).support, SPEC).state) for s in range(10)]
    assert refused == ["target only"] * 10
    used = [gate().choice(gate()(moved(False, s, 2).support, SPEC).state) for s in range(10)]
    assert sum(name != "target only" for name in used) >= 5


def test_it_predicts_what_its_choice_predicts() -> None:
    task = moved(True)
    predictor = gate()(task.support, SPEC)
    target = task.support.groups == 0
    alone = task.support._replace(
        **{name: getattr(task.support, name)[target] for name in task.support._fields}
    )
    expected = qs.LinearProbe(torch.nn.Identity())(alone, SPEC)(task.query.inputs)
    assert torch.equal(predictor(task.query.inputs), expected)
    assert bool(predictor.state["present"].all())


def test_equal_errors_prefer_the_simpler_candidate() -> None:
    """Twice the same learner: the first is chosen; and so is target only where all are right."""
    probe = qs.LinearProbe(torch.nn.Identity())
    plain = qs.examples(
        torch.tensor([[0.0], [1.0], [2.0], [3.0], [9.0], [8.0]]), [0, 0, 0, 1, 1, 1]
    )
    learner = qs.SafeGate([probe, probe])
    state = learner(plain, SPEC).state
    assert learner.choice(state) == "LinearProbe (1)"
    assert float(state["errors"][0]) == float(state["errors"][1])
    assert qs.SafeGate([probe, qs.Prototypical(torch.nn.Identity())]).names() == [
        "target only", "source only", "LinearProbe", "Prototypical",
    ]  # fmt: skip


def test_an_advantage_counts_from_a_margin_on_and_not_by_a_single_row() -> None:
    """Of ten rows, the second candidate is better in three by 1, and worse in one by 1."""
    rows, weights = torch.zeros(2, 10, dtype=torch.float64), torch.ones(10, dtype=torch.float64)
    rows[0, :3], rows[1, 3] = 1.0, 1.0
    # The mean difference is 0.2; its standard error sqrt((0.4 - 0.04) / 9) = 0.2: one apart.
    assert [_first_good_enough(rows, weights, m) for m in (0.0, 0.99, 1.01)] == [1, 1, 0]
    rows[0, 1:3] = 0.0  # now better in one, and worse in one
    rows[0, 0] = 5.0
    assert _first_good_enough(rows, weights, 0.0) == 0
    rows[0, 1:3] = 1.0
    assert _first_good_enough(rows, weights, 0.0) == 1
    # A row of weight 2 is two rows: one of them is taken away.
    once = torch.tensor([[5.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert _first_good_enough(once, torch.tensor([1.0, 1.0]).double(), 0.0) == 0
    assert _first_good_enough(once, torch.tensor([2.0, 1.0]).double(), 0.0) == 1


def test_a_large_margin_never_leaves_the_first_candidate() -> None:
    drawn = (moved(False, seed, labelled=3) for seed in range(20))
    task = next(t for t in drawn if int(gate(margin=0.0)(t.support, SPEC).state["chosen"]) > 0)
    assert gate(margin=100.0).choice(gate(margin=100.0)(task.support, SPEC).state) == "target only"


@pytest.mark.parametrize(
    ("labels", "choice"),
    [([0, 1, 1], "target only"), ([1, 1, 1], "source only"), ([-1, -1, -1], "source only")],
)
def test_with_fewer_than_two_rows_a_class_it_says_that_it_cannot_judge(
    labels: list[int], choice: str
) -> None:
    x = torch.arange(7.0)[:, None]
    rows = qs.examples(x, [*labels, 0, 0, 1, 1], groups=[0] * 3 + [1] * 4)
    with pytest.warns(RuntimeWarning, match="needs 2 different .* cannot judge, and takes"):
        state = gate()(rows, SPEC).state
    assert gate().choice(state) == choice
    assert bool(state["errors"].isnan().all())


def test_rows_that_are_equal_are_no_two_rows() -> None:
    rows = qs.examples(torch.tensor([[1.0], [1.0], [2.0], [3.0]]), [0, 0, 1, 1])
    assert fewest_rows(rows, SPEC.answer) == 1


def test_folds_depend_on_the_rows_alone() -> None:
    """Not on order, weights or names of classes; equal rows are left out together."""
    task = moved(False, labelled=4)
    rows = task.support
    folds = target_folds(rows, SPEC.answer, 10, 3)
    assert bool((folds[:, rows.groups != 0] == NOWHERE).all())
    assert bool((folds[:, rows.targets < 0] == NOWHERE).all())
    assert int((folds[0] >= 0).sum()) == 8
    flipped = rows._replace(**{name: getattr(rows, name).flip(0) for name in rows._fields})
    assert torch.equal(target_folds(flipped, SPEC.answer, 10, 3).flip(1), folds)
    renamed = rows._replace(targets=torch.where(rows.targets < 0, -1, 1 - rows.targets))
    assert torch.equal(target_folds(renamed, SPEC.answer, 10, 3), folds)
    twice = rows._replace(
        **{name: torch.cat([getattr(rows, name)] * 2) for name in rows._fields}
    )  # fmt: skip
    both = target_folds(twice, SPEC.answer, 10, 3)
    assert torch.equal(both[:, : len(rows.weights)], both[:, len(rows.weights) :])


LAWS = (
    "adapt_is_pure", "weight_zero_is_absent", "weight_two_is_twice", "support_order_is_irrelevant",
    "unknown_element_is_absent", "relabelling_permutes_outputs", "saved_predictor_is_the_same",
    "queries_are_independent",
)  # fmt: skip


def test_the_laws_hold_where_there_are_source_rows() -> None:
    torch.manual_seed(0)
    net = qs.backbones.MLP(2, (4,))
    both = [qs.LinearProbe(net), qs.Prototypical(net)]
    learner = qs.SafeGate(both, folds=2, repeats=1).double()
    assert set(LAWS) <= set(applicable(learner))
    check_laws(learner, doubled(moved(False, labelled=3)), LAWS)


def test_reals_are_judged_by_their_loss() -> None:
    """A source whose line falls where that of the target rises is refused, in ten of ten draws."""
    spec = qs.regression()
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(60, 1, generator=generator)
        y = torch.where(torch.arange(60)[:, None] < 10, x, -x)
        y = y + 0.1 * torch.randn(60, 1, generator=generator)
        rows = qs.examples(x, y, groups=[0] * 10 + [1] * 50)
        assert gate().choice(gate()(rows, spec).state) == "target only"


@pytest.mark.parametrize("kind", [qs.TCA, qs.TrAdaBoost, qs.Reweighted])
def test_a_learner_of_transfer_alone_is_fitted_to_the_source_as_to_a_plain_task(
    kind: type[Learner],
) -> None:
    """TCA refuses support sets without target rows, and others warn: here they are not asked to."""
    task = moved(False, labelled=3)
    source = task.support.groups > 0
    blind = task.support._replace(targets=torch.where(source, task.support.targets, -1))
    plain = qs.examples(blind.inputs[source], blind.targets[source])
    learner = qs.SafeGate([kind(torch.nn.Identity())])  # type: ignore[call-arg]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        predictor = learner(blind, SPEC)
    assert not [each for each in found if "needs labelled target" in str(each.message)]
    assert not [each for each in found if "needs target rows" in str(each.message)]
    assert learner.choice(predictor.state) == "source only"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = learner.learners[0](plain, SPEC)(task.query.inputs)
        errors = learner(task.support, SPEC).state["errors"]
    assert torch.equal(predictor(task.query.inputs), expected)
    assert len(errors) == 3
    assert bool(errors.isfinite().all())


def test_without_classes_the_warning_speaks_of_rows_alone() -> None:
    rows = qs.examples([[1.0], [2.0]], [[1.0], [2.0]], groups=[0, 1])
    with pytest.warns(RuntimeWarning, match=r"labelled target rows, to .*; found 1 row\. It"):
        gate()(rows, qs.regression())


def test_evaluate_and_fit_loop_over_tasks_by_themselves() -> None:
    tasks = qs.Sinusoids(shots=5, queries=5)
    torch.manual_seed(0)
    net = qs.backbones.MLP(1, (8,))
    learner = qs.SafeGate([qs.LinearProbe(net), qs.LinearProbe(net, l2=100.0)], folds=2, repeats=1)
    qs.fit(learner, tasks, steps=2, tasks_per_step=2)
    assert qs.evaluate(learner, tasks, tasks=3, baselines=False).mean > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learners": []}, "1 or more learners to choose from; found none"),
        ({"learners": [torch.nn.Identity()]}, "found Identity"),
        ({"margin": -1.0}, "margin 0 or more; found folds=10, margin=-1"),
        ({"margin": float("nan")}, "margin 0 or more; found folds=10, margin=nan"),
        ({"folds": 1}, "folds must be at least 2, and margin 0 or more; found folds=1"),
        ({"repeats": 0}, "repeats must be at least 1"),
    ],
)
def test_what_makes_no_gate_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qs.SafeGate(**{"learners": torch.nn.Identity()} | arguments)  # type: ignore[arg-type]


class OfReals(Learner):
    """Predicts zeros."""

    answers = (Reals,)

    def adapt(self, support: qs.Examples, spec: qs.TaskSpec) -> State:
        return {}

    def predict(self, state: State, inputs: Any, spec: qs.TaskSpec) -> torch.Tensor:
        return torch.zeros(len(inputs), 1)


def test_learners_without_a_common_answer_are_refused() -> None:
    with pytest.raises(ValueError, match="in common; found Prototypical Classes; OfReals Reals"):
        qs.SafeGate([qs.Prototypical(torch.nn.Identity()), OfReals()])


def test_a_warning_is_given_where_a_task_of_one_shot_is_evaluated() -> None:
    from made_up import clouds

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        qs.evaluate(gate(), clouds(shots=1), tasks=2, baselines=False)
    assert any("cannot judge" in str(each.message) for each in found)
