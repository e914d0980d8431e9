"""Folders of sounds: run, adapt and predict, on the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy.io import wavfile

from quickstudy.interfaces.cli import main

RATE = 8_000
pytestmark = pytest.mark.filterwarnings("default::UserWarning")


def write(file: Path, hertz: float, seed: int, rate: int = RATE, channels: int = 1) -> None:
    """A tone that rises or falls to ``hertz``, and a little noise."""
    random = np.random.default_rng(seed)
    t = np.arange(round(random.uniform(0.2, 0.4) * rate)) / rate
    wave = np.sin(2 * np.pi * hertz * t * (1 + 0.02 * random.standard_normal()))
    wave = 0.5 * wave + 0.003 * random.standard_normal(len(t))
    stream = io.BytesIO()
    samples = np.repeat(wave[:, None], channels, 1).astype(np.float32)
    wavfile.write(stream, rate, samples)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(stream.getvalue())


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_classes_of_sounds_are_learnt_from_and_told_apart(tmp_path: Path) -> None:
    for kind in range(8):
        for take in range(4):
            write(tmp_path / "train" / f"kind {kind}" / f"{take}.wav", 250 * 1.4**kind, take)
    run = tmp_path / "run"
    found = call(
        "run", "--data", "sounds", "--root", tmp_path / "train", "--size", 16, "--channels", 4,
        "--ways", 2, "--shots", 1, "--queries", 1, "--steps", 2, "--test-tasks", 2, "--augment",
        "shifts+masks", "--out", run,
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    report = (run / "report.html").read_text()
    assert report.count("Query of") >= 2  # tiles of spectrograms
    own = tmp_path / "own"
    for name, hertz in (("low", 350.0), ("high", 2000.0)):
        for take in range(3):
            write(own / name / f"{take}.wav", hertz, 50 + take)
    predictor = tmp_path / "predictor.safetensors"
    adapted = call("adapt", run, own, "-o", predictor)
    assert adapted.exit_code == 0, adapted.output
    assert "6 spectrograms of 16 mel bands and frames" in adapted.output
    new = tmp_path / "new"
    write(new / "low" / "stereo.wav", 350, 90, rate=44_100, channels=2)
    write(new / "high" / "b.wav", 2000, 91, rate=16_000)
    (new / "high" / "broken.wav").write_bytes(b"RIFF")
    told = call("predict", predictor, new, "--json")
    assert told.exit_code == 3  # a file was left out
    predictions = json.loads(told.stdout)
    assert {Path(row["file"]).name: row["class"] for row in predictions["predictions"]} == {
        "stereo.wav": "low", "b.wav": "high",
    }  # fmt: skip
    assert "not a WAV file" in next(iter(predictions["unreadable"].values()))
    for wrong, said in (
        (("adapt", run, own, "--invert", "-o", tmp_path / "x"), "swaps black and white of images"),
        (("predict", predictor, tmp_path / "run"), "there are no sounds"),
    ):
        refused = call(*wrong)
        assert refused.exit_code != 0
        assert said in refused.output + str(refused.exception)
