"""Few-shot classes: what fits episodes of new classes, from nearest means to meta-learners."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.specs import classification
from quickstudy.backbones.conv4 import Conv4
from quickstudy.backbones.joined import Features, Flat
from quickstudy.backbones.mlp import MLP
from quickstudy.base.trees import rows as number_of_rows
from quickstudy.core import Learner, TaskSource
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.learners.multitask.pooled import Pooled
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.learners.transfer.simple_shot import SimpleShot
from quickstudy.selection.recommending.candidates import Candidate, Problem, Sources
from quickstudy.selection.recommending.divisions import Splits, view_of
from quickstudy.selection.recommending.on_pretrained import Pretrained, View
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.examples import examples
from quickstudy.tasks.named_rows import of_examples
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.tasks.order import reads_a_sequence
from quickstudy.training.optimisers import adam, sgd

META = ("prototypical", "r2d2", "matching", "proto_maml", "anil", "in_context")
"""Meta-learners that are raced: of metric, gradient and memory families, the simplest first."""

BATCH = 64
"""Rows of a step that trains a classifier of all training classes."""


def problem_of_classes(name: str, divisions: Sequence[Splits], pretrained: Pretrained) -> Problem:
    """What fits tasks of new classes.

    ``name``        of the data, for texts.
    ``divisions``   the classes as they are divided: the race is on the first.
    ``pretrained``  networks that read such inputs, or why there is none.
    """
    splits = divisions[0]
    views = pretrained.views(splits.train, splits.val, splits.test)
    notes = [] if (few := fewer_ways(splits)) is None else [few]
    if not all(len(view.train) for view in views):
        divisions = divisions[:1]  # not all classes have features
    if len(divisions) > 1:
        notes.append(
            f"There are few classes, so the race is on {len(splits.val)} of them, and each of "
            f"{len(divisions)} final trainings keeps others out."
        )
    made = [
        _candidates(each.shrunk(), [view if each is splits else view_of(view, each)
                                    for view in views])
        for each in divisions
    ]  # fmt: skip
    tested = "" if splits.test is None else f", {len(splits.test)} test classes"
    often = f", in {len(divisions)} divisions" if len(divisions) > 1 else ""
    about = (
        f"{name}: {splits.ways}-way {splits.shots}-shot tasks of new classes; {len(splits.train)} "
        f"training classes, {len(splits.val)} validation classes{tested}{often}"
    )
    return Problem(
        "few-shot classes", about, "class", splits.classes, made[0], pretrained.rules,
        pretrained.left_out, splits.shots, notes=tuple(notes), divisions=tuple(made[1:]),
    )  # fmt: skip


def _candidates(splits: Splits, views: Sequence[View]) -> tuple[Candidate, ...]:
    """The candidates for one division of the classes, simplest first."""
    plain = isinstance(splits.train.inputs, Tensor)
    found = [*(_on_inputs(splits) if plain else [])]
    for view in views:
        found += _on_features(splits, view.title, view.name, replace(
            splits, train=view.train, val=view.val, test=view.test
        ))  # fmt: skip
    if plain:
        found += [_all_classes(splits), *(_meta(each, splits) for each in META)]
    return tuple(found)


def fewer_ways(splits: Splits) -> str | None:
    """What scores are of where there are fewer classes than a task should have; else None."""
    parts = {"the race": splits.val, "the expected score": splits.test or splits.val}
    few = {what: len(rows) for what, rows in parts.items() if len(rows) < splits.ways}
    if not few:
        return None
    told = " and ".join(f"{what} is of {ways}-way tasks" for what, ways in few.items())
    return (
        f"There are too few classes to keep {splits.ways} of them out of training: {told}. "
        f"{splits.ways}-way tasks are harder, so expect a lower score there."
    )


def _sources(
    splits: Splits, train: TaskSource | None, shuffled: bool = False, raw: Splits | None = None
) -> Sources:
    def of(each: Splits | None, part: str) -> Episodes | None:
        rows = None if each is None else getattr(each, part)
        return None if each is None or rows is None else each.source(rows, shuffled)

    validation = of(splits, "val")
    assert validation is not None
    return Sources(train, validation, of(splits, "test"), of(raw, "val"), of(raw, "test"))


def _shots(splits: Splits, shuffled: bool = False) -> Callable[[int], TaskSource] | None:
    rows = splits.val if splits.test is None else splits.test

    def of(shots: int) -> TaskSource:
        if int(rows.counts.min()) < shots + 1:
            smallest = int(rows.counts.min())
            raise ValueError(f"{shots} shots need {shots + 1} rows a class; found {smallest}")
        return splits.source(rows, shuffled, shots)

    return of


def _on_inputs(splits: Splits) -> list[Candidate]:
    """Learners that need no other classes than those of the task."""
    size = math.prod(splits.train.inputs.shape[1:])
    sources, alone = _sources(splits, None), "target only"
    return [
        Candidate(
            "nearest_mean", "nearest mean of the inputs", alone,
            "Train on your data alone: the nearest mean of the inputs themselves",
            lambda: SimpleShot(Flat(size), normalise=False), sources, shots=_shots(splits),
        ),
        Candidate(
            "probe", "ridge regression on the inputs", alone,
            "Train on your data alone: a linear classifier of the inputs themselves",
            lambda: LinearProbe(Flat(size)), sources, shots=_shots(splits),
        ),
    ]  # fmt: skip


def _on_features(splits: Splits, title: str, name: str, view: Splits) -> list[Candidate]:
    """Learners on features of a pretrained network, which stays as it is."""
    size = int(view.val.inputs.shape[-1])
    sources, shots = _sources(view, None, raw=splits), _shots(view)
    take = f"Take features of {title}, no training over tasks"
    found = [
        Candidate(
            f"simple_shot on {name}", f"SimpleShot on {title}", "pretrained",
            f"{take}: SimpleShot, the nearest mean of normalised features",
            lambda: SimpleShot(Features(size)), sources, shots=shots,
        ),
        Candidate(
            f"linear_probe on {name}", f"linear probe on {title}", "pretrained",
            f"{take}: a linear probe", lambda: LinearProbe(Features(size)), sources, shots=shots,
        ),
        Candidate(
            f"fine_tune on {name}", f"fine-tuned head on {title}", "pretrained",
            f"{take}: a probe, fine-tuned on each support set",
            lambda: resolve("learner", "fine_tune", LEARNERS)(Features(size), adapts="head"),
            sources, shots=shots,
        ),
    ]  # fmt: skip
    if len(view.train):
        training = LEARNERS["prototypical"].training
        meta = view.training(training.train_ways or view.ways, False)
        found.append(Candidate(
            f"prototypical on {name}", f"prototypical networks on {title}", "meta-learning",
            f"Meta-learn on features of {title}: prototypical networks on them",
            lambda: resolve("learner", "prototypical", LEARNERS)(MLP(size, (256, 128))),
            _sources(view, meta, raw=splits), training.steps, training.tasks_per_step,
            adam(training.rate), shots=shots,
        ))  # fmt: skip
    return found


def _network(shape: tuple[int, ...], outputs: int | None, maps: bool = False) -> nn.Module:
    """The network that is trained from scratch on inputs of this shape."""
    if len(shape) == 3 and shape[1] == shape[2] >= 16:
        kept: dict[str, Any] = {"pools": 2, "flat": False} if maps else {}
        return Conv4(in_channels=shape[0], image_size=shape[1], outputs=outputs, **kept)
    return MLP(math.prod(shape), hidden=(256, 128), outputs=outputs)


def _all_classes(splits: Splits) -> Candidate:
    """A classifier of all training classes, whose features are then used: no episodes."""
    rows, shape = splits.train, tuple(splits.train.inputs.shape[1:])
    ids = torch.arange(len(rows)).repeat_interleave(rows.counts)
    spec = classification(len(rows), name="all classes")
    one = NamedTasks(of_examples({spec.name: examples(rows.inputs, ids)}), {spec.name: spec})
    some = max(1, min(BATCH, number_of_rows(rows.inputs)) // 2)
    return Candidate(
        "all_classes", "a classifier of all training classes, then nearest means", "pooled",
        "Train one classifier of all your training classes, and compare its features by SimpleShot",
        lambda: Pooled(_network(shape, None), len(rows)),
        _sources(splits, one.batches(some, some)), 800, 1, adam(),
        used=_means_of_features, shots=_shots(splits),
    )  # fmt: skip


def _means_of_features(learner: Learner) -> Learner:
    assert isinstance(learner, Pooled)
    return SimpleShot(learner.backbone)


def _meta(name: str, splits: Splits) -> Candidate:
    """A meta-learner with its card's training."""
    card, shape = LEARNERS[name], tuple(splits.train.inputs.shape[1:])
    cls: Callable[..., Learner] = resolve("learner", name, LEARNERS)
    ways = card.training.train_ways or splits.ways
    outputs = min(max(ways, splits.ways), max(len(splits.train), splits.ways))
    takes = inspect.signature(cls).parameters

    def make() -> Learner:
        options: dict[str, Any] = {"outputs": outputs} if "outputs" in takes else {}
        if "length" in takes:
            options["length"] = outputs * splits.shots + 1
        return cls(_network(shape, outputs if card.head else None, card.maps), **options)

    with torch.device("meta"):
        shuffled = reads_a_sequence(make())
    training = card.training
    optimiser = {"adam": adam, "sgd": sgd}[training.optimiser](training.rate)
    return Candidate(
        name, card.title, "meta-learning",
        f"Meta-learn over tasks of your classes: {card.title}",
        make, _sources(splits, splits.training(ways, shuffled), shuffled),
        training.steps, training.tasks_per_step, optimiser, shots=_shots(splits, shuffled),
    )  # fmt: skip
