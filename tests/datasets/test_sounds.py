"""Sound files are read as SciPy and the standard library write them, or named in an error."""

from __future__ import annotations

import io
import os
import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from quickstudy.datasets import sounds
from quickstudy.datasets.sounds import SoundError, decode_sound

RATE = 8_000


def tone(seconds: float = 0.3, hertz: float = 440.0, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    wavfile.write(stream, rate, samples)
    return stream.getvalue()


def sixteen_bits(samples: np.ndarray) -> np.ndarray:
    return np.round(32767 * samples).astype(np.int16)


@pytest.mark.parametrize(
    ("stored", "step"),
    [
        (np.round(127 * tone() + 128).astype(np.uint8), 1 / 128),
        (sixteen_bits(tone()), 1 / 32768),
        (np.round((2**31 - 1) * tone()).astype(np.int32), 1e-8),
        (tone().astype(np.float32), 1e-7),
    ],
    ids=["8 bits", "16 bits", "32 bits", "float"],
)
def test_every_depth_gives_the_same_wave(stored: np.ndarray, step: float) -> None:
    found = decode_sound(wav(stored), "tone")
    assert found.rate == RATE
    np.testing.assert_allclose(found.samples, tone(), atol=1.1 * step)


def test_24_bits_of_the_standard_library_are_read() -> None:
    stream = io.BytesIO()
    numbers = np.round((2**23 - 1) * tone()).astype("<i4")
    with wave.open(stream, "wb") as file:
        file.setparams((1, 3, RATE, 0, "NONE", ""))
        file.writeframes(b"".join(number.tobytes()[:3] for number in numbers))
    np.testing.assert_allclose(decode_sound(stream.getvalue(), "tone").samples, tone(), atol=1e-6)


def test_of_several_channels_the_mean_is_taken() -> None:
    left, right = tone(hertz=300), tone(hertz=700)
    stereo = np.stack([left, right], 1).astype(np.float32)
    found = decode_sound(wav(stereo, 16_000), "stereo")
    assert found.rate == 16_000
    np.testing.assert_allclose(found.samples, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("factor", [32_768.0, 1e300])
def test_reals_beyond_full_scale_are_divided_by_the_greatest(factor: float) -> None:
    """Some programs write reals in the range of 16 bits."""
    found = decode_sound(wav(factor * tone()), "tone")
    expected = tone() / np.abs(tone()).max()
    np.testing.assert_allclose(found.samples, expected, atol=1e-9)


GOOD = wav(sixteen_bits(tone()))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"not a sound at all, but a text of some length", "not a WAV file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "not a WAV file"),
        (GOOD[:20], "cannot be read"),
        (GOOD[:12], "cannot be read"),
        (GOOD[:1000], "cannot be read"),
        (wav(np.zeros(RATE, np.int16)), "silent"),
        (wav(np.full(RATE, 900, np.int16)), "silent"),
        (wav(np.zeros(0, np.int16)), "no samples|cannot be read"),
        (wav(sixteen_bits(tone(0.01))), "too short"),
        (wav(sixteen_bits(tone(31.0))), "limit is 30"),
        (wav(sixteen_bits(tone()), 1000), "samples a second"),
        (wav(sixteen_bits(tone()), 2**31 - 1), "samples a second"),
        (wav(np.where(np.arange(2400) == 7, np.nan, tone()).astype(np.float32)), "not finite"),
    ],
)  # fmt: skip
def test_what_is_no_usable_sound_is_named(content: bytes, said: str) -> None:
    with pytest.raises(SoundError, match=f"^my file: .*({said})"):
        decode_sound(content, "my file")


def test_files_that_are_none_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SoundError, match="no such file"):
        decode_sound(tmp_path / "none.wav", "none")
    with pytest.raises(SoundError, match="regular file"):
        decode_sound(tmp_path, "folder")
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(SoundError, match="regular file"):
        decode_sound(tmp_path / "pipe.wav", "pipe")
    (tmp_path / "large.wav").write_bytes(GOOD)
    monkeypatch.setattr(sounds, "MAX_BYTES", 100)
    with pytest.raises(SoundError, match="over 100 bytes"):
        decode_sound(tmp_path / "large.wav", "large")


def test_damaged_files_are_sounds_or_are_refused() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(GOOD[: random.integers(44, 600)] if random.random() < 0.3 else GOOD)
        for place in random.integers(0, 60, random.integers(1, 4)):
            damaged[min(place, len(damaged) - 1)] = random.integers(256)
        try:
            found = decode_sound(bytes(damaged), "damaged")
        except SoundError as error:
            assert str(error).startswith("damaged: ")  # noqa: PT017
        else:
            assert np.isfinite(found.samples).all()


def test_other_formats_equal_the_wave_that_they_hold(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "tone.flac", np.stack([tone(), 0 * tone()], 1), RATE)
    found = decode_sound(tmp_path / "tone.flac", "tone")
    assert found.rate == RATE
    np.testing.assert_allclose(found.samples, tone() / 2, atol=1e-4)
    (tmp_path / "tone.flac").write_bytes(b"no FLAC at all, but a text of some length")
    with pytest.raises(SoundError, match="cannot be read"):
        decode_sound(tmp_path / "tone.flac", "tone")
