"""The law of joined answers, on every kind of answer that joins, and on learners that break it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from broken_learners import Smoother, WithoutMask
from contract_cases import of_pixels
from torch import Tensor

import quickstudy as qs
from made_up import bright_places, clouds, planes
from quickstudy.base.errors import BrokenLaw
from quickstudy.contract.check import check_learner, doubled
from quickstudy.contract.joined import joined_answer_changes_nothing
from quickstudy.core import Learner, State, Task, TaskSource, TaskSpec
from quickstudy.tasks.examples import without_absent
from quickstudy.tasks.numbering import draw


def check(learner: Learner, source: TaskSource) -> None:
    joined_answer_changes_nothing(learner.double(), doubled(draw(source, 0, 0)))


@pytest.mark.parametrize("ways", [2, 3, 5])
def test_a_probability_for_absent_classes_is_found_for_any_number_of_ways(ways: int) -> None:
    check(Smoother(), clouds(ways))
    with pytest.raises(BrokenLaw, match=r"a task of Classes.*without_absent"):
        check(WithoutMask(), clouds(ways))


def test_check_learner_fails_a_learner_that_is_wrong_beside_wider_tasks() -> None:
    with pytest.raises(BrokenLaw, match=r"Classes\(ways=2\).*in a stack of Classes\(ways=3\)"):
        check_learner(WithoutMask(), clouds(3))


class PixelMeans(Learner):
    """Pixels belong to the class whose mean brightness in the support set is nearest."""

    masks = True

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def adapt(self, support: qs.Examples, spec: TaskSpec) -> State:
        of_class = spec.answer.encode(support.targets, support.inputs.dtype).flatten(0, -2)
        pixels = support.inputs.flatten()
        present = spec.answer.present(support.targets, support.weights)
        return {"means": pixels @ of_class / of_class.sum(0).clamp_min(1), "present": present}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        logits = -self.scale * (inputs[:, 0].unsqueeze(-1) - state["means"]) ** 2
        if not self.masks:
            return logits
        return without_absent(logits, state["present"])


class UnmaskedPixelMeans(PixelMeans):
    masks = False


def three_shades(generator: torch.Generator) -> Task:
    """Pixels of three classes, so that one can be left out."""
    rows = [torch.rand(2, 1, 4, 4, generator=generator) for _ in range(2)]
    return Task(*(qs.examples(x, (3 * x[:, 0]).long()) for x in rows), qs.segmentation(3))


@pytest.mark.parametrize("source", [bright_places(), three_shades], ids=["2", "3"])
def test_the_law_holds_for_classes_of_pixels(source: TaskSource) -> None:
    check(PixelMeans(), source)
    check(of_pixels(), source)
    with pytest.raises(BrokenLaw, match=r"Pixels\(k=2, .*in a stack of Pixels\(k=3, "):
        check(UnmaskedPixelMeans(), source)


class OtherWhereMissing(Smoother):
    """Gives other numbers where some might be missing."""

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return super().predict(state, inputs, spec) * (0.9 if spec.answer.missing else 1.0)


def test_reals_must_not_depend_on_whether_numbers_of_other_tasks_are_missing() -> None:
    check(Smoother(), planes(2))
    with pytest.raises(BrokenLaw, match=r"Reals.*missing=True.*`missing`"):
        check(OtherWhereMissing(), planes(2))


class OfThreeClasses(Smoother):
    """Always gives three logits."""

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        wide = torch.full((len(inputs), 3), -1e30, dtype=inputs.dtype)
        wide[:, : spec.outputs] = super().predict(state, inputs, spec)
        return wide


class Refusing(OfThreeClasses):
    """The same, but refuses tasks of another number of classes."""

    def adapt(self, support: qs.Examples, spec: TaskSpec) -> State:
        if spec.outputs != 3:
            raise ValueError("Refusing: needs 3 ways.")
        return super().adapt(support, spec)


class RefusingWithoutMask(WithoutMask):
    """Refuses tasks of two classes alone, but is wrong about them beside tasks of three."""

    def adapt(self, support: qs.Examples, spec: TaskSpec) -> State:
        if spec.outputs != 3:
            raise ValueError("RefusingWithoutMask: needs 3 ways.")
        return super().adapt(support, spec)


def test_a_fixed_number_of_outputs_breaks_the_law_unless_other_specs_are_refused() -> None:
    with pytest.raises(BrokenLaw, match=r"found 3 outputs for 2 classes.*raise ValueError"):
        check(OfThreeClasses(), clouds(3))
    check(Refusing(), clouds(3))
    with pytest.raises(BrokenLaw, match="without_absent"):
        check(RefusingWithoutMask(), clouds(3))


def test_laws_are_not_tested_without_a_query() -> None:
    task = draw(clouds(), 0, 0)
    empty = task.query._replace(**{n: v[:0] for n, v in task.query._asdict().items()})
    with pytest.raises(ValueError, match=r"^query: needs at least 1 row; found 0"):
        check_learner(Smoother(), lambda _: task._replace(query=empty))
