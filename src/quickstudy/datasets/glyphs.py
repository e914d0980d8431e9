"""Glyphs: printed characters of many scripts, a data set that needs no download.

The images are rendered once, in seconds, from the fonts that ship with matplotlib. The rules:

* **Characters.** Letters and decimal digits (Unicode categories Lu, Ll, Lt, Lo, Nd) that are in
  DejaVu Sans and in at least four faces. The script is the beginning of the Unicode name; scripts
  outside :data:`SCRIPTS`, mathematical alphabets and symbols are left out.
* **Splits.** Splits have different scripts, so test scripts do not occur in training.
* **One class per shape.** Glyphs are scaled to one size. The similarity of two characters is
  the overlap of their ink, averaged over the upright faces that have both
  (:func:`.glyph_rendering.similarity`). In the order of :data:`SCRIPTS` and then of code points, a
  character is kept unless it is too similar to one kept before: 0.97 or more (Latin A, Greek Alpha
  and Cyrillic A are one class), 0.80 or more for the two cases of a letter (o and O, whose strokes
  differ once they have one size; not a and A), 0.86 or more across splits.
* **Samples.** 20 per class, from its faces in turn; each is rotated, stretched, sheared, shifted,
  bent and made bolder or lighter by small random amounts from a fixed seed.
"""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import torch

from quickstudy.answers.specs import classification
from quickstudy.datasets import glyph_rendering as rendering
from quickstudy.datasets.cache import Splits, cached, data_root
from quickstudy.datasets.dataset import Dataset, in_order
from quickstudy.datasets.registry import card
from quickstudy.tasks.domains import domains
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.tasks.rows import LabelledRows

VERSION = 1  # increase it with every change of the rendered bytes
SEED = 20_240_229
PER_CLASS = 20
LEAST_FACES = 4
SAME_SHAPE, SAME_LETTER, SIMILAR_ACROSS_SPLITS = 0.97, 0.80, 0.86

SCRIPTS: dict[str, str] = {
    "LATIN": "train",
    "DIGIT": "train",
    "CYRILLIC": "train",
    "GREEK": "train",
    "ARABIC LETTER": "train",
    "ARABIC LIGATURE": "train",
    "ARABIC-INDIC DIGIT": "train",
    "EXTENDED ARABIC-INDIC DIGIT": "train",
    "GEORGIAN": "val",
    "LAO": "val",
    "CANADIAN SYLLABICS": "test",
    "ARMENIAN": "test",
    "HEBREW": "test",
}
"""The split of each script; keys are the beginning of the characters' Unicode names."""


def load(root: str | Path | None = None) -> Dataset:
    """The glyphs: (1, 28, 28) uint8, white on black; rendered on first use and kept in ``root``.

    The superclass of a class is its script, a key of :data:`SCRIPTS`.
    """
    stored = cached(data_root(root), "glyphs", {"version": VERSION}, build)
    splits = {
        name: replace(part, superclasses=tuple(_script_of_name(n) or "" for n in part.names))
        for name, part in stored.items()
    }
    return Dataset(card("glyphs"), *in_order(splits))


def load_named_tasks(root: str | Path | None = None) -> NamedTasks:
    """Two tasks about the same pictures: "script", one of 8, and "character", one of 1,411.

    Pictures (n, 1, 28, 28) in [0, 1] are those of the training split, 20 of each character, so that
    the scripts of the test split remain unseen.

    ``root``  as for :func:`load`.
    """
    rows = load(root).train
    characters = torch.arange(len(rows)).repeat_interleave(rows.counts)
    scripts = list(dict.fromkeys(rows.superclasses or ()))
    of_character = torch.tensor([scripts.index(each) for each in rows.superclasses or ()])
    return domains(
        {
            "script": (rows.inputs, of_character[characters], classification(len(scripts))),
            "character": (rows.inputs, characters, classification(len(rows))),
        }
    )


def build() -> Splits:
    """Render all images."""
    faces_of = candidates()
    glyphs = rendering.render(faces_of)
    codes = list(faces_of)
    split_of = [SCRIPTS[script(code) or ""] for code in codes]
    kept = distinct(rendering.similarity(glyphs), codes, split_of)
    generator = torch.Generator().manual_seed(SEED)
    splits = {}
    for split in ("train", "val", "test"):
        members = [i for i in kept if split_of[i] == split]
        faces = [torch.nonzero(glyphs.character == i).flatten() for i in members]
        splits[split] = LabelledRows(
            rendering.samples(glyphs.rasters, PER_CLASS, faces, generator),
            torch.full((len(members),), PER_CLASS),
            tuple(unicodedata.name(chr(codes[i])) for i in members),
        )
    return splits


def script(code: int) -> str | None:
    """The key of :data:`SCRIPTS` for a code point; None without."""
    if unicodedata.category(chr(code)) not in ("Lu", "Ll", "Lt", "Lo", "Nd"):
        return None
    return _script_of_name(unicodedata.name(chr(code), ""))


def _script_of_name(name: str) -> str | None:
    return next((s for s in SCRIPTS if name.startswith(f"{s} ")), None)


def candidates() -> dict[int, list[int]]:
    """The faces of every code point that may become a class, sorted by script."""
    order = {name: place for place, name in enumerate(SCRIPTS)}
    found = [
        (order[name], code, faces)
        for code, faces in rendering.coverage().items()
        # every candidate is in face 0, DejaVu Sans, so that every pair can be compared
        if len(faces) >= LEAST_FACES and faces[0] == 0 and (name := script(code)) is not None
    ]
    return {code: faces for _, code, faces in sorted(found)}


def distinct(similarity: torch.Tensor, codes: list[int], split_of: list[str]) -> list[int]:
    """Indices of the characters to keep, earlier ones first, so that no two are too similar."""
    index = {code: i for i, code in enumerate(codes)}
    limit = torch.full_like(similarity, SAME_SHAPE)
    splits = torch.tensor([("train", "val", "test").index(s) for s in split_of])
    limit[splits[:, None] != splits] = SIMILAR_ACROSS_SPLITS
    for i, code in enumerate(codes):
        small = chr(code).lower()
        j = index.get(ord(small)) if len(small) == 1 else None
        if j is not None and j != i:
            limit[i, j] = limit[j, i] = SAME_LETTER
    too_similar = similarity >= limit
    kept = torch.zeros(len(codes), dtype=torch.bool)
    for i in range(len(codes)):
        kept[i] = not bool((too_similar[i] & kept).any())
    return torch.nonzero(kept).flatten().tolist()
