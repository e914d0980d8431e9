"""Use a trained learner on your own images: adapt it to a folder, classify image files."""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.answers.specs import classification
from quickstudy.backbones.pretrained.features import featurise
from quickstudy.base.shown import shown
from quickstudy.base.skipped import SkippedInput
from quickstudy.base.trees import without_rows
from quickstudy.base.words import count, first_few
from quickstudy.core import Examples, Learner, Predictor, TaskSpec
from quickstudy.datasets.folders import read_classes
from quickstudy.datasets.images import SUFFIXES, ImageError, decode
from quickstudy.evaluation.calibrate import KEY, calibrate_on_support, calibration_of
from quickstudy.evaluation.confusion import Confusion
from quickstudy.evaluation.prediction_sets import PredictionSets, sets_of_logits
from quickstudy.evaluation.support_check import SupportCheck, check_support_set
from quickstudy.interfaces.runs.featured import backbone_of, is_fixed, on_features
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.picture_files import (
    format_of_predictor,
    made_alike,
    refuse_learner,
)
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
    classes = read_classes(folder, pictures.size, 3, resize=pictures.resize, strict=strict)
    if len(classes) < 2:
        raise ValueError(
            f"adapt: {folder} has images of one class alone, {shown(classes.names[0])}. Add a "
            "folder of images of something else, to tell it from."
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
        "support": {**alike.to_json(), "digests": _digests(classes.inputs)},
    }
    if check:
        if seen := [name for name in classes.names if name in start.trained]:
            warnings.warn(
                f"adapt: the learner was trained on {_classes_named(seen)} of the same name. If "
                f"images in {folder} were among its training images, the check is too favourable. "
                "Check it with other images: `quickstudy predict` on class folders.",
                stacklevel=2,
            )
        found = chosen.check or check_support_set(_reader(learner), rows, spec, raw=support)
        about["check"] = {**found.to_json(), "summary": str(found)}
        if found.possible:
            about[KEY] = calibrate_on_support(learner, rows, spec, found.left_out).to_json()
        if found.no_better_than:
            warnings.warn(
                f"adapt: the predictor is no better than {' and '.join(found.no_better_than)}: "
                f"{found.headline}. Give more images of each class, or train a learner on images "
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


@dataclass(frozen=True)
class Predictions:
    """Probabilities (n, classes) of ``files``, and the files that could not be read.

    ``inverted``      (n,): the files in which black and white were swapped.
    ``folders``       for each file, the folder below the given one in which it lies; else "".
    ``adapted_to``    (n,): the files with images that the predictor was adapted to.
    ``transductive``  whether each prediction depends on the other files.
    ``sets``          the classes that each file may show, where a coverage was asked for.
    """

    files: list[str]
    names: list[str]
    probabilities: Tensor
    inverted: Tensor
    adapted_to: Tensor
    folders: list[str]
    unreadable: dict[str, str]
    transductive: bool
    sets: PredictionSets | None = None

    @property
    def protocol(self) -> str:
        """ "inductive" or "transductive"."""
        return "transductive" if self.transductive else "inductive"

    @cached_property
    def confusion(self) -> Confusion | None:
        """The counts over the files in folders with the name of a class; None without such."""
        number = {_normal(name): i for i, name in enumerate(self.names)}
        true = torch.tensor([number.get(_normal(folder), -1) for folder in self.folders])
        known = true >= 0
        if not bool(known.any()):
            return None
        return Confusion.of(self.names, true[known], self.probabilities.argmax(1)[known])

    @property
    def other_folders(self) -> list[str]:
        """The folders of files whose names are not those of a class, so not counted."""
        names = {_normal(name) for name in self.names}
        return sorted({f for f in self.folders if f and _normal(f) not in names})

    def to_json(self) -> dict[str, Any]:
        """Per file: the predicted class, its probability, and the probabilities of all classes.

        With ``score``, where files lie in folders with the names of classes.
        """
        rows = []
        for i, (file, row) in enumerate(zip(self.files, self.probabilities.tolist(), strict=True)):
            best = max(range(len(row)), key=row.__getitem__)
            rows.append({
                "file": file,
                "class": self.names[best],
                "probability": round(row[best], 6),
                "inverted": bool(self.inverted[i]),
                "adapted_to": bool(self.adapted_to[i]),
                "probabilities": {n: round(p, 6) for n, p in zip(self.names, row, strict=True)},
            })  # fmt: skip
            if self.sets is not None:
                rows[-1]["set"] = self.sets.named(self.names)[i]
        score = self.confusion and self.confusion.to_json()
        return {
            "protocol": self.protocol,
            "coverage": self.sets and self.sets.coverage,
            "score": score,
            "predictions": rows,
            "unreadable": self.unreadable,
        }


def predict_files(
    predictor: Predictor | Learner,
    paths: Sequence[str | Path],
    *,
    strict: bool = False,
    coverage: float | None = None,
) -> Predictions:
    """Predictions of ``predictor`` (made by :func:`adapt_folder`) for image files.

    For a folder, all images in it are predicted; those in a folder that has the name of a class
    are counted as right or wrong, see :attr:`Predictions.confusion`. With ``coverage``, each file
    has a set of classes, which contains the true one for this share of images like those that the
    predictor was adapted to (:func:`quickstudy.prediction_sets`). Images are made like those the
    learner was trained on, each by itself. A file that is not a readable image is left out with a
    warning and listed; with ``strict`` it raises ImageError. Raises ValueError where no file can be
    read, and for a coverage that the predictor's own images do not suffice for.
    """
    predictor = refuse_learner(predictor, "predict")
    bound = None if coverage is None else _bound(predictor, coverage)
    pictures = format_of_predictor(predictor)
    rows, files, folders, unreadable = [], [], [], {}
    for file, folder in _image_files(paths):
        try:
            rows.append(
                decode(file, str(file), size=pictures.size, channels=3, resize=pictures.resize)
            )
            files.append(str(file))
            folders.append(folder)
        except (ImageError, OSError) as error:
            if strict:
                raise
            unreadable[str(file)] = str(error)
            warnings.warn(f"left out: {error}", SkippedInput, stacklevel=2)
    if not rows:
        raise ValueError(
            f"predict: none of {count(len(unreadable), 'file')} is a readable image. "
            "Give image files, or a folder of them."
        )
    invert, unclear = (predictor.info.get(name) for name in ("invert", "invert_if_unclear"))
    pixels = torch.from_numpy(np.stack(rows))
    known = predictor.info.get("support", {}).get("digests", ())
    adapted_to = torch.tensor([digest in known for digest in _digests(pixels)])
    alike = made_alike(pictures, pixels, invert, bool(unclear))
    alike.warn_of_differences("predict", "the given files")
    with torch.no_grad():
        # Where predictions depend on the other rows, splitting them would change the predictions.
        transductive = predictor.learner.transductive
        parts = [alike.inputs] if transductive else alike.inputs.split(64)
        logits = torch.cat([predictor(part) for part in parts])
    probabilities = logits.softmax(-1)
    sets = None if bound is None or coverage is None else sets_of_logits(logits, bound, coverage)
    names = list(predictor.info["names"])
    found = Predictions(
        files, names, probabilities, alike.inverted, adapted_to, folders, unreadable, transductive,
        sets,
    )  # fmt: skip
    if found.confusion is not None and bool(adapted_to.any()):
        warnings.warn(
            f"predict: the predictor was adapted to {int(adapted_to.sum())} of "
            f"{count(len(files), 'image')}, so the accuracy is too high. Give other images, or use "
            "the check of `quickstudy adapt`, which leaves each image out.",
            stacklevel=2,
        )
    return found


def _bound(predictor: Predictor, coverage: float) -> float:
    """The bound of sets of this coverage; ValueError where the predictor has no calibration."""
    if KEY not in predictor.info:
        raise ValueError(
            "predict: a coverage needs a predictor that was checked when it was adapted, with two "
            "images or more of some class. Adapt again without --no-check, to more images."
        )
    return calibration_of(predictor, None).bound(coverage)


def _digests(pixels: Tensor) -> list[str]:
    """A digest of each of the ``pixels`` (n, 3, side, side) uint8, by which it is known again."""
    rows = pixels.contiguous().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in rows]


def _classes_named(names: Sequence[str]) -> str:
    return f"{count(len(names), 'class', 'classes')} ({first_few([*map(shown, names)], 3)})"


def _normal(name: str) -> str:
    """One form for names that look alike: some systems store letters and accents apart."""
    return unicodedata.normalize("NFC", name)


def _image_files(paths: Sequence[str | Path]) -> list[tuple[Path, str]]:
    """Each image, and the folder inside the given one that it lies in, "" for none."""
    found: list[tuple[Path, str]] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append((path, ""))
            continue
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES):
            inner = file.relative_to(path).parts
            found.append((file, inner[0] if len(inner) > 1 else ""))
    if not found:
        searched = ", ".join(map(str, paths))
        raise ValueError(f"predict: there are no images in {searched}. Give other files.")
    return found
