"""Telling comparisons and their rows apart: names, weights that are shared, and digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from quickstudy.answers.baselines import Guesses
from quickstudy.base.shown import shown
from quickstudy.core import Learner, Task, TaskSource
from quickstudy.evaluation.baselines import NEAREST_MEAN
from quickstudy.files.registry import describe
from quickstudy.selection.comparing.contest import short_name
from quickstudy.selection.comparing.simple import PROBE, TARGET_ONLY, TUNED, UNTRAINED
from quickstudy.selection.making import made
from quickstudy.tasks.numbering import Fingerprint, Stream, draw


def refuse_baseline_names(who: str, names: Iterable[str], task: Task) -> None:
    """ValueError for a learner with the name of a baseline, which would take its place.

    ``task``  a test task, whose answer names its guess ("chance").
    """
    taken = {short_name(NEAREST_MEAN), TARGET_ONLY, UNTRAINED, PROBE, TUNED}
    if isinstance(answer := task.spec.answer, Guesses):
        taken.add(short_name(answer.guess_name))
    for name in names:
        if name in taken:
            raise ValueError(
                f"{who}: baselines are in every table, so no learner may have the name of one; "
                f"found {shown(name)}. Rename the learner."
            )


def refuse_shared_weights(makers: Mapping[str, Callable[[], Learner]]) -> None:
    """ValueError where two calls give the same trainable weights, of one learner or of two.

    Each training would then begin where the one before ended.
    """
    owners: dict[int, str] = {}
    kept = []  # so that no address is given twice
    for name, make in makers.items():
        for seed in (0, 1):
            learner = made(make, seed)
            kept.append(learner)
            own = {id(each) for each in learner.parameters() if each.requires_grad}
            if shared := own & owners.keys():
                raise ValueError(
                    f"compare: every training needs new weights; found the same ones in two calls, "
                    f"for {shown(owners[shared.pop()])} and {shown(name)}. Make the backbone and "
                    "the learner inside the function."
                )
            owners |= dict.fromkeys(own, name)


def digests(
    learners: Mapping[str, Learner], train: TaskSource, test: TaskSource,
    validation: TaskSource | None, over_shots: Mapping[int, TaskSource] | None, test_seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What tells a comparison from another of the same settings: hashes of tasks and learners."""
    others = {} if over_shots is None else over_shots
    return {
        "made_of": {name: _of_learner(learner) for name, learner in learners.items()},
        "first_train_task": _of_source(train, 0, Stream.TRAINING),
        "first_test_task": _of_source(test, test_seed, Stream.TEST),
        "first_validation_task": None
        if validation is None
        else _of_source(validation, 0, Stream.VALIDATION),
        "over_shots": {
            str(n): _of_source(each, test_seed, Stream.TEST) for n, each in others.items()
        },
    }


def _of_source(source: TaskSource, seed: int, stream: Stream) -> str:
    fingerprint = Fingerprint()
    fingerprint.add(draw(source, seed, 0, stream))
    return fingerprint.value


def _of_learner(learner: Learner) -> str:
    """A hash of its arguments; of class and shapes alone for one of the user's own."""
    try:
        facts = describe(learner)
    except ValueError:  # of the user's own
        shapes = {name: list(each.shape) for name, each in learner.state_dict().items()}
        facts = [type(learner).__qualname__, shapes]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
