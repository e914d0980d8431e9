"""Spectrograms against sums over samples, written from the definition."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from quickstudy import datasets
from quickstudy.datasets.sounds import Sound
from quickstudy.datasets.spectrograms import (
    RATE,
    SpectrogramFormat,
    centred,
    heard,
    mel_bands,
    power,
    resampled,
)


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(samples) / 10


def test_the_power_is_that_of_a_sum_over_windowed_samples() -> None:
    wave, frames, width = noise(1000), 5, 256
    found = power(wave, frames)
    assert found.shape == (width + 1, frames)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    for frame in range(frames):
        start = int((frame + 0.5) * 1000 / frames) - width // 2
        piece = [wave[t] if 0 <= t < 1000 else 0.0 for t in range(start, start + width)]
        for k in (0, 3, 100, 256):
            angle = -2 * np.pi * k * np.arange(width) / (2 * width)
            total = (window * piece * (np.cos(angle) + 1j * np.sin(angle))).sum()
            np.testing.assert_allclose(found[k, frame], abs(total) ** 2, rtol=1e-9, atol=1e-12)


def test_a_pure_tone_is_loudest_in_the_band_of_its_frequency() -> None:
    edges = np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 4000 / 700), 42)
    centres = 700 * (10 ** (edges[1:-1] / 2595) - 1)
    for band in (5, 12, 20, 33, 39):
        picture = SpectrogramFormat(40).picture(Sound(tone(centres[band]), RATE))[0]
        column = picture[:, 20].astype(int)
        assert column.argmax() == 39 - band  # the lowest band is in the last row
        assert column.max() >= 250
        assert (np.abs(np.arange(40) - column.argmax())[column == 0] > 1).all()


def test_every_frequency_lies_in_bands_whose_heights_add_up_to_one() -> None:
    bands = mel_bands(40)
    frequencies = np.fft.rfftfreq(512, 1 / RATE)
    inner = (frequencies > 120) & (frequencies < 3700)
    # Two neighbouring triangles add up to 1; linear in hertz, as the bands are.
    np.testing.assert_allclose(bands.sum(0)[inner], 1, atol=1e-9)


def test_loudness_and_quiet_ends_change_nothing() -> None:
    form, wave = SpectrogramFormat(32), noise(3000) * np.hanning(3000)
    wave -= wave.mean()
    picture = form.picture(Sound(wave, RATE))
    assert np.array_equal(form.picture(Sound(wave / 50, RATE)), picture)
    padded = np.concatenate([np.zeros(4000), wave, np.zeros(900)])
    later = form.picture(Sound(padded + 0.02, RATE))  # and a constant offset
    assert np.abs(later.astype(int) - picture).mean() < 2


def test_only_what_is_heard_is_kept_but_pauses_inside_are() -> None:
    word = np.concatenate([noise(800), np.zeros(1200), noise(800)])
    found = heard(np.concatenate([np.zeros(5000), word, np.zeros(3000)]))
    assert abs(len(found) - len(word)) <= RATE // 50


def test_a_word_said_half_as_fast_looks_the_same_by_default() -> None:
    def chirp(seconds: float) -> Sound:
        t = np.arange(round(seconds * RATE)) / RATE
        return Sound(np.sin(2 * np.pi * (400 * t + 600 * t**2 / seconds)), RATE)

    fast, slow = (SpectrogramFormat(32).picture(chirp(s)).astype(int) for s in (0.5, 1.0))
    assert np.abs(fast.argmax(1) - slow.argmax(1)).max() <= 1
    one_second = SpectrogramFormat(32, 2.0)
    assert (one_second.picture(chirp(0.5)) > 0).any(1).sum() < 12  # frames; the others are silent
    assert one_second.picture(Sound(noise(6 * RATE), RATE)).shape == (1, 32, 32)


def test_a_sound_of_another_rate_is_the_same_sound() -> None:
    for rate in (16_000, 11_025, 44_100):
        found = resampled(Sound(tone(500, rate=rate), rate))
        assert abs(len(found) - RATE // 2) <= 1
        np.testing.assert_allclose(found[400:3600], tone(500)[400:3600], atol=2e-3)
    high = resampled(Sound(tone(7000, rate=16_000), 16_000))
    assert np.abs(high[400:3600]).max() < 0.02  # above 4 kHz, and not folded down


def test_the_loudest_part_of_a_long_sound_is_taken() -> None:
    wave = np.concatenate([np.zeros(3000), noise(1000), np.zeros(5000)])
    assert np.array_equal(centred(wave, 1000), wave[3000:4000])
    assert np.array_equal(centred(np.ones(3), 6), [0, 1, 1, 1, 0, 0])


@pytest.mark.parametrize("wrong", [(4, None), (10_000, None), (40, 0.01), (40, 900.0)])
def test_a_format_out_of_range_is_refused(wrong: tuple[int, float | None]) -> None:
    with pytest.raises(ValueError, match="spectrograms: need a size"):
        SpectrogramFormat(*wrong)
    form = SpectrogramFormat(24, 1.5)
    assert SpectrogramFormat.from_json(form.to_json()) == form
    with pytest.raises(ValueError, match="incomplete or damaged"):
        SpectrogramFormat.from_json({"size": 40})


def write(file: Path, wave: np.ndarray, rate: int = RATE) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    wavfile.write(stream, rate, np.round(32767 * wave).astype(np.int16))
    file.write_bytes(stream.getvalue())


def test_a_folder_of_sounds_is_a_data_set(tmp_path: Path) -> None:
    for word in range(7):
        for take in range(3):
            write(
                tmp_path / f"word {word}" / f"{take}.wav", tone(300 + 400 * word), 8000 * (1 + take)
            )
    (tmp_path / "word 0" / "broken.wav").write_bytes(b"RIFF and no more")
    write(tmp_path / "word 1" / "quiet.wav", np.zeros(4000))
    with pytest.warns(
        UserWarning, match=r"left out 2 of 23 files: .*broken.wav: .*quiet.wav: .*silent"
    ):
        data = datasets.load("sounds", tmp_path, size=16)
    assert sum(len(part) for part in data.splits.values()) == 7
    assert data.train.inputs.shape[1:] == (1, 16, 16)
    with pytest.raises(ValueError, match=r"broken.wav: .*not a WAV file"):
        datasets.load("sounds", tmp_path, strict=True)
    with pytest.raises(ValueError, match="one folder of sounds per class"):
        datasets.load("sounds", tmp_path / "word 3")
    with pytest.raises(ValueError, match="Give it as root"):
        datasets.load("sounds")
