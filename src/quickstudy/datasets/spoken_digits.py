"""Spoken digits: recordings of the English words zero to nine by six speakers, as spectrograms.

The first 20 recordings of each word and speaker. There is no customary few-shot split; these are:

    both      new words by new speakers: trained on zero to five of speakers s1 to s4, tested on six
              to nine of s5 and s6
    words     new words: trained on zero to five, tested on six to nine, all by all speakers
    speakers  the same words by new speakers: trained on s1 to s4, tested on s5 and s6; a class is a
              word of one speaker, and the classes of a task come from one speaker

No class is left to validate with. Speakers are known by what they said, whatever their files are
called: the SHA-256 of each one's recordings is on the card.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from quickstudy.base.names import unknown_name
from quickstudy.datasets.cache import Splits, cached, data_root
from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.limits import ArchiveError, Limits
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import entries, find
from quickstudy.datasets.spectrograms import VERSION, SpectrogramFormat
from quickstudy.tasks.rows import LabelledRows

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPEAKERS = ("s1", "s2", "s3", "s4", "s5", "s6")
TAKES = 20
"""Recordings of each word by each speaker that are used: the first ones."""
RECORDING = re.compile(r"(\d)_([a-z0-9]+)_(\d+)\.wav$")
"""The name of a recording: digit, speaker and number."""

OLD_WORDS, NEW_WORDS = WORDS[:6], WORDS[6:]
OLD_SPEAKERS, NEW_SPEAKERS = SPEAKERS[:4], SPEAKERS[4:]

Recordings = dict[str, list[bytes]]
"""``speaker/word`` -> the WAV files of its takes, in order."""


def load(
    root: str | Path | None = None,
    *,
    split: str = "both",
    size: int | None = None,
    rotations: bool = False,
) -> Dataset:
    """Spoken digits: (1, size, size) uint8 spectrograms, see :mod:`.spectrograms`.

    ``root``   holds ``spoken_digits/`` with ``spoken_digits.zip``, or with the recordings or the
               folder ``recordings`` of the published repository.
    ``split``  "both", "words" or "speakers", see the module.
    ``size``   bands and frames.
    ``rotations``  add every training word, played backwards, as a further class: twice as many
               words to learn from.
    """
    if split not in card("spoken_digits").splits:
        raise unknown_name(
            "spoken_digits: split", split, dict.fromkeys(card("spoken_digits").splits)
        )
    folder = data_root(root)
    form = SpectrogramFormat() if size is None else SpectrogramFormat(size)
    recipe = {"version": VERSION, **form.to_json()}
    rows = cached(folder, "spoken_digits", recipe, lambda: build(folder, form))["all"]
    train, test = divided(rows, split)
    train = with_backwards(train) if rotations else train
    return Dataset(
        card("spoken_digits"), train, train.without_classes(), test,
        within_superclass=split == "speakers",
    )  # fmt: skip


def with_backwards(words: LabelledRows) -> LabelledRows:
    """``words``, and each again from its end to its beginning."""
    above = words.superclasses
    return LabelledRows(
        torch.cat([words.inputs, words.inputs.flip(-1)]),
        words.counts.repeat(2),
        (*words.names, *(f"{name}, backwards" for name in words.names)),
        None if above is None else (*above, *(f"{speaker}, backwards" for speaker in above)),
    )


def divided(rows: LabelledRows, split: str) -> tuple[LabelledRows, LabelledRows]:
    """Training and test classes of ``rows``, one class for each ``speaker/word``."""
    if split == "speakers":
        return _of_speakers(rows, OLD_SPEAKERS), _of_speakers(rows, NEW_SPEAKERS)
    old, new = (OLD_SPEAKERS, NEW_SPEAKERS) if split == "both" else (SPEAKERS, SPEAKERS)
    return _of_words(rows, OLD_WORDS, old), _of_words(rows, NEW_WORDS, new)


def _of_speakers(rows: LabelledRows, speakers: tuple[str, ...]) -> LabelledRows:
    """A class for each word of each of these speakers."""
    names = [f"{speaker}/{word}" for speaker in speakers for word in WORDS]
    taken = torch.cat([_takes(rows, name) for name in names])
    counts = torch.full((len(names),), TAKES)
    return LabelledRows(taken, counts, tuple(names), tuple(name[:2] for name in names))


def _of_words(
    rows: LabelledRows, words: tuple[str, ...], speakers: tuple[str, ...]
) -> LabelledRows:
    """A class for each word, by all of these speakers."""
    taken = [_takes(rows, f"{speaker}/{word}") for word in words for speaker in speakers]
    counts = torch.full((len(words),), TAKES * len(speakers))
    return LabelledRows(torch.cat(taken), counts, words)


def _takes(rows: LabelledRows, name: str) -> torch.Tensor:
    start = TAKES * rows.names.index(name)
    taken: torch.Tensor = rows.inputs[start : start + TAKES]
    return taken


def build(root: Path, form: SpectrogramFormat) -> Splits:
    """Read and verify all recordings, and make their spectrograms."""
    source = find([root / "spoken_digits", root], ["spoken_digits.zip"]) or root / "spoken_digits"
    found = read(source)
    names = [f"{speaker}/{word}" for speaker in SPEAKERS for word in WORDS]
    pictures = [form.read(take, f"{source}: {name}") for name in names for take in found[name]]
    counts = torch.full((len(names),), TAKES)
    rows = LabelledRows(torch.from_numpy(np.stack(pictures)), counts, tuple(names))
    return {"all": rows}


def read(source: Path) -> Recordings:
    """The recordings of all speakers; ArchiveError where one's are not those published."""
    found: dict[str, dict[tuple[int, int], bytes]] = {}
    for name, data in entries(
        source, lambda name: _parts(name) is not None, Limits(file_bytes=2**20)
    ):
        digit, speaker, take = _parts(name) or (0, "", 0)
        found.setdefault(speaker, {})[digit, take] = data
    if not found:
        raise FileNotFoundError(
            f"spoken_digits: there are no recordings in {source}. Get the folder recordings of "
            f"{card('spoken_digits').url} and put it there."
        )
    by_digest = {digest(takes): takes for takes in found.values()}
    recordings: Recordings = {}
    for speaker in SPEAKERS:
        takes = by_digest.get(card("spoken_digits").digest(f"recordings of {speaker}"))
        if takes is None:
            raise ArchiveError(
                f"{source}: lacks the recordings of speaker {speaker}, or they differ from the "
                f"published ones; found {len(found)} speakers: {', '.join(sorted(found)[:9])}. Get "
                f"them again from {card('spoken_digits').url}."
            )
        for (digit, _), data in sorted(takes.items()):
            recordings.setdefault(f"{speaker}/{WORDS[digit]}", []).append(data)
    return recordings


def _parts(name: str) -> tuple[int, str, int] | None:
    """Digit, speaker and number of a recording that is used; None for any other file."""
    match = RECORDING.fullmatch(PurePosixPath(name).name)
    if match is None or int(match[3]) >= TAKES:
        return None
    return int(match[1]), match[2], int(match[3])


def digest(takes: dict[tuple[int, int], bytes]) -> str:
    """SHA-256 over the files of one speaker with their digits and numbers."""
    total = hashlib.sha256()
    for (digit, take), data in sorted(takes.items()):
        total.update(f"{digit} {take} {len(data)} ".encode())
        total.update(data)
    return total.hexdigest()
