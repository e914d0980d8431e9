"""What a source must be: a function of its generator; and fixed tasks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import quickstudy as qs
from quickstudy.core import Acting, Learner, Task, TaskSource
from quickstudy.objectives import query_loss
from quickstudy.tasks.numbering import Stream, draw, fingerprint
from quickstudy.training.plan import explain

SINES = qs.Sinusoids(3, 2)
TASKS = [draw(SINES, 0, i) for i in range(12)]


def learner() -> Learner:
    torch.manual_seed(0)
    return qs.MAML(qs.backbones.MLP(1, (4,), outputs=1), rate=0.01)


def one_after_another(tasks: Any) -> TaskSource:
    given = iter(tasks)
    return lambda generator: next(given)


def from_the_global_generator(generator: torch.Generator) -> Task:
    return SINES(torch.Generator().manual_seed(int(torch.randint(2**31, ()))))


def with_a_counter() -> TaskSource:
    count = itertools.count()
    return lambda generator: SINES(torch.Generator().manual_seed(next(count) % 100))


def growing() -> TaskSource:
    """Another task only once others were drawn in between."""
    seen: set[int] = set()

    def source(generator: torch.Generator) -> Task:
        seen.add(generator.initial_seed())
        return TASKS[len(seen) > 1]

    return source


MEMORIES: dict[str, Callable[[], TaskSource]] = {
    "iterator over a list": lambda: one_after_another(TASKS),
    "iterator of one": lambda: one_after_another(TASKS[:1]),
    "cycle of two": lambda: one_after_another(itertools.cycle(TASKS[:2])),
    "cycle as long as the checks": lambda: one_after_another(itertools.cycle(TASKS[:8])),
    "endless generator": lambda: one_after_another(SINES(g) for g in itertools.repeat(
        torch.Generator().manual_seed(0))),
    "torch's global generator": lambda: from_the_global_generator,
    "counter": with_a_counter,
    "later": growing,
}  # fmt: skip


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("use", ["fit", "validation", "explain"])
def test_training_refuses_a_source_with_a_memory(name: str, use: str) -> None:
    """Some of its tasks are drawn for checks, so that training would see others than meant."""
    source = MEMORIES[name]()

    def train() -> Any:
        if use == "explain":
            return explain(learner(), source, 2)
        if use == "fit":
            return qs.fit(learner(), source, 1, 2, progress=False)
        validation = qs.Validation(source, 1, 4)
        return qs.fit(learner(), SINES, 1, 2, validation=validation, progress=False)

    with pytest.raises(ValueError, match=r"memory, such as an iterator.*qs\.tasks\.fixed\(tasks\)"):
        train()


def test_an_iterator_is_evaluated_on_its_tasks_in_order_and_ends_with_an_error() -> None:
    expected = fingerprint(TASKS)
    found = qs.evaluate(learner(), one_after_another(TASKS), len(TASKS), tasks_per_batch=5)
    assert found.fingerprint == expected
    with pytest.raises(ValueError, match=r"no more tasks at task 12.*qs\.tasks\.fixed"):
        qs.evaluate(learner(), one_after_another(TASKS), 13)


@pytest.mark.parametrize("source", [TASKS, iter(TASKS), None, lambda g: None, lambda g: [1, 2]])
def test_what_is_no_source_is_refused_with_a_remedy(source: Any) -> None:
    for use in (qs.evaluate, lambda learner, s: qs.fit(learner, s, 1, progress=False)):
        with pytest.raises(ValueError, match=r"must be a function.*qs\.tasks\.fixed"):
            use(learner(), source)


def test_an_error_inside_a_source_is_its_own() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        draw(lambda generator: 1 + "1", 0, 0)  # type: ignore[operator,arg-type,return-value]


def test_fixed_tasks_are_evaluated_once_each_in_order_whatever_the_seed() -> None:
    source = qs.tasks.fixed(task for task in TASKS)
    found = [qs.evaluate(learner(), source, seed=seed) for seed in (0, 7)]
    assert [each.tasks for each in found] == [12, 12]
    assert {each.fingerprint for each in found} == {fingerprint(TASKS)}
    some = qs.evaluate(learner(), source, 5)
    assert some.fingerprint == fingerprint(TASKS[:5])


def test_more_tasks_than_given_are_refused_since_repetition_narrows_the_interval() -> None:
    source = qs.tasks.fixed(TASKS)
    with pytest.raises(ValueError, match="13 tasks asked, but the source has 12"):
        qs.evaluate(learner(), source, 13)
    with pytest.raises(ValueError, match="200 tasks asked, but the source has 12"):
        qs.Validation(source, tasks=200)
    assert qs.Validation(source).tasks == 12
    assert qs.Validation(SINES).tasks == 200


def test_training_goes_through_fixed_tasks_in_order_again_and_again() -> None:
    source = qs.tasks.fixed(TASKS)
    for i in range(30):
        assert draw(source, 99, i, Stream.TEST) is TASKS[i % 12]
    seen: list[int] = []

    def watch(learner: Learner, task: Task) -> Any:
        seen.append(next(i for i, t in enumerate(TASKS) if t.query.inputs.equal(task.query.inputs)))
        return query_loss(learner, task)

    compute = qs.Compute(engine="loop")
    qs.fit(learner(), source, 3, 5, objective=watch, compute=compute, progress=False)
    assert seen[-15:] == [*range(12), 0, 1, 2]


TASK = TASKS[0]
NO_ROWS = qs.Examples(*(leaf[:0] for leaf in TASK.support))
BAD: list[tuple[Any, str]] = [
    ([], "at least 1 task"),
    (iter([]), "at least 1 task"),
    (TASK, "found one Task"),
    (TASK.support, "found one Examples"),
    (3, "found one int"),
    ([TASK, TASK.support], r"task 1 of 2: must be a quickstudy\.Task; found Examples"),
    ([tuple(TASK)], "task 0 of 1: must be a .*found tuple"),
    ([TASK._replace(spec=5)], "spec must be a TaskSpec; found int"),  # type: ignore[arg-type]
    ([TASK._replace(query=TASK.query.inputs)], "query must be Examples; found Tensor"),
    ([TASK._replace(support=NO_ROWS)], "support: needs at least 1 row"),
    ([TASK, TASK._replace(spec=qs.classification(3))], "task 1 of 2: support: classification"),
    ([TASK._replace(query=TASK.query._replace(targets=torch.full((2, 1), torch.nan)))], "query"),
]


@pytest.mark.parametrize(("tasks", "message"), BAD, ids=lambda value: str(value)[:20])
def test_fixed_refuses_what_cannot_be_evaluated(tasks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qs.tasks.fixed(tasks)


def test_fixed_tasks_may_act_are_shown_in_a_word_and_compare_by_identity() -> None:
    bandits = qs.tasks.fixed([draw(qs.tasks.Bandits(3), 0, i) for i in range(3)])
    assert isinstance(bandits.at(1).support, Acting)
    assert repr(bandits) == "fixed(3 tasks)"
    assert bandits == bandits
    assert bandits != qs.tasks.fixed(bandits.tasks)
