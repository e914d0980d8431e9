"""Adapt a trained learner to a folder of your own images, and keep the predictor."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.specs import classification
from quickstudy.backbones.pretrained.features import featurise
from quickstudy.base.shown import shown
from quickstudy.base.trees import without_rows
from quickstudy.base.words import count, first_few
from quickstudy.core import Examples, Learner, Predictor, TaskSpec
from quickstudy.evaluation.calibrate import KEY, calibrate_on_support
from quickstudy.evaluation.support_check import SupportCheck, check_support_set
from quickstudy.interfaces.runs.featured import backbone_of, is_fixed, on_features
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.picture_files import kind_of, made_alike, read_folder
from quickstudy.interfaces.runs.starts import Start, start_of_run
from quickstudy.tasks.examples import examples
from quickstudy.tasks.order import in_mixed_order


def adapt_folder(
    run: Run | Start,
    folder: str | Path,
    *,
    strict: bool = False,
    invert: bool | None = None,
    check: bool = True,
) -> Predictor:
    """A predictor for the classes of ``folder``: one folder of example images per class.

    Sounds, for a learner of these, are images too: their spectrograms.

    ``run`` is a run, or a :class:`~quickstudy.interfaces.runs.starts.Start` of a pretrained
    backbone: its features of the images are computed once, and of several learners the one is taken
    that predicts most left-out images right, the first of equals.

    The images are made like those the learner was trained on: size, channels, filter, values, and
    dark or light background.

    ``invert``  whether to swap black and white; by default for each image whose background is the
                opposite of that of the training images, if these have one.
    ``check``   whether to predict each image by a predictor that was adapted without it, see
                :func:`.check_support_set`. From these predictions follow sets of classes
                (:func:`predict_files` with ``coverage``).

    ``info`` of the predictor holds ``names`` of the classes, the format of ``pictures``,
    ``support`` (the number of images, how many were inverted, how they differ from the training
    images, and ``digests`` by which they are known again), the ``learner`` and the result of the
    ``check``; of a pretrained backbone also its name and what its weights have ``seen``.

    Warns where the images are of another kind than the training images, where the check shows the
    predictor to be no better than chance or than raw pixels, and where the learner is transductive,
    because files that are predicted together then influence each other's predictions. Raises
    ValueError for fewer than two classes, or for more than the learner can distinguish.
    """
    start = run if isinstance(run, Start) else start_of_run(run)
    learner, pictures = next(iter(start.learners.values())), start.pictures
    if learner.transductive:
        warnings.warn(
            f"adapt: the learner of {start.name} is transductive (norm={start.norm!r}): its "
            "prediction for a file depends on the other files predicted with it. For independent "
            "predictions train with another norm, such as group.",
            stacklevel=2,
        )
    classes, files = read_folder(pictures, folder, strict=strict), kind_of(pictures)
    if len(classes) < 2:
        raise ValueError(
            f"adapt: {folder} has {files} of one class alone, {shown(classes.names[0])}. Add a "
            f"folder of {files} of something else, to tell it from."
        )
    alike = made_alike(pictures, classes.inputs, invert)
    alike.warn_of_differences("adapt", str(folder))
    ids = torch.arange(len(classes)).repeat_interleave(classes.counts)
    support, spec = examples(alike.inputs, ids), classification(len(classes))
    rows = _as_read(learner, support)
    chosen = choose_learner(start.learners, rows, spec, raw=support)
    learner = start.learners[chosen.name]
    predictor = _predictor(learner, rows, support, spec)
    about: dict[str, Any] = {
        **start.about,
        "learner": {"name": chosen.name, "why": chosen.why},
        "names": list(classes.names),
        "pictures": pictures.to_json(),
        "invert": invert,
        "invert_if_unclear": 2 * int(alike.inverted.sum()) > len(alike.inverted),
        "support": {**alike.to_json(), "digests": digests_of(classes.inputs)},
    }
    if check:
        if seen := [name for name in classes.names if name in start.trained]:
            warnings.warn(
                f"adapt: the learner was trained on {_classes_named(seen)} of the same name. If "
                f"{files} in {folder} were among its training {files}, the check is too "
                f"favourable. Check it with other {files}: `quickstudy predict` on class folders.",
                stacklevel=2,
            )
        found = chosen.check or check_support_set(_reader(learner), rows, spec, raw=support)
        about["check"] = {**found.to_json(), "summary": str(found)}
        if found.possible:
            about[KEY] = calibrate_on_support(learner, rows, spec, found.left_out).to_json()
        if found.no_better_than:
            warnings.warn(
                f"adapt: the predictor is no better than {' and '.join(found.no_better_than)}: "
                f"{found.headline}. Give more {files} of each class, or train a learner on {files} "
                "like these.",
                stacklevel=2,
            )
    return replace(predictor, info=about)


def _reader(learner: Learner) -> Learner:
    """``learner``, for features where it has a frozen pretrained backbone."""
    return on_features(learner) if is_fixed(learner) else learner


def _as_read(learner: Learner, support: Examples) -> Examples:
    """``support`` with the features of a frozen pretrained backbone, where ``learner`` has one."""
    return featurise(support, backbone_of(learner)) if is_fixed(learner) else support


def _predictor(learner: Learner, rows: Examples, support: Examples, spec: TaskSpec) -> Predictor:
    """``learner`` adapted to ``support``, of which it reads ``rows``."""
    reader = _reader(learner)
    with torch.no_grad():
        made: Predictor = reader(in_mixed_order(reader, rows), spec)
    return replace(made, learner=learner, no_rows=without_rows(support.inputs))


@dataclass(frozen=True)
class _Chosen:
    """The learner that was taken, why, and its check if that decided."""

    name: str
    why: str
    check: SupportCheck | None = None


def choose_learner(
    learners: Mapping[str, Learner], rows: Examples, spec: TaskSpec, raw: Examples
) -> _Chosen:
    """The learner that predicts most rows right when left out; the first of equals."""
    first = next(iter(learners))
    if len(learners) == 1:
        return _Chosen(first, "the one that was given")
    checks = {
        name: check_support_set(_reader(learner), rows, spec, raw=raw)
        for name, learner in learners.items()
    }
    if not checks[first].possible:
        return _Chosen(first, "with one image of each class, no other can be compared with it")
    best = max(checks, key=lambda name: checks[name].right)  # the first of equals
    shares = ", ".join(f"{name} {each.right} of {each.rows}" for name, each in checks.items())
    equal = len({each.right for each in checks.values()}) == 1
    why = f"left-out images predicted right: {shares}"
    return _Chosen(best, f"{why}; the simplest of equals" if equal else why, checks[best])


def _classes_named(names: Sequence[str]) -> str:
    return f"{count(len(names), 'class', 'classes')} ({first_few([*map(shown, names)], 3)})"


def digests_of(pixels: Tensor) -> list[str]:
    """A digest of each of the ``pixels`` (n, 3, side, side) uint8, by which it is known again."""
    rows = pixels.contiguous().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in rows]
