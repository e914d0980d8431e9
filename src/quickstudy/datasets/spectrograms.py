"""Log-mel spectrograms: sounds as pictures, from which learners of pictures learn.

    power[k, t]   = |sum_s window[s] wave[hop t + s] exp(-2πi k s / N)|²     (short-time Fourier)
    mel[b, t]     = sum_k triangle[b, k] power[k, t]
    picture[b, t] = 1 + (10 log10(mel[b, t] / largest mel)) / range,  at least 0

Bands are of equal width on the mel scale, 2595 log10(1 + f / 700). The loudest value of a recording
is 1, and what is ``RANGE`` decibels below it is 0: how loud it was recorded does not matter.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quickstudy.datasets.sounds import LONGEST, Sound, decode_sound

RATE = 8_000
"""Samples a second to which sounds are resampled: speech is understood below 4 kHz."""
WINDOW = 0.032
"""Seconds of the Hann window."""
RANGE = 60.0
"""Decibels between white and black."""
QUIET = 1e-4
"""Power, as a share of the loudest, below which both ends of a recording are cut off: -40 dB."""
SIZE = 32
LARGEST_SIZE = 512
VERSION = 1  # increase it with every change of the pictures


@dataclass(frozen=True)
class SpectrogramFormat:
    """How sounds become pictures (1, size, size) uint8.

    ``size``     mel bands, and frames.
    ``seconds``  that the frames cover: shorter sounds get silence on both sides, and of longer ones
                 the loudest part of this length is taken. By default a sound is cut at both ends to
                 where it is heard, and the frames cover all of it, so that a word said slowly
                 looks like the same word said fast.

    Raises ValueError for fields out of range.
    """

    size: int = SIZE
    seconds: float | None = None

    def __post_init__(self) -> None:
        valid = 8 <= self.size <= LARGEST_SIZE
        if not valid or (self.seconds is not None and not 0.1 <= self.seconds <= LONGEST):
            raise ValueError(
                f"spectrograms: need a size of 8 to {LARGEST_SIZE}, and 0.1 to {LONGEST:g} seconds "
                f"where these are given; found {self.size} and {self.seconds}."
            )

    def read(self, source: Path | bytes, name: str) -> NDArray[np.uint8]:
        """The spectrogram of one sound file; SoundError as :func:`decode_sound`."""
        return self.picture(decode_sound(source, name))

    def picture(self, sound: Sound) -> NDArray[np.uint8]:
        """(1, size, size): time to the right, the lowest band in the last row."""
        wave = heard(resampled(sound))
        if self.seconds is not None:
            wave = centred(wave, round(self.seconds * RATE))
        mel = mel_bands(self.size) @ power(wave, self.size)
        decibels = 10 * np.log10(np.maximum(mel / mel.max(), 1e-12))
        shades = np.clip(1 + decibels / RANGE, 0, 1)
        rounded: NDArray[np.uint8] = np.floor(255 * shades[::-1] + 0.5).astype(np.uint8)
        return rounded[None]

    def to_json(self) -> dict[str, Any]:
        """The format as plain values."""
        return asdict(self)

    @staticmethod
    def from_json(values: Any) -> SpectrogramFormat:
        """The format of which :meth:`to_json` gave ``values``; ValueError for any others."""
        try:
            seconds = values["seconds"]
            return SpectrogramFormat(
                int(values["size"]), None if seconds is None else float(seconds)
            )
        except (LookupError, TypeError, OverflowError) as error:
            raise ValueError(
                f"spectrograms: their description is incomplete or damaged ({error!r}). Save the "
                "learner again."
            ) from error


def resampled(sound: Sound) -> NDArray[np.float64]:
    """The samples at ``RATE``, by a polyphase filter without aliasing."""
    from scipy.signal import resample_poly

    if sound.rate == RATE:
        return sound.samples
    shared = math.gcd(sound.rate, RATE)
    found: NDArray[np.float64] = resample_poly(sound.samples, RATE // shared, sound.rate // shared)
    return found


def heard(wave: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part from the first to the last moment that is not quiet, by the power in 20 ms."""
    width = RATE // 50
    wave = wave - wave.mean()
    total = np.concatenate([[0.0], np.cumsum(np.square(np.pad(wave, width)))])
    loud = total[width:] - total[:-width]  # entry i: of the samples from i - width to i
    where = np.flatnonzero(loud > QUIET * loud.max())
    return wave[max(0, where[0] - width // 2) : where[-1] - width // 2]


def centred(wave: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """``length`` samples: with zeros on both sides, or the part that has the most energy."""
    if len(wave) > length:
        energy = np.concatenate([[0.0], np.cumsum(np.square(wave))])
        start = int(np.argmax(energy[length:] - energy[:-length]))
        return wave[start : start + length]
    before = (length - len(wave)) // 2
    return np.pad(wave, (before, length - len(wave) - before))


def power(wave: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    """(frequencies, frames): the power in Hann windows whose centres are spread evenly."""
    width = round(WINDOW * RATE)
    centres = (np.arange(frames) + 0.5) * len(wave) / frames
    starts = np.floor(centres).astype(int)  # in the padded wave, half a window earlier
    padded = np.pad(wave, (width // 2, width))
    pieces = padded[starts[:, None] + np.arange(width)] * np.hanning(width + 1)[:-1]
    return np.square(np.abs(np.fft.rfft(pieces, 2 * width))).T


def mel_bands(bands: int) -> NDArray[np.float64]:
    """(bands, frequencies): overlapping triangles of height 1, evenly spaced in mel."""
    frequencies = np.fft.rfftfreq(2 * round(WINDOW * RATE), 1 / RATE)
    edges = _hertz(np.linspace(_mel(60.0), _mel(RATE / 2), bands + 2))
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.clip(np.minimum(rising, falling), 0, None)


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 700 * (10 ** (mel / 2595) - 1)
    return found
