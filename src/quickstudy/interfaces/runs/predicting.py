"""Classify image files with a predictor that was adapted to a folder."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.hidden import is_hidden
from quickstudy.base.skipped import SkippedInput
from quickstudy.base.words import count
from quickstudy.core import Learner, Predictor
from quickstudy.evaluation.calibrate import KEY, calibration_of
from quickstudy.evaluation.confusion import Confusion
from quickstudy.evaluation.prediction_sets import PredictionSets, sets_of_logits
from quickstudy.interfaces.runs.adapting import digests_of
from quickstudy.interfaces.runs.picture_files import (
    UNREADABLE,
    FileFormat,
    format_of_predictor,
    kind_of,
    made_alike,
    read_file,
    refuse_learner,
    suffixes_of,
)


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
    for file, folder in _files(paths, pictures):
        try:
            rows.append(read_file(pictures, file))
            files.append(str(file))
            folders.append(folder)
        except UNREADABLE as error:
            if strict:
                raise
            unreadable[str(file)] = str(error)
            warnings.warn(f"left out: {error}", SkippedInput, stacklevel=2)
    if not rows:
        raise ValueError(
            f"predict: none of {count(len(unreadable), 'file')} is a readable "
            f"{kind_of(pictures)[:-1]}. Give {kind_of(pictures)[:-1]} files, or a folder of them. "
            f"First problem: {next(iter(unreadable.values()))}"
        )
    invert, unclear = (predictor.info.get(name) for name in ("invert", "invert_if_unclear"))
    pixels = torch.from_numpy(np.stack(rows))
    known = predictor.info.get("support", {}).get("digests", ())
    adapted_to = torch.tensor([digest in known for digest in digests_of(pixels)])
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
            f"{count(len(files), kind_of(pictures)[:-1])}, so the accuracy is too high. Give other "
            f"{kind_of(pictures)}, or use the check of `quickstudy adapt`, which leaves each "
            f"{kind_of(pictures)[:-1]} out.",
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


def _normal(name: str) -> str:
    """One form for names that look alike: some systems store letters and accents apart."""
    return unicodedata.normalize("NFC", name)


def _files(paths: Sequence[str | Path], form: FileFormat) -> list[tuple[Path, str]]:
    """Each image or sound, and the folder inside the given one that it lies in, "" for none.

    Hidden ones in folders are left out, as in folders to learn from.
    """
    found: list[tuple[Path, str]] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append((path, ""))
            continue
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes_of(form)):
            inner = file.relative_to(path)
            if not is_hidden(inner):
                found.append((file, inner.parts[0] if len(inner.parts) > 1 else ""))
    if not found:
        searched = ", ".join(map(str, paths))
        raise ValueError(f"predict: there are no {kind_of(form)} in {searched}. Give other files.")
    return found
