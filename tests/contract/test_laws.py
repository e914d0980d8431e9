"""Every learner keeps every law that it does not except, and needs its exceptions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from contract_cases import (
    CLASSIFIER_CASES,
    VECTORS,
    WAYS,
    classifier,
    misjudged,
    of_pixels,
    of_vectors,
    pictures,
    pictures_with_numbers,
    source_for,
)
from torch import nn

import quickstudy as qs
from made_up import Detector, bright_boxes, bright_places, planes, yes_or_no
from quickstudy.answers.boxes import Boxes
from quickstudy.answers.classes import Classes
from quickstudy.answers.pixels import Pixels
from quickstudy.answers.spans import Spans
from quickstudy.core import TaskSource
from quickstudy.files.registry import LEARNERS
from quickstudy.interfaces.runs.assemble import make_learner
from quickstudy.interfaces.runs.recipe import Recipe
from test_every_answer import Tagger, detection, tagging


@pytest.mark.parametrize(
    ("name", "norm"),
    [case for case in CLASSIFIER_CASES if case[1] != "group" or case[0] not in LEARNERS],
)
def test_classifiers_other_than_by_default_keep_exactly_what_they_do_not_except(
    name: str, norm: str
) -> None:
    assert misjudged(classifier(name, norm), source_for(name)) == {}


CHEAPER = {
    "reptile": {"test_steps": 3},
    "baseline_plus_plus": {"steps": 4},
    "snail": {"filters": 8},
    "lstm_meta_learner": {"steps": 2, "hidden": 4},
    "maml_plus_plus": {"steps": 2},
    "proto_maml": {"steps": 2},
    # Their head by default is fitted as that of linear_probe is: test_fine_tune.
    "fine_tune": {"steps": 2, "head": "zero_head"},
    "early_stopping": {"steps": 4, "every": 2, "batch": 4},
    "lora": {"steps": 2, "head": "zero_head"},
    "mann": {"hidden": 8, "slots": 16, "width": 6},
    "lstm": {"hidden": 8},
    "deep_coral": {"steps": 3},
    "dan": {"steps": 3},
    "dann": {"steps": 3},
    "in_context": {"size": 8, "heads": 2},
    "conditional_neural_process": {"size": 8},
    # At its default no row gets a label, and the law that it breaks would hold.
    "self_training": {"threshold": 0.34},
    "single_task": {"steps": 3},
    "attentive_conditional_neural_process": {"size": 8, "heads": 2},
    "convolutional_conditional_neural_process": {"grid": 6, "channels": 4, "blocks": 1},
    "neural_statistician": {"hidden": 8},
    "tradaboost": {"rounds": 3},
    "tradaboost_r2": {"steps": 2, "rounds": 3, "folds": 2},
    "mmoe": {"experts": 2, "hidden": (4,), "steps": 2},
    "ple": {"shared": 2, "hidden": (4,), "steps": 2},
    "cross_stitch": {"hidden": (4, 4)},
    "sluice": {"width": 4, "layers": 2},
    "random_forest": {"trees": 3},
    "adkf_ift": {"steps": 3},
    "soft_sharing": {"steps": 1, "head": "zero_head"},
    "dense_matching": {"width": 8, "keys": 3},
    "crop_detection": {"slots": 3, "width": 4},
    "two_stage_detection": {"slots": 3, "width": 4, "steps": 2},
    # Batches and symmetries of the same rows: test_pixel_head.
    "pixel_head": {"steps": 2, "batch": 1, "symmetries": False},
}
"""Options that change nothing but the time."""

AS_LEARNT = {"mean_regularised": "weight"}
"""Parameters that are 0 at first; the law that others break would hold."""


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_as_they_are_by_default_keep_exactly_what_they_do_not_except(name: str) -> None:
    recipe = Recipe(learner=name, channels=4, ways=WAYS, train_ways=WAYS, shots=2,
                    options=CHEAPER.get(name, {}))  # fmt: skip
    learner = make_learner(recipe, (1, 16, 16)).double().eval()
    if name == "rank_ensemble":
        learner.learners[1].trees = 3  # of a forest of 100, which cost time alone
    if name in AS_LEARNT:
        start = torch.Generator().manual_seed(0)
        torch.nn.init.normal_(getattr(learner, AS_LEARNT[name]), generator=start)
    if learner.answers == (Spans,):
        return  # it reads words: tests/learners/test_span_scorer.py
    if learner.answers == (Pixels,):
        found = misjudged(learner, bright_places(side=16))
        assert unneeded_where_no_class_has_a_name(found) == {}
        return
    if learner.answers == (Boxes,):
        found = misjudged(learner, bright_boxes())
        assert unneeded_where_no_class_has_a_name(found) == {}
        return
    classifies = issubclass(Classes, learner.answers)
    found = misjudged(learner, pictures() if classifies else pictures_with_numbers())
    assert (found if classifies else unneeded_where_no_class_has_a_name(found)) == {}


def unneeded_where_no_class_has_a_name(found: dict[str, str]) -> dict[str, str]:
    """Without the law of class names, which applies only to classes."""
    return {law: why for law, why in found.items() if law != "relabelling_permutes_outputs"}


@pytest.mark.parametrize("name", VECTORS)
def test_regressors_keep_exactly_what_they_do_not_except(name: str) -> None:
    found = misjudged(of_vectors(name), planes())
    assert unneeded_where_no_class_has_a_name(found) == {}


OF_MISSING_TARGETS = ("maml", "probe, ridge", "in context", "conditional neural process", "cavia",
                      "fine_tune")  # fmt: skip


@pytest.mark.parametrize("source", [planes(2, missing=True), yes_or_no(2)], ids=["reals", "labels"])
@pytest.mark.parametrize("name", OF_MISSING_TARGETS)
def test_learners_of_targets_known_in_part_keep_what_they_do_not_except(
    name: str, source: TaskSource
) -> None:
    found = misjudged(of_vectors(name, 2), source)
    assert unneeded_where_no_class_has_a_name(found) == {}


def test_a_learner_of_pixels_keeps_what_it_does_not_except() -> None:
    found = misjudged(of_pixels(), bright_places())
    assert unneeded_where_no_class_has_a_name(found) == {}


@pytest.mark.parametrize(
    ("network", "source"),
    [(Tagger, tagging), (lambda: Detector(8, slots=3), detection)],
    ids=["tokens", "boxes"],
)
def test_a_learner_of_tokens_and_one_of_boxes_keep_what_they_do_not_except(
    network: Callable[[], nn.Module], source: TaskSource
) -> None:
    torch.manual_seed(0)
    found = misjudged(qs.MAML(network(), 2, 0.1).double().eval(), source)
    assert unneeded_where_no_class_has_a_name(found) == {}


@pytest.mark.parametrize("excepted", ["adapt_is_pure", "unknown_element_is_absent"])
def test_an_exception_that_is_not_needed_is_found(excepted: str) -> None:
    learner = classifier("prototypical")
    learner.exceptions = {excepted: "not needed"}  # type: ignore[misc]
    assert misjudged(learner, pictures()) == {excepted: "excepted, but kept"}
