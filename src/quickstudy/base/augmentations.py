"""The names of augmentations; needs no torch, so that recipes are checked at once."""

from __future__ import annotations

from quickstudy.base.names import unknown_name

AUGMENTATIONS = ("crop", "flip", "colour", "affine", "shifts", "masks")
"""Those of :mod:`quickstudy.tasks.augmentation`."""


def augmentation_names(text: str) -> tuple[str, ...]:
    """The names in a text such as "crop+flip"; ValueError for unknown or repeated ones."""
    names = tuple(name.strip() for name in text.split("+"))
    for name in names:
        if name not in AUGMENTATIONS:
            raise unknown_name("augment", name, dict.fromkeys(AUGMENTATIONS))
        if names.count(name) > 1:
            raise ValueError(f"augment: {name} is given twice in {text!r}. Give it once.")
    return names
