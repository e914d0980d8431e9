"""Use a trained learner on your own images: adapt it to a folder, classify image files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.answers.specs import classification
from quickstudy.base.skipped import SkippedInput
from quickstudy.core import Predictor
from quickstudy.datasets.folders import read_classes
from quickstudy.datasets.images import SUFFIXES, ImageError, decode
from quickstudy.interfaces.runs.folder import Run
from quickstudy.tasks.examples import examples, to_unit


def adapt_folder(run: Run, folder: str | Path, *, strict: bool = False) -> Predictor:
    """A predictor for the classes of ``folder``: one folder of example images per class.

    Warns where the learner is transductive, because files that are predicted together then
    influence each other's predictions. Raises ValueError for fewer than two classes, or for more
    than the learner can distinguish.
    """
    learner, info = run.learner()
    channels, size, _ = _image_shape(info["shape"])
    if learner.transductive:
        warnings.warn(
            f"adapt: the learner of {run.path} is transductive (norm={run.recipe.norm!r}): its "
            "prediction for a file depends on the other files predicted with it. For independent "
            "predictions train with another norm, such as group.",
            stacklevel=2,
        )
    classes = read_classes(folder, size, channels, strict=strict)
    ids = torch.arange(len(classes)).repeat_interleave(classes.counts)
    support = examples(classes.inputs, ids)
    with torch.no_grad():
        predictor: Predictor = learner(support, classification(len(classes)))
    return replace(predictor, info={"shape": info["shape"], "names": list(classes.names)})


@dataclass(frozen=True)
class Predictions:
    """Probabilities (n, classes) of ``files``, and the files that could not be read.

    ``transductive``  whether each prediction depends on the other files.
    """

    files: list[str]
    names: list[str]
    probabilities: Tensor
    unreadable: dict[str, str]
    transductive: bool

    @property
    def protocol(self) -> str:
        """ "inductive" or "transductive"."""
        return "transductive" if self.transductive else "inductive"

    def to_json(self) -> dict[str, Any]:
        """Per file: the predicted class, its probability, and the probabilities of all classes."""
        rows = []
        for file, row in zip(self.files, self.probabilities.tolist(), strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            rows.append({
                "file": file,
                "class": self.names[best],
                "probability": round(row[best], 6),
                "probabilities": {n: round(p, 6) for n, p in zip(self.names, row, strict=True)},
            })  # fmt: skip
        return {"protocol": self.protocol, "predictions": rows, "unreadable": self.unreadable}


def predict_files(
    predictor: Predictor, paths: Sequence[str | Path], *, strict: bool = False
) -> Predictions:
    """Predictions of ``predictor`` (made by :func:`adapt_folder`) for image files.

    For a folder, all images in it are predicted. A file that is not a readable image is left out
    with a warning and listed; with ``strict`` it raises ImageError. Raises ValueError where no file
    can be read.
    """
    if "names" not in predictor.info:
        raise ValueError(
            "predict: this predictor was not made for image files (it has no class names). "
            "Make one with `quickstudy adapt`."
        )
    channels, size, _ = _image_shape(predictor.info["shape"])
    rows, files, unreadable = [], [], {}
    for file in _image_files(paths):
        try:
            rows.append(decode(file, str(file), size=size, channels=channels))
            files.append(str(file))
        except (ImageError, OSError) as error:
            if strict:
                raise
            unreadable[str(file)] = str(error)
            warnings.warn(f"left out: {error}", SkippedInput, stacklevel=2)
    if not rows:
        raise ValueError(
            f"predict: none of the {len(unreadable)} files is a readable image. "
            "Give image files, or a folder of them."
        )
    inputs = to_unit(torch.from_numpy(np.stack(rows)))
    with torch.no_grad():
        # Where predictions depend on the other rows, splitting them would change the predictions.
        transductive = predictor.learner.transductive
        parts = [inputs] if transductive else inputs.split(64)
        probabilities = torch.cat([predictor(part).softmax(-1) for part in parts])
    names = list(predictor.info["names"])
    return Predictions(files, names, probabilities, unreadable, transductive)


def _image_files(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        else:
            found.append(path)
    if not found:
        searched = ", ".join(map(str, paths))
        raise ValueError(f"predict: there are no images in {searched}. Give other files.")
    return found


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(
            f"adapt: this learner was trained on inputs of shape {tuple(shape)}, not on square "
            "images, so it cannot take image files. Use the Python interface."
        )
    return shape[0], shape[1], shape[2]
