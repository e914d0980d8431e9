"""Files of a user, images or sounds, in the form of a learner's training pictures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.base.door import to_unit
from quickstudy.core import Learner, Predictor
from quickstudy.datasets import images, sounds
from quickstudy.datasets.folders import read_classes
from quickstudy.datasets.pictures import PictureFormat
from quickstudy.datasets.sound_folders import read_sound_classes
from quickstudy.datasets.spectrograms import SpectrogramFormat
from quickstudy.tasks.rows import LabelledRows

FileFormat = PictureFormat | SpectrogramFormat
"""How files become the pictures that a learner takes."""
UNREADABLE = (images.ImageError, sounds.SoundError, OSError)


def kind_of(form: FileFormat) -> str:
    """What the files are: "images" or "sounds"."""
    return "sounds" if isinstance(form, SpectrogramFormat) else "images"


def suffixes_of(form: FileFormat) -> tuple[str, ...]:
    """The suffixes of files that are looked for in a folder."""
    return sounds.SUFFIXES if isinstance(form, SpectrogramFormat) else images.SUFFIXES


def read_folder(form: FileFormat, folder: str | Path, *, strict: bool) -> LabelledRows:
    """The classes in the folders of ``folder``; pixels (n, channels, size, size) uint8."""
    if isinstance(form, SpectrogramFormat):
        return read_sound_classes(folder, form, strict=strict)
    return read_classes(folder, form.size, 3, resize=form.resize, strict=strict)


def read_file(form: FileFormat, file: Path) -> np.ndarray:
    """The pixels (channels, size, size) of one file; an error of :data:`UNREADABLE` for others."""
    if isinstance(form, SpectrogramFormat):
        return form.read(file, str(file))
    return images.decode(file, str(file), size=form.size, channels=3, resize=form.resize)


@dataclass(frozen=True)
class Alike:
    """n pictures in the form of the training pictures.

    ``inputs``       (n, channels, side, side), as the learner takes them.
    ``inverted``     (n,): the pictures in which black and white were swapped.
    ``differences``  how most of them differ from the training pictures; "" where they do not.
    """

    inputs: Tensor
    inverted: Tensor
    differences: str

    def warn_of_differences(self, command: str, what: str) -> None:
        """A warning where the pictures are of another kind; ``what`` names them."""
        if self.differences:
            warnings.warn(
                f"{command}: the pictures in {what} are of another kind than those the learner was "
                f"trained on ({self.differences}), so its predictions may mean little. Use "
                "pictures like the training data, or train a learner on pictures like these.",
                stacklevel=3,
            )

    def to_json(self) -> dict[str, Any]:
        """What was done to how many pictures, as plain values."""
        return {
            "images": len(self.inverted),
            "inverted": int(self.inverted.sum()),
            "differences": self.differences,
        }


def made_alike(
    pictures: FileFormat, pixels: Tensor, invert: bool | None, otherwise: bool | None = None
) -> Alike:
    """``pixels`` (n, 3, side, side) uint8 in the form ``pictures``; spectrograms as they are.

    ``invert``     whether to swap black and white in all; None to see from each.
    ``otherwise``  what None means for a picture that does not tell; by default as most do.
    """
    unit = to_unit(pixels)
    if isinstance(pictures, SpectrogramFormat):
        if invert:
            raise ValueError("adapt: --invert swaps black and white of images, but these are "
                             "sounds. Leave it out.")  # fmt: skip
        return Alike(unit, torch.zeros(len(unit), dtype=torch.bool), "")
    if invert is None:
        inverted = pictures.to_invert(unit, otherwise)
    else:
        inverted = torch.full((len(unit),), invert)
    return Alike(pictures.apply(unit, inverted), inverted, pictures.differences(unit))


def _format_from_json(values: Any) -> FileFormat:
    of_sounds = isinstance(values, dict) and "seconds" in values
    return SpectrogramFormat.from_json(values) if of_sounds else PictureFormat.from_json(values)


def format_of_learner(info: Mapping[str, Any], run: Path) -> FileFormat:
    """The format of the pictures that the learner of ``run`` was trained on.

    Raises ValueError where it was trained on other inputs.
    """
    if "pictures" not in info:
        raise ValueError(
            f"adapt: the learner of {run} was saved by an earlier version, which did not keep how "
            "its training pictures were made. Train it again."
        )
    if info["pictures"] is not None:
        return _format_from_json(info["pictures"])
    shape = tuple(info.get("shape", ()))
    raise ValueError(
        f"adapt: the learner of {run} was trained on inputs of shape {shape}, of which it is not "
        "known how to make them from image files: they must be square pictures of 1 or 3 channels "
        "with values of 0 to 1, -1 to 1 or 0 to 255. Use the Python interface."
    )


def refuse_learner(thing: Predictor | Learner, command: str) -> Predictor:
    """``thing``; ValueError, beginning with ``command``, for a learner, which has no classes."""
    if isinstance(thing, Predictor):
        return thing
    raise ValueError(
        f"{command}: the file holds a learner, {type(thing).__name__}, which knows no classes "
        "yet. Adapt it with `quickstudy adapt` first, and give the predictor that this writes."
    )


def format_of_predictor(predictor: Predictor) -> FileFormat:
    """The format of the pictures that ``predictor`` takes; ValueError where it takes none."""
    info = predictor.info
    names, invert = info.get("names"), info.get("invert")
    if names is None or info.get("pictures") is None:
        raise ValueError(
            "predict: this predictor was not made for image files (it has no class names, or no "
            "format of pictures). Make one with `quickstudy adapt`."
        )
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    if not named or len(names) != predictor.spec.outputs or invert not in (None, True, False):
        raise ValueError(
            f"predict: the predictor distinguishes {predictor.spec.outputs} classes, but its file "
            f"names {str(names)[:100]}, and invert is {str(invert)[:20]}. Adapt again."
        )
    return _format_from_json(info["pictures"])
