"""Every law fails on a learner that breaks it and no other law."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from broken_learners import (
    BROKEN,
    Growing,
    SeeingPadding,
    Smoother,
    UnknownAsZero,
    WeighingRows,
)
from contract_cases import pictures
from torch import Tensor, nn

from made_up import clouds, planes, yes_or_no
from quickstudy import MAML, examples, spec
from quickstudy.backbones import MLP, Conv4
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.errors import BrokenLaw
from quickstudy.base.weighting import counting_exactly
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.contract.check import LAWS, check_learner, doubled
from quickstudy.core import Examples, Learner, State, Task, TaskSource, TaskSpec
from quickstudy.objectives import query_loss
from quickstudy.tasks.numbering import draw
from quickstudy.tasks.stacks import stack
from witness import as_step


def broken_laws(kind: type[Learner], source: TaskSource) -> set[str]:
    task = doubled(draw(source, 0, 0))
    broken = set()
    for name, law in LAWS.items():
        try:
            law(kind().double().eval(), copy.deepcopy(task))
        except BrokenLaw:
            broken.add(name)
    return broken


SOURCES = {
    "2 classes": clouds(2),
    "3 classes": clouds(3),
    "2 shots": clouds(3, shots=2),
    "reals": planes(),
    "reals known in part": planes(2, missing=True),
    "labels": yes_or_no(2),
}


@pytest.mark.parametrize("kind", [Smoother, Growing])
@pytest.mark.parametrize("source", SOURCES)
def test_the_examples_that_keep_all_laws_pass(source: str, kind: type[Learner]) -> None:
    assert broken_laws(kind, SOURCES[source]) == set()


def test_every_law_has_a_learner_that_breaks_it() -> None:
    assert set(BROKEN) == set(LAWS)


@pytest.mark.parametrize("law", [law for law in LAWS if law != "shape_is_right_and_finite"])
def test_a_learner_broken_on_purpose_fails_exactly_that_law(law: str) -> None:
    # A buffer that adapt changes is also changed by other threads, and differs on loading.
    changing = {"threads_equal_turns", "saved_predictor_is_the_same"}
    implied = changing if law == "adapt_is_pure" else set()
    assert broken_laws(BROKEN[law], clouds()) == {law} | implied


def test_the_law_of_the_shape_is_tested_first_since_predictions_must_have_one_for_others() -> None:
    with pytest.raises(BrokenLaw, match=r"predict must give shape \(4, 1\); found \(4,\)"):
        check_learner(BROKEN["shape_is_right_and_finite"](), planes())


@pytest.mark.parametrize("law", ["support_order_is_irrelevant", "relabelling_permutes_outputs"])
def test_two_classes_of_one_row_suffice_to_detect_an_order(law: str) -> None:
    assert law in broken_laws(BROKEN[law], clouds(ways=2))


@pytest.mark.parametrize("kind", [UnknownAsZero, WeighingRows])
@pytest.mark.parametrize("source", ["reals known in part", "labels"])
def test_unknown_elements_of_a_row_that_count_are_detected(
    source: str, kind: type[Learner]
) -> None:
    assert broken_laws(kind, SOURCES[source]) == {"unknown_element_is_absent"}


def test_rows_of_one_element_cannot_detect_zeros_for_unknown_elements() -> None:
    assert broken_laws(WeighingRows, planes(1, missing=True)) == set()


class StateOnModule(Smoother):
    """Keeps its one state as an attribute, so the second adapt overwrites the first."""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        self.kept = super().adapt(support, spec)
        return {}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return super().predict(self.kept, inputs, spec)


def test_state_on_the_module_breaks_purity() -> None:
    with pytest.raises(BrokenLaw, match="two predictors of one learner"):
        LAWS["adapt_is_pure"](StateOnModule().double(), doubled(draw(clouds(), 0, 0)))


class Infinite(Smoother):
    """Its predictions are not finite."""

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return super().predict(state, inputs, spec) / 0


def test_predictions_must_be_finite() -> None:
    with pytest.raises(BrokenLaw, match="finite"):
        check_learner(Infinite(), clouds())


def of_parts(predictions: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """One loss per row, for dicts of predictions and of targets."""
    losses = [(predictions[name] - targets[name]).abs().flatten(1).sum(1) for name in targets]
    return sum(losses, torch.zeros(()))


def in_parts(generator: torch.Generator) -> Task:
    """Rows whose targets are a dict of (n, 1) and (n, 2)."""
    x = torch.randn(12, 3, generator=generator)
    support, query = (
        examples(part, {"a": part[:, :1], "b": part[:, 1:]}) for part in (x[:6], x[6:])
    )
    return Task(support, query, spec(3, of_parts))


class InParts(nn.Module):
    """(n, 3) -> a dict of predictions; ``whole`` makes of each part what it should give."""

    def __init__(self, whole: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.whole = nn.Linear(3, 3), whole

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        outputs = self.net(rows)
        return {"a": outputs[:, :1], "b": self.whole(outputs[:, 1:])}


def test_predictions_and_targets_of_an_own_spec_may_be_trees_with_a_leaf_row_per_query() -> None:
    assert "unknown_element_is_absent" in check_learner(
        MAML(InParts(lambda b: b), 1, 0.1), in_parts
    )
    in_double = MAML(InParts(lambda b: b.sum(0)), 1, 0.1).double()
    with pytest.raises(ValueError, match=r"shape \(6, ..., 3\).*found \{'a': \(6, 1\), 'b': \(2,"):
        LAWS["shape_is_right_and_finite"](in_double, doubled(draw(in_parts, 0, 0)))


class SelfWeighing(Learner):
    """Makes its own weights (near rows count more), so those of the batch do not determine them."""

    def __init__(self, exactly: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.exactly = exactly
        self.backbone = Conv4(4, "support", image_size=16)

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        own = support._replace(weights=support.weights * support.inputs.mean((1, 2, 3)))
        if not self.exactly:
            return embed_support(self.backbone, own)[1]
        with counting_exactly(own.weights):
            return embed_support(self.backbone, support)[1]

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return embed_query(self.backbone, inputs, state)[:, : spec.outputs]


def test_weights_made_by_a_learner_are_used_by_the_norms() -> None:
    task = doubled(draw(pictures(), 0, 0))
    with pytest.raises(BrokenLaw, match="counting_exactly"):
        LAWS["vmap_equals_loop"](SelfWeighing(exactly=False).double(), task)
    LAWS["vmap_equals_loop"](SelfWeighing(exactly=True).double(), task)


class Misdeclared(Smoother):
    exceptions = {"adapt_is_quick": "there is no such law"}  # noqa: RUF012


def test_an_exception_must_name_a_law() -> None:
    with pytest.raises(ValueError, match=r"adapt_is_quick.*The laws are: shape_is_right"):
        check_learner(Misdeclared(), clouds())


def test_check_learner_names_the_laws_it_tested() -> None:
    assert check_learner(Smoother(), clouds()) == list(LAWS)
    maml = MAML(MLP(4, (8,), outputs=3), rate=0.1)
    assert set(LAWS) - set(check_learner(maml, clouds())) == set(maml.exceptions)


class Declared(SeeingPadding):
    exceptions = {"weight_zero_is_absent": "every row keeps a little weight"}  # noqa: RUF012


@pytest.mark.parametrize("mapping", [Mapping.LOOP, Mapping.VMAP])
def test_a_learner_that_counts_padding_gets_no_padding(mapping: Mapping) -> None:
    learner, plan = Declared(), Plan(mapping, "", 2)
    sizes = stack([draw(clouds(shots=1), 0, 0), draw(clouds(shots=2), 0, 0)])
    with pytest.raises(ValueError, match="every row keeps a little weight"):
        accumulate(learner, as_step(learner, sizes), query_loss, plan)
    equal = stack([draw(clouds(), 0, i) for i in range(2)])
    accumulate(learner, as_step(learner, equal), query_loss, plan)
