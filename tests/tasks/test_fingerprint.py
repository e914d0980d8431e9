"""What a fingerprint of tasks tells apart, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers import Actions, Boxes, Classes, Custom, Labels, Pixels, Reals, Tokens
from quickstudy.answers.labels import RocAuc
from quickstudy.core import Answer, Examples, Task, TaskSpec
from quickstudy.files.answers import build_answer, describe_answer
from quickstudy.tasks.bandits import Bandit
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.numbering import Fingerprint, _described, draw


def fingerprint(task: Task) -> str:
    digest = Fingerprint()
    digest.add(task)
    return digest.value


def task_of(inputs: Any, answer: Answer | None = None, name: str = "") -> Task:
    """The same targets whatever the answer, so that it alone makes the difference."""
    weights = torch.ones(2)
    rows = Examples(inputs, torch.zeros(2, 1), weights, one_place(weights))
    return Task(rows, rows, TaskSpec(answer or Reals(1), name))


def squared(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions - targets).square()


def absolute(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions - targets).abs()


def clipped(predictions: Tensor, targets: Tensor, most: float) -> Tensor:
    return absolute(predictions, targets).clamp_max(most)


@dataclass(frozen=True)
class Huber(Reals):
    delta: float = 1.0


ANSWERS: list[Answer] = [
    Reals(1), Reals(1, missing=True), Reals(2), Huber(1), Huber(1, delta=0.1),
    Classes(5), Classes(6), Labels(5), Pixels(5), Boxes(5),
    Tokens(5), Tokens(5, "before"), Tokens(5, "before", end=2), Tokens(5, start=1),
    Actions(Bandit(5)), Actions(Bandit(6)),
    Custom(1, squared), Custom(1, absolute), Custom(2, absolute), Custom(1, absolute, RocAuc()),
    Custom(1, partial(clipped, most=1.0)), Custom(1, partial(clipped, most=2.0)),
    Custom(1, nn.HuberLoss("none", delta=1.0)), Custom(1, nn.HuberLoss("none", delta=2.0)),
    Custom(1, nn.CrossEntropyLoss(torch.tensor([1.0, 2.0]), reduction="none")),
    Custom(1, nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]), reduction="none")),
]  # fmt: skip


def test_every_setting_of_an_answer_changes_the_fingerprint() -> None:
    x = torch.zeros(2, 3)
    found = [fingerprint(task_of(x, answer)) for answer in ANSWERS]
    same = [
        (a, b) for (a, u), (b, v) in combinations(zip(ANSWERS, found, strict=True), 2) if u == v
    ]
    assert same == []
    assert found == [fingerprint(task_of(x, answer)) for answer in ANSWERS]


def test_equal_answers_made_anew_give_the_same_fingerprint() -> None:
    """No address of an object is in it."""
    makers: list[Callable[[], Answer]] = [
        lambda: Custom(1, partial(clipped, most=1.0)),
        lambda: Custom(1, nn.HuberLoss("none")),
        lambda: Actions(Bandit(3)),
    ]
    x = torch.zeros(2, 3)
    for make in makers:
        kept = make(), make()  # both alive, so at different addresses
        assert len({fingerprint(task_of(x, answer)) for answer in kept}) == 1


def test_the_name_of_a_task_and_those_of_its_inputs_change_the_fingerprint() -> None:
    x, y = torch.zeros(2, 3), torch.ones(2, 3)
    tasks = [
        task_of(x), task_of(x, name="a"), task_of(x, name="b"),
        task_of({"a": x, "b": y}), task_of({"b": x, "a": y}), task_of((x, y)),
        task_of({"a": {"b": x}, "c": y}), task_of({"a": x, "c": {"b": y}}),
    ]  # fmt: skip
    assert len({fingerprint(task) for task in tasks}) == len(tasks)


DTYPES = [
    torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.bool, torch.int8,
    torch.uint8, torch.int16, torch.long, torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_dtype_have_a_fingerprint(dtype: torch.dtype) -> None:
    zeros, ones = torch.zeros(2, 3, 4).to(dtype), torch.ones(2, 3, 4).to(dtype)
    inputs = [zeros, ones, zeros[:, :0], zeros[0, 0, 0], ones.transpose(1, 2)]
    assert len({fingerprint(task_of(each)) for each in inputs}) == len(inputs)
    assert fingerprint(task_of(zeros)) == fingerprint(task_of(zeros.clone()))


def test_tasks_that_act_have_a_fingerprint_of_their_world() -> None:
    tasks = [draw(qs.tasks.Bandits(arms), 0, i) for arms in (2, 3) for i in range(2)]
    assert len({fingerprint(task) for task in tasks}) == 4
    assert fingerprint(tasks[0]) == fingerprint(draw(qs.tasks.Bandits(2), 0, 0))


def test_a_setting_that_was_added_later_does_not_change_old_fingerprints():
    """Not even the first part of what is hashed: the words for the spec."""
    assert _described(qs.classification(5)) == "TaskSpec(answer=Classes(ways=5), name='')"
    assert "clusters=True" in _described(qs.TaskSpec(Classes(5, clusters=True)))


def test_answers_in_files_from_before_a_setting_was_added_still_load():
    assert describe_answer(Classes(5)) == {"kind": "classes", "ways": 5}
    assert build_answer({"kind": "classes", "ways": 5}) == Classes(5)
    clusters = Classes(5, clusters=True)
    assert build_answer(describe_answer(clusters)) == clusters
    for forged in ({"kind": "classes"}, {"kind": "classes", "ways": 5, "guess_name": "x"}):
        with pytest.raises(ValueError, match="its answer is"):
            build_answer(forged)
