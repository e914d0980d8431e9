"""A user's own texts: a table of texts and labels, or a folder with one file of texts a class."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from quickstudy.base.skipped import SkippedInput
from quickstudy.base.trees import map_tree
from quickstudy.base.words import count
from quickstudy.datasets.clinc150 import Texts
from quickstudy.datasets.dataset import Dataset, split_dataset
from quickstudy.datasets.registry import card
from quickstudy.datasets.row_files import SUFFIXES, read_rows, read_utf8
from quickstudy.datasets.tokenizer import minilm_tokenizer
from quickstudy.tasks.rows import LabelledRows

_MOST_LISTED = 5


def load(
    root: str | Path | None = None,
    *,
    fractions: Sequence[float] | None = None,
    split_seed: int = 0,
    ways: int | None = None,
    strict: bool = False,
) -> Dataset:
    """The texts at ``root`` as tokens of all-MiniLM-L6-v2: ``ids`` and ``mask`` (rows, length).

    Whole classes are split at random, as :func:`~quickstudy.datasets.dataset.split_dataset` does;
    for 2 to 5 classes, texts of each. ``root`` and ``strict`` as for :func:`read_texts`.
    """
    return split_dataset(
        card("texts"), load_classes(root, strict=strict), fractions, split_seed, ways
    )


def load_classes(root: str | Path | None = None, *, strict: bool = False) -> LabelledRows:
    """All classes of the texts at ``root``, without a split."""
    if root is None:
        raise ValueError("texts: needs a file or folder of texts. Give it as root (--root FILE).")
    found = read_texts(Path(root).expanduser(), strict=strict)
    return LabelledRows.from_labels(minilm_tokenizer()(found.texts), found.labels)


def load_texts(root: str | Path | None = None, *, download: bool = True) -> dict[str, Texts]:
    """The texts themselves, in the split of :func:`load`: "train", "val", "test" -> texts, labels.

    ``download`` has no meaning here.
    """
    if root is None:
        raise ValueError("texts: needs a file or folder of texts. Give it as root.")
    texts = read_texts(Path(root).expanduser())
    numbers = list(range(len(texts.texts)))
    rows = LabelledRows.from_labels({"row": torch.tensor(numbers)[:, None]}, texts.labels)
    parts = split_dataset(card("texts"), rows)
    made = {}
    for name, part in parts.splits.items():
        chosen = map_tree(lambda leaf: leaf.flatten().tolist(), part.inputs)["row"]
        made[name] = Texts([texts.texts[i] for i in chosen], [texts.labels[i] for i in chosen])
    return made


def read_texts(path: Path, *, strict: bool = False) -> Texts:
    """The labelled texts at ``path``.

    A table (``.csv``, ``.tsv``, ``.jsonl``) has the columns ``text`` and ``label``. A folder has a
    file ``NAME.txt`` for each class, with a text on each line.

    An empty text is left out with a warning that counts them and names the first ones; with
    ``strict`` it raises ValueError.

    Raises FileNotFoundError, and ValueError, naming the line, for a row without a label, and where
    no text is left.
    """
    pairs = _of_folder(path) if path.is_dir() else [
        (row.place, row.values["text"], row.values["label"])
        for row in read_rows(path, ("text", "label"))
    ]  # fmt: skip
    for place, _, label in pairs:
        if not label:
            raise ValueError(f"{place}: must have a label. Add it, or leave the row out.")
    kept = without_empty([(place, text) for place, text, _ in pairs], strict)
    return Texts([pairs[i][1] for i in kept], [pairs[i][2] for i in kept])


def read_lines(paths: Sequence[Path], *, strict: bool = False) -> tuple[list[str], list[str]]:
    """Unlabelled texts, and where each stands, such as ``new.txt, line 3``.

    A table has the column ``text``; any other file has a text on each line; of a folder, all files
    in it. Empty lines of such files are left out, and empty texts of tables as by :func:`read_texts`.

    Raises FileNotFoundError, and ValueError where a file cannot be read, and for no text at all.
    """  # noqa: E501
    found: list[tuple[str, str]] = []
    for path in files_of(paths):
        if path.suffix.lower() in SUFFIXES:
            found += [(row.place, row.values["text"]) for row in read_rows(path, ("text",))]
        else:
            found += [(place, text) for place, text in _lines(path) if text]
    if not found:
        raise ValueError("predict: needs at least 1 text; found none. Give a file of texts.")
    kept = without_empty(found, strict)
    return [found[i][1] for i in kept], [found[i][0] for i in kept]


def files_of(paths: Sequence[Path]) -> list[Path]:
    """``paths``, with the files of a folder, in order of their names, in its place."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
            if not inside:
                raise ValueError(f"{path}: holds no file. Give a file, or a folder of files.")
            found += inside
        else:
            found.append(path)
    return found


def without_empty(texts: Sequence[tuple[str, str]], strict: bool) -> list[int]:
    """Which of ``texts``, pairs of place and text, are not empty; the others are warned of.

    Raises ValueError for the first empty one with ``strict``, and where all are.
    """
    empty = [place for place, text in texts if is_empty(text)]
    if empty and strict:
        raise ValueError(f"{empty[0]}: has an empty text. Write it, or leave the row out.")
    if len(empty) == len(texts):
        raise ValueError(f"{empty[0]}: has an empty text, as all others. Give texts.")
    if empty:
        more = f" ... and {len(empty) - _MOST_LISTED} more" if len(empty) > _MOST_LISTED else ""
        warnings.warn(
            f"left out {len(empty)} of {count(len(texts), 'text')}, which are empty: "
            f"{'; '.join(empty[:_MOST_LISTED])}{more}.",
            SkippedInput,
            stacklevel=3,
        )
    return [i for i, (_, text) in enumerate(texts) if not is_empty(text)]


def is_empty(text: str) -> bool:
    """Whether a text has no character that can be seen: spaces and controls alone.

    >>> is_empty(" \\u200b")
    True
    """
    return not any(c.isprintable() and not c.isspace() for c in text)


def _of_folder(path: Path) -> list[tuple[str, str, str]]:
    """Place, text and label of each line in the ``.txt`` files of a folder."""
    files = sorted(p for p in path.glob("*.txt") if p.is_file())
    if not files:
        raise ValueError(
            f"{path}: must hold a file NAME.txt for each class, with a text on each line; found "
            "none. Write one, or give a table with the columns text and label."
        )
    found = []
    for file in files:
        lines = [(place, text, file.stem) for place, text in _lines(file) if text]
        if not lines:
            raise ValueError(f"{file}: must have at least 1 text. Remove the file, or add texts.")
        found += lines
    return found


def _lines(path: Path) -> list[tuple[str, str]]:
    """Each line of a file with its place; a line of spaces is empty."""
    lines = read_utf8(path).splitlines()
    return [(f"{path}, line {number}", line.strip()) for number, line in enumerate(lines, 1)]
