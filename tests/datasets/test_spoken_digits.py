"""Spoken digits: speakers are known by what they said, and the splits are as the page says."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from quickstudy import datasets
from quickstudy.datasets import cache
from quickstudy.datasets.limits import ArchiveError

OTHER_NAMES = {"s1": "ann", "s2": "bob", "s3": "cem", "s4": "dan", "s5": "eve", "s6": "abe"}


@pytest.fixture
def root(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "user_cache", lambda: tmp_path / "cache")
    return shared_data


def test_the_splits_hold_out_words_speakers_or_both(root: Path) -> None:
    both, words, speakers = (
        datasets.load("spoken_digits", root, split=split, size=16)
        for split in ("both", "words", "speakers")
    )
    assert both.train.names == words.train.names == ("zero", "one", "two", "three", "four", "five")
    assert both.test.names == words.test.names == ("six", "seven", "eight", "nine")
    assert both.train.counts.tolist() == [80] * 6
    assert both.test.counts.tolist() == [40] * 4
    assert words.test.counts.tolist() == [120] * 4
    assert (len(speakers.train), len(speakers.test)) == (40, 20)
    assert set(speakers.test.superclasses or ()) == {"s5", "s6"}
    assert set(speakers.train.superclasses or ()) == {"s1", "s2", "s3", "s4"}
    assert speakers.within_superclass
    assert not both.within_superclass
    assert all(len(data.val) == 0 for data in (both, words, speakers))
    more = datasets.load("spoken_digits", root, size=16, rotations=True)
    assert more.train.names[6:8] == ("zero, backwards", "one, backwards")
    assert torch.equal(more.train.rows(7), both.train.rows(1).flip(-1))
    assert more.test.names == both.test.names
    # the same recordings, whatever they are grouped by
    nine = speakers.test.names.index("s6/nine")
    assert torch.equal(speakers.test.rows(nine), both.test.rows(3)[20:])
    assert torch.equal(words.test.rows(3)[100:], both.test.rows(3)[20:])


def test_speakers_are_known_by_what_they_said(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "own" / "spoken_digits" / "recordings"
    own.mkdir(parents=True)
    with zipfile.ZipFile(root / "spoken_digits" / "spoken_digits.zip") as archive:
        for name in archive.namelist():
            if name.endswith(".wav"):
                digit, speaker, take = Path(name).stem.split("_")
                published = f"{digit}_{OTHER_NAMES[speaker]}_{int(take)}.wav"
                (own / published).write_bytes(archive.read(name))
    (own / "3_ann_49.wav").write_bytes(b"a later take, which is not used")
    again = datasets.load("spoken_digits", tmp_path / "own", size=16)
    same = datasets.load("spoken_digits", root, size=16)
    assert torch.equal(again.test.inputs, same.test.inputs)
    take = own / "7_eve_3.wav"
    take.write_bytes(take.read_bytes()[:-2] + b"\0\1")
    with pytest.raises(ArchiveError, match="lacks the recordings of speaker s5"):
        datasets.load("spoken_digits", tmp_path / "own", size=17)
    with pytest.raises(FileNotFoundError, match="no recordings"):
        datasets.load("spoken_digits", tmp_path / "none")
    with pytest.raises(ValueError, match="spoken_digits: split"):
        datasets.load("spoken_digits", root, split="letters")
