"""Tasks of several kinds in one step: trained, evaluated and resumed together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import clouds, planes, yes_or_no
from quickstudy.answers.labels import RocAuc
from quickstudy.backbones import MLP
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_tasks
from quickstudy.contract.check import doubled
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.objectives import query_loss
from quickstudy.tasks.numbering import Stream, draw, task_seed
from witness import error, flat, in_general_position

KINDS = {"a": clouds(3, shots=2), "b": planes(2), "c": yes_or_no(2, shots=8, queries=8)}
ROWS = {("a", "accuracy"), ("b", "mse"), ("c", "ROC-AUC"), ("c", "average precision")}


def mixed(generator: torch.Generator) -> Task:
    """Classes, reals or labels, at random; the name of the task is the kind."""
    name = "abc"[int(torch.randint(3, (), generator=generator))]
    task = KINDS[name](generator)
    return task._replace(spec=qs.TaskSpec(task.spec.answer, name))


def learner() -> Learner:
    torch.manual_seed(0)
    return qs.LinearProbe(MLP(4, (8,)))


def weights(learner: Learner) -> Tensor:
    return flat([p.detach() for p in learner.parameters()])


def test_the_loss_of_a_step_of_several_kinds_is_the_mean_over_its_tasks() -> None:
    one = learner()
    in_general_position(one)
    tasks = [doubled(draw(mixed, 0, index)) for index in range(8)]
    assert {task.spec.name for task in tasks} == set(KINDS)
    losses = torch.stack([query_loss(one, task).loss for task in tasks])
    expected = flat(torch.autograd.grad(losses.mean(), list(one.parameters())))
    outcome = accumulate(one, prepare_tasks(one, tasks), query_loss, Plan(Mapping.VMAP, "", 8))
    torch.testing.assert_close(outcome.loss, losses.detach(), rtol=1e-10, atol=1e-12)
    assert error(flat([p.grad for p in one.parameters() if p.grad is not None]), expected) <= 1e-10


def test_training_and_validation_accept_several_kinds() -> None:
    one = learner()
    validation = qs.Validation(mixed, every=10, tasks=30, select=("a", "accuracy"))
    training = qs.fit(one, mixed, 20, 8, validation=validation, progress=False)
    assert training.plan.mapping is Mapping.VMAP
    assert training.plan.kinds is not None
    assert {answer for answer, _ in training.plan.kinds} == {"classes", "reals", "labels"}
    judged = [row["validation"] for row in training.rows if "validation" in row]
    found = qs.evaluate(one, mixed, 30, stream=Stream.VALIDATION)
    assert len(judged) == 2
    assert found.row("a", "accuracy").mean == training.best_score == max(judged)
    logged = [row for row in training.rows if "loss" in row]
    assert logged
    assert not any("score" in row for row in logged), "of accuracies and errors there is no mean"


@pytest.mark.parametrize(
    ("select", "found"), [(None, 3), (("a", "mse"), 0), ("nonsense", 0), ("", 0)]
)
def test_validation_needs_a_score_that_selects_the_weights(
    select: str | tuple[str, str] | None, found: int
) -> None:
    """An error before the first step, which this objective would not survive."""
    validation = qs.Validation(mixed, every=1, tasks=20, select=select)
    problem = (
        rf"found {found} for select=.*\('c', 'ROC-AUC'\).*select=\(task's name, score's name\)"
    )
    with pytest.raises(ValueError, match=problem):
        qs.fit(
            learner(), mixed, 1, 4, objective=never, validation=validation, progress=False
        )  # fmt: skip


def never(learner: Learner, task: Task) -> Tensor:
    pytest.fail("no task is to be computed")


def test_the_name_of_a_score_selects_the_only_result_that_has_it() -> None:
    ends = []
    for select in ("average precision", ("c", "average precision")):
        validation = qs.Validation(mixed, every=2, tasks=30, select=select)
        training = qs.fit(learner(), mixed, 2, 4, validation=validation, progress=False)
        ends.append(training.best_score)
    assert ends[0] is not None
    assert ends[0] == ends[1]


def test_validation_tasks_are_those_of_the_runs_seed() -> None:
    """A kind that occurs first in late tasks of this seed can be selected."""
    seed, tasks = 5, 40
    late = task_seed(seed, tasks - 1, Stream.VALIDATION)

    def source(generator: torch.Generator) -> Task:
        return KINDS["b" if generator.initial_seed() == late else "a"](generator)

    validation = qs.Validation(source, every=1, tasks=tasks, select="mse")
    training = qs.fit(
        learner(), KINDS["a"], 1, 2, validation=validation, seed=seed, progress=False
    )  # fmt: skip
    assert training.best_score is not None
    with pytest.raises(ValueError, match="found 0 for select='mse'"):
        qs.fit(learner(), KINDS["a"], 1, 2, validation=validation, seed=6, progress=False)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"every": 0}, "every must be a whole number of at least 1; found 0"),
        ({"tasks": 1}, "tasks must be a whole number of at least 2; found 1"),
        ({"patience": 0}, "patience must be a whole number of at least 1; found 0"),
        ({"select": ["a", "mse"]}, "select must be a score's name, or"),
        ({"select": ("mse",)}, "select must be a score's name, or"),
    ],
)
def test_validations_out_of_range_are_refused(changes: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        qs.Validation(mixed, **changes)


def widths(generator: torch.Generator) -> Task:
    """One or two reals; tasks of the same name, whose answers do not join."""
    return planes(1 + int(torch.randint(2, (), generator=generator)))(generator)


def test_validation_tasks_whose_answers_do_not_join_have_no_common_result() -> None:
    for select in (None, "mse", ("", "mse")):
        validation = qs.Validation(widths, every=1, tasks=8, select=select)
        with pytest.raises(ValueError, match="one mse for several kinds of task"):
            qs.fit(
                learner(), widths, 1, 4, objective=never, validation=validation, progress=False
            )  # fmt: skip


def test_validation_answers_that_the_learner_does_not_support_are_refused_at_once() -> None:
    one = qs.Prototypical(MLP(4, (8,)))
    validation = qs.Validation(KINDS["b"], every=1, tasks=8)
    with pytest.raises(ValueError, match="Prototypical: gives answers of the kind Classes"):
        qs.fit(
            one, KINDS["a"], 1, 4, objective=never, validation=validation, progress=False
        )  # fmt: skip


def scores_logged(source: TaskSource, steps: int = 4) -> list[float | None]:
    training = qs.fit(learner(), source, steps, 2, log_every=1, progress=False)
    return [row.get("score") for row in training.rows]


def test_the_log_has_a_score_where_all_tasks_are_of_one_kind() -> None:
    def many_ways(generator: torch.Generator) -> Task:
        return clouds(int(torch.randint(3, 6, (), generator=generator)))(generator)

    assert None not in scores_logged(many_ways), "answers that join are of one kind"
    assert set(scores_logged(widths)) == {None}, "one mse of two widths would mean nothing"
    names = [task._replace(spec=qs.regression(2, name=name))
             for name in "xy" for task in [draw(KINDS["b"], 0, 0)]]  # fmt: skip
    assert set(scores_logged(qs.tasks.fixed(names))) == {None}
    late = [draw(KINDS["b"], 0, i) for i in range(8)] + [draw(planes(1), 0, i) for i in range(2)]
    assert [s is None for s in scores_logged(qs.tasks.fixed(late), 5)] == [False] * 4 + [True]


def test_an_evaluation_has_a_row_for_each_name_and_score_and_no_average() -> None:
    found = qs.evaluate(learner(), mixed, 40)
    assert {(row.name, row.score) for row in found.rows} == ROWS
    assert sum(found.row(name).tasks for name in KINDS) == found.tasks == 40
    lines = [line for line in str(found).splitlines() if not line.startswith("  ")]
    assert [line.split(" ")[0] for line in lines] == [f"{row.name}:" for row in found.rows]
    for name in ("mean", "scores", "half_width", "metric"):
        with pytest.raises(ValueError, match="several kinds have no single score"):
            getattr(found, name)


def test_rows_equal_those_of_each_kind_alone() -> None:
    one = learner()
    found = qs.evaluate(one, mixed, 40)
    tasks = [draw(mixed, 0, index, Stream.TEST) for index in range(40)]
    for name in KINDS:
        alone = qs.evaluate(one, qs.tasks.fixed([t for t in tasks if t.spec.name == name]))
        torch.testing.assert_close(found.row(name).values, alone.main.values, equal_nan=True)


def test_a_resumed_run_of_several_kinds_is_equal_to_the_bit(tmp_path: Path) -> None:
    def train(run: Path | None, resume: bool, stop_after: int | None = None) -> Learner:
        one, calls = learner(), 0

        def stopping(generator: torch.Generator) -> Task:
            nonlocal calls
            calls += 1
            if stop_after and calls > stop_after:
                raise InterruptedError
            return mixed(generator)

        qs.fit(
            one, stopping, 12, 5, run=run, resume=resume, checkpoint_every=3, progress=False,
            validation=qs.Validation(mixed, every=6, tasks=20, select=("b", "mse")),
        )  # fmt: skip
        return one

    expected = train(None, False)
    with pytest.raises(InterruptedError):
        train(tmp_path, False, stop_after=50)
    assert torch.equal(weights(train(tmp_path, True)), weights(expected))


def test_tasks_of_5_to_50_ways_make_few_stacks_and_give_the_gradient_of_the_loop() -> None:
    def source(generator: torch.Generator) -> Task:
        return clouds(int(torch.randint(5, 51, (), generator=generator)))(generator)

    torch.manual_seed(0)
    one = qs.Prototypical(MLP(4, (8,)))
    in_general_position(one)
    tasks = [doubled(draw(source, 0, index)) for index in range(16)]
    assert max(t.spec.outputs for t in tasks) > 5 * min(t.spec.outputs for t in tasks)
    step = prepare_tasks(one, tasks)
    assert 1 < len(step) <= 3
    assert sorted(place for prepared in step for place in prepared.places) == list(range(16))
    losses = torch.stack([query_loss(one, task).loss for task in tasks])
    expected = flat(torch.autograd.grad(losses.mean(), list(one.parameters())))
    for mapping in (Mapping.LOOP, Mapping.VMAP, Mapping.FEATURES):
        one.zero_grad()
        outcome = accumulate(one, step, query_loss, Plan(mapping, "", 16))
        torch.testing.assert_close(outcome.loss, losses.detach(), rtol=1e-10, atol=1e-12)
        found = flat([p.grad for p in one.parameters() if p.grad is not None])
        assert error(found, expected) <= 1e-10


def hinge(predictions: Tensor, targets: Tensor) -> Tensor:
    return (1 - predictions * (2 * targets - 1)).clamp_min(0)


def test_the_kept_weights_have_the_best_score_of_the_spec() -> None:
    """Multi-label tasks with a custom loss, scored by the area under the ROC curve."""
    spec = qs.spec(2, hinge, RocAuc())

    def source(generator: torch.Generator) -> Task:
        return KINDS["c"](generator)._replace(spec=spec)

    torch.manual_seed(0)
    one = qs.MAML(MLP(4, (8,), outputs=2), steps=5, rate=1.0)

    def rate(
        progress: float,
    ) -> float:  # destroys the weights after half of the steps
        return 1.0 if progress < 0.5 else 1e4

    validation = qs.Validation(source, every=10, tasks=40)
    training = qs.fit(one, source, 40, 8, schedule=rate, validation=validation, progress=False)
    judged = {row["step"]: row["validation"] for row in training.rows if "validation" in row}
    assert training.best_step in (10, 20)
    assert training.best_score == judged[training.best_step] == max(judged.values())
    found = qs.evaluate(one, source, 40, stream=Stream.VALIDATION)
    assert found.metric == "ROC-AUC"
    assert found.mean == training.best_score
    assert min(judged[30], judged[40]) < found.mean, "the weights at the end are others"
