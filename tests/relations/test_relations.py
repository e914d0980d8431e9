"""Affinities are checked against gradients computed by hand, groups against all choices."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

import quickstudy as qs
from quickstudy.relations.affinity import Affinity
from quickstudy.relations.gradients import AffinityRecorder, gradient_cosines, lookahead_affinity
from quickstudy.relations.grouping import EXACT, best_groups
from quickstudy.relations.learnt_weights import learn_weights
from quickstudy.relations.pairwise import pairwise_gains, train_on
from quickstudy.tasks.numbering import Stream, draw


class OneNetwork(qs.Learner):
    """The same network for every task: all parameters are shared."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def adapt(self, support: qs.Examples, spec: qs.TaskSpec) -> dict[str, Tensor]:
        return {}

    def predict(self, state: Any, inputs: Tensor, spec: qs.TaskSpec) -> Tensor:
        found: Tensor = self.network(inputs)
        return found


def linear(features: int = 3) -> OneNetwork:
    """Linear, in float64, with a random weight."""
    network = torch.nn.Linear(features, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        network.weight.copy_(torch.randn(1, features, generator=torch.Generator().manual_seed(7)))
    return OneNetwork(network)


def named(names: str = "abc", n: int = 12) -> Any:
    generator = torch.Generator().manual_seed(0)
    return qs.tasks.domains({
        name: (torch.randn(n, 3, generator=generator).double(),
               torch.randn(n, 1, generator=generator).double(), qs.regression())
        for name in names
    })  # fmt: skip


def gradient(weight: Tensor, rows: qs.Examples) -> Tensor:
    """Of the mean squared error of x @ weight, in closed form."""
    n = len(rows.weights)
    x, y = rows.inputs.double(), rows.targets.double()
    return 2 / n * (x.T @ (x @ weight - y))[:, 0]


def loss(weight: Tensor, rows: qs.Examples) -> Tensor:
    return (rows.inputs.double() @ weight - rows.targets.double()).square().mean()


def test_cosines_and_lookahead_are_those_of_the_closed_form() -> None:
    learner, tasks, rate = linear(), named(), 0.05
    given = tasks.tested_on(tasks).tasks
    w = learner.network.weight.detach().T.clone()
    g = {name: gradient(w, tasks[name]) for name in tasks}
    cosines = gradient_cosines(learner, given)
    ahead = lookahead_affinity(learner, given, rate)
    assert (cosines.names, ahead.names) == (("a", "b", "c"),) * 2
    for i, j in combinations("abc", 2):
        expected = torch.nn.functional.cosine_similarity(g[i], g[j], dim=0)
        assert cosines.of(i, j) == pytest.approx(float(expected))
        for one, other in ((i, j), (j, i)):
            stepped = loss(w - rate * g[one][:, None], tasks[other]) / loss(w, tasks[other])
            assert ahead.of(one, other) == pytest.approx(1 - float(stepped))
    torch.testing.assert_close(learner.network.weight.detach().T, w)  # nothing has moved


def test_only_parameters_that_tasks_share_count() -> None:
    """The gradient of a trunk by autograd; heads are left out, and stay in the lookahead."""
    tasks = named("ab")
    learner = qs.HardSharing(qs.backbones.MLP(3, (4,)), tasks.outputs).double()
    given = tasks.tested_on(tasks).tasks
    found = gradient_cosines(learner, given)
    trunk = dict(learner.backbone.named_parameters())
    flat = []
    for task in given:
        predictions = learner(task.support, task.spec)(task.query.inputs)
        value = (predictions - task.query.targets).square().mean()
        parts = torch.autograd.grad(value, list(trunk.values()))
        flat.append(torch.cat([part.flatten() for part in parts]))
    expected = torch.nn.functional.cosine_similarity(*flat, dim=0)
    assert found.of("a", "b") == pytest.approx(float(expected), rel=1e-6)


def test_the_recorder_measures_while_training() -> None:
    tasks = named("ab", 30)
    learner = linear()
    recorder = AffinityRecorder(learner, tasks, every=2, rows=10)
    with pytest.raises(ValueError, match="nothing was measured yet"):
        _ = recorder.cosines
    qs.fit(learner, tasks.batches(10), 4, 2, on_step=recorder, progress=False)
    assert [step for step, _, _ in recorder.history] == [2, 4]
    mean = torch.stack([cosines for _, cosines, _ in recorder.history]).mean(0)
    torch.testing.assert_close(recorder.cosines.matrix, mean)
    assert recorder.lookahead.measured == 2
    cheap = AffinityRecorder(learner, tasks, every=1, rate=None)
    qs.fit(learner, tasks.batches(10), 1, 2, on_step=cheap, progress=False)
    assert bool(cheap.lookahead.matrix.isnan().all())


def test_planted_clusters_are_found_and_harmful_tasks_give_least() -> None:
    """Margins over 20 seeds are in benchmarks/results/relations.json; these are four of them."""
    for seed in range(4):
        made = qs.tasks.related(12, 3, noise=0.5, harmful=2, rows=100, seed=seed)
        learner = OneNetwork(torch.nn.Linear(20, 1))
        for parameter in learner.parameters():
            torch.nn.init.zeros_(parameter)
        found = gradient_cosines(learner, made.tasks.tested_on(made.tasks).tasks)
        label = {n: k for k, cluster in enumerate(found.clusters(4)) for n in cluster}
        truth = made.clusters.tolist()
        assert adjusted_rand_score(truth, [label[name] for name in made.tasks]) > 0.7
        harmful = {name for name, of in zip(made.tasks, truth, strict=True) if of < 0}
        assert set(sorted(found.given, key=found.given.__getitem__)[:2]) == harmful


@pytest.mark.parametrize("networks", [1, 2, 3])
def test_the_groups_are_the_best_of_all_choices(networks: int) -> None:
    """Every choice of at most so many of the 15 groups of four tasks, one by one."""
    generator = torch.Generator().manual_seed(networks)
    names = ("a", "b", "c", "d")
    for _ in range(4):
        matrix = torch.randn(4, 4, generator=generator).double()
        found = best_groups(Affinity("gain", names, matrix), networks)
        groups = [g for size in range(1, 5) for g in combinations(range(4), size)]

        def gain(task: int, group: tuple[int, ...], matrix: Tensor = matrix) -> float:
            others = [i for i in group if i != task]
            return sum(float(matrix[i, task]) for i in others) / len(others) if others else 0.0

        totals = [
            sum(max(gain(t, g) for g in chosen if t in g) for t in range(4))
            for k in range(1, networks + 1)
            for chosen in combinations(groups, k)
            if set().union(*chosen) == set(range(4))
        ]
        assert found.total == pytest.approx(max(totals))
        assert found.exact
        assert len(found.groups) <= networks
        for name, place in found.serves.items():
            assert name in found.groups[place]
        of_serving = [
            gain(t, tuple(names.index(n) for n in found.groups[found.serves[names[t]]]))
            for t in range(4)
        ]
        assert sum(of_serving) == pytest.approx(found.total)


def test_above_ten_tasks_likely_groups_find_what_was_planted() -> None:
    tasks = EXACT + 2
    matrix = torch.full((tasks, tasks), -1.0)
    for k in range(3):
        matrix[k::3, k::3] = 1.0
    found = best_groups(Affinity("gain", tuple(map(str, range(tasks))), matrix), 3)
    assert not found.exact
    assert found.total == pytest.approx(tasks)
    assert {frozenset(g) for g in found.groups} == {
        frozenset(map(str, range(k, tasks, 3))) for k in range(3)
    }
    assert "the best of the groups compared" in str(found)


def test_pairs_are_trained_within_the_budget_those_that_look_best_first() -> None:
    tasks, asked = named("abcd"), []
    given = tasks.tested_on(tasks)

    def train(names: tuple[str, ...]) -> qs.Evaluation:
        asked.append(names)
        learner = linear()
        with torch.no_grad():
            learner.network.weight.mul_(len(names))
        own = qs.tasks.fixed([t for t in given.tasks if t.spec.name in names])
        return qs.evaluate(learner, own, baselines=False)

    liked = torch.zeros(4, 4)
    liked[1, 2] = 1.0
    first = Affinity("gradient cosine", ("a", "b", "c", "d"), liked)
    found = pairwise_gains(train, "abcd", budget=5, first=first)
    assert asked == [("a",), ("b",), ("c",), ("d",), ("b", "c")]
    w = linear().network.weight.detach().T
    alone, both = (float(loss(k * w, tasks["c"])) for k in (1, 2))
    assert found.of("b", "c") == pytest.approx((alone - both) / alone)
    assert int((~found.matrix.isnan()).sum()) == 2
    with pytest.raises(ValueError, match="every pair must have been measured; found 5 without"):
        found.clusters()
    assert best_groups(found, 2).exact
    with pytest.raises(ValueError, match="4 trainings alone and up to 6 in pairs; found a budget"):
        pairwise_gains(train, "abcd", budget=4)


def test_training_on_some_names_scores_these() -> None:
    tasks = named("abc", 20)
    run = train_on(
        lambda outputs: qs.HardSharing(qs.backbones.MLP(3, (4,)), outputs), tasks, tasks, 2, rows=4
    )
    found = run(("a", "c"))
    assert [row.name for row in found.rows] == ["a", "c"]


def test_the_meta_gradient_of_the_weights_is_that_of_autograd_through_the_step() -> None:
    tasks, rate = named("abc", 40), 0.1
    learner = linear()
    weights = learn_weights(learner, tasks, primary=["a", "c"], rate=rate, rows=8, start=0.3)
    found = weights.meta_gradient(5)
    drawn: dict[str, list[qs.Examples]] = {}
    for stream in (Stream.TRAINING, Stream.VALIDATION):
        for name in tasks:
            source = tasks.only([name]).batches(8)
            drawn.setdefault(name, []).append(draw(source, 0, 5, stream).query)
    lambdas = torch.full((3,), 0.3, dtype=torch.float64, requires_grad=True)
    w = learner.network.weight.detach().T.clone().requires_grad_()
    before = sum(a * loss(w, drawn[name][0]) for a, name in zip(lambdas, "abc", strict=True))
    (step,) = torch.autograd.grad(before, w, create_graph=True)
    after = loss(w - rate * step, drawn["a"][1]) + loss(w - rate * step, drawn["c"][1])
    (expected,) = torch.autograd.grad(after, lambdas)
    torch.testing.assert_close(found, expected)


def test_the_weight_of_a_task_that_misleads_falls_below_that_of_one_that_helps() -> None:
    """Two tasks beside the primary one: with its function, and with the opposite one."""
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [2.0], [-1.0]])
    tasks = qs.tasks.domains({
        "primary": (x, y, qs.regression()), "same": (x, y, qs.regression()),
        "opposite": (x, -y, qs.regression()),
    })  # fmt: skip
    learner = OneNetwork(torch.nn.Linear(3, 1))
    weights = learn_weights(learner, tasks, primary=["primary"], rate=0.05, weight_rate=0.02)
    qs.fit(learner, tasks.batches(32), 20, 3, combine=weights, progress=False)
    values = weights.values
    assert values["opposite"] < 0.02 < 0.1 < values["same"]
    assert values["opposite"] >= 0.0


def test_learnt_weights_continue_from_their_state() -> None:
    tasks = named("ab", 30)
    runs = []
    for resumed in (False, True):
        learner, runs_of = linear(), []
        weights = learn_weights(learner, tasks, rows=8)
        for _ in range(4):
            if resumed:
                state = weights.state_dict()
                weights = learn_weights(learner, tasks, rows=8)
                weights.load_state_dict(state)
            runs_of.append(weights.weights(torch.ones(2).double(), ["a", "b"]).tolist())
        runs.append(runs_of)
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][3]


def test_a_run_with_other_learnt_weights_is_not_resumed(tmp_path: Any) -> None:
    tasks = named("ab", 30)
    for primary, resume in (("a", False), ("b", True)):
        learner = linear()
        weights = learn_weights(learner, tasks, primary=primary, rows=8)
        if resume:
            with pytest.raises(ValueError, match=r"was started with combine=.*primary=\['a'\]"):
                qs.fit(learner, tasks.batches(8), 2, 2, combine=weights, run=tmp_path, resume=True,
                       progress=False)  # fmt: skip
        else:
            qs.fit(learner, tasks.batches(8), 2, 2, combine=weights, run=tmp_path, progress=False)


def test_clusters_and_figures_of_a_matrix() -> None:
    matrix = torch.full((5, 5), -0.5)
    matrix[:2, :2] = matrix[2:, 2:] = 0.9
    found = Affinity("gradient cosine", ("a", "b", "c", "d", "e"), matrix, measured=3)
    assert found.clusters() == (("c", "d", "e"), ("a", "b"))
    assert found.clusters(1) == (("a", "b", "c", "d", "e"),)
    assert found.given["a"] == pytest.approx((0.9 - 3 * 0.5) / 4)
    matrix[0, 4] = 0.1  # a gives more to e than e to a
    assert found.given["a"] == pytest.approx((0.9 - 2 * 0.5 + 0.1) / 4)
    assert found.received["a"] == pytest.approx((0.9 - 3 * 0.5) / 4)
    assert found.received["e"] == pytest.approx((2 * 0.9 - 0.5 + 0.1) / 4)
    again = Affinity.from_json(json.loads(json.dumps(found.to_json())))
    torch.testing.assert_close(again.matrix, matrix.double())
    assert "mean of 3 measurements" in str(found)
    alike = Affinity("gain", ("a", "b", "c", "d"), torch.ones(4, 4))
    assert alike.clusters() == (("a", "b", "c", "d"),)


def test_what_has_no_relations_is_refused() -> None:
    learner, tasks = linear(), named("ab")
    given = tasks.tested_on(tasks).tasks
    with pytest.raises(ValueError, match="needs tasks of at least 2 names"):
        gradient_cosines(learner, given[:1])
    with pytest.raises(ValueError, match="needs tasks of at least 2 names; found 'a', ''"):
        gradient_cosines(learner, [given[0], given[1]._replace(spec=qs.regression())])
    alone = linear()
    alone.per_task = ("network.weight",)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="found none in OneNetwork"):
        gradient_cosines(alone, given)
    with pytest.raises(ValueError, match="needs a matrix"):
        Affinity("gain", ("a",), torch.ones(1, 1))
    with pytest.raises(ValueError, match="k must be from 1 to 2"):
        Affinity("gain", ("a", "b"), torch.ones(2, 2)).clusters(3)
    with pytest.raises(ValueError, match="no task called 'z'"):
        Affinity("gain", ("a", "b"), torch.ones(2, 2)).of("z", "a")
    with pytest.raises(ValueError, match="primary tasks must be among"):
        learn_weights(learner, tasks, primary=["z"])
    with pytest.raises(ValueError, match="must be positive numbers; found"):
        learn_weights(learner, tasks, rate=0.0)
    for wrong in (0.0, -1.0, float("nan"), "x"):
        with pytest.raises(ValueError, match="rate must be a positive number; found"):
            lookahead_affinity(learner, given, wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="rate must be a positive number; found"):
            AffinityRecorder(learner, tasks, rate=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found none in LinearProbe"):
        gradient_cosines(qs.LinearProbe(torch.nn.Identity()), given)
    with pytest.raises(ValueError, match="learner must be a Learner; found str"):
        gradient_cosines("learner", given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2 names; found none"):
        gradient_cosines(learner, [])
    with pytest.raises(ValueError, match="each task needs a name of its own; found a, a"):
        Affinity("gain", ("a", "a"), torch.ones(2, 2))
    with pytest.raises(ValueError, match="the matrix must be a tensor; found list"):
        Affinity("gain", ("a", "b"), [[1, 2], [3, 4]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs named tasks; found FixedTasks"):
        learn_weights(learner, tasks.tested_on(tasks))  # type: ignore[arg-type]
    weights = learn_weights(learner, tasks, rows=2)
    with pytest.raises(ValueError, match="no weight for a task called 'z'"):
        weights.weights(torch.ones(1).double(), ["z"])
    with pytest.raises(ValueError, match="networks must be"):
        best_groups(Affinity("gain", ("a", "b"), torch.ones(2, 2)), 0)
