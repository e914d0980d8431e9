"""Decode one sound file from outside, or raise an error that names the file.

WAV files are read by SciPy; other formats, such as FLAC and Ogg Vorbis, need the extra ``speech``.
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quickstudy.base.extras import optional
from quickstudy.base.shown import told

OTHER_SUFFIXES = (".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
"""Formats that the extra ``speech`` reads."""
SUFFIXES = (".wav", ".wave", *OTHER_SUFFIXES)
MAX_BYTES = 2**26  # of a file: 30 seconds of four channels of 32 bits at 96 kHz have 46 MB
LONGEST = 30.0  # seconds
SHORTEST = 0.02  # seconds; less is a click
RATES = (4_000, 192_000)  # samples a second; telephones have 8,000
FAINTEST = 1e-4  # of full scale, about 3 steps of 16 bits


class SoundError(ValueError):
    """A file that cannot be used as a sound."""


class Sound(NamedTuple):
    """A waveform ``samples`` (n,), float64 in [-1, 1], and its ``rate`` in samples a second."""

    samples: NDArray[np.float64]
    rate: int


def decode_sound(source: Path | bytes, name: str) -> Sound:
    """The sound in a file: the mean of its channels.

    ``source``  a file, or the bytes of a WAV file.
    ``name``    its name in errors.

    Raises SoundError, naming the file, where it is no sound, is incomplete, is silent, has no
    samples, is shorter than 0.02 or longer than 30 seconds, or has under 4,000 or over 192,000
    samples a second; ImportError, with the command, where the extra ``speech`` is needed.
    """
    try:
        content = _content(source)
        other = isinstance(source, Path) and source.suffix.lower() in OTHER_SUFFIXES
        samples, rate = _read_other(content) if other else _read_wav(content)
        return Sound(_checked(samples, rate), rate)
    except ImportError:
        raise
    except SoundError as error:
        raise SoundError(f"{name}: {error}") from None
    except Exception as error:  # a decoder may raise anything on damaged bytes
        raise SoundError(
            f"{name}: cannot be read as a sound ({type(error).__name__}: {told(error)}). The file "
            "may be incomplete or of another format; restore it, save it as WAV, or remove it."
        ) from error


def _content(source: Path | bytes) -> bytes:
    """The bytes of a regular file of a bounded size."""
    if isinstance(source, bytes):
        return source
    if not source.exists():
        raise SoundError("there is no such file. Check the path.")
    if not source.is_file():  # a pipe waits for a writer
        raise SoundError("a folder, a pipe or a device, not a regular file. Remove it.")
    with source.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SoundError(f"over {MAX_BYTES:,} bytes. Cut the recording into single words.")
    return content


def _read_wav(content: bytes) -> tuple[NDArray[np.float64], int]:
    """(n, channels) in [-1, 1], and the rate."""
    from scipy.io import wavfile

    if not content:
        raise SoundError("the file is empty. Record it again, or remove it.")
    if content[:4] not in (b"RIFF", b"RIFX", b"RF64") or content[8:12] != b"WAVE":
        raise SoundError("not a WAV file. Save it as WAV, or remove it.")
    with warnings.catch_warnings():
        # Further chunks, as programs add for titles, are no damage; an early end is.
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
        rate, stored = wavfile.read(io.BytesIO(content))
    samples = np.atleast_2d(stored.T).T
    if samples.dtype == np.uint8:  # WAV of 8 bits is unsigned, all others are signed
        return (samples.astype(np.float64) - 128) / 128, int(rate)
    if samples.dtype.kind == "i":
        return samples / -float(np.iinfo(samples.dtype).min), int(rate)
    return samples.astype(np.float64), int(rate)


def _read_other(content: bytes) -> tuple[NDArray[np.float64], int]:
    """As :func:`_read_wav`, for the formats of libsndfile."""
    soundfile = optional("soundfile", "speech", "sounds of other formats than WAV")
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        if file.frames > LONGEST * file.samplerate or file.channels > 64:
            raise SoundError(_too_long(file.frames / file.samplerate))
        samples: NDArray[np.float64] = file.read(dtype="float64", always_2d=True)
        return samples, int(file.samplerate)


def _checked(samples: NDArray[np.float64], rate: int) -> NDArray[np.float64]:
    """The mean of the channels in [-1, 1]; SoundError where it cannot be a word.

    Files of reals may have larger numbers, such as those of 16 bits; they are divided by the
    greatest.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise SoundError(
            f"has {rate:,} samples a second; from {RATES[0]:,} to {RATES[1]:,} can be read. Save "
            "it at 8,000 or 16,000."
        )
    if not samples.size:
        raise SoundError("has no samples. Record it again, or remove it.")
    seconds = len(samples) / rate
    if seconds > LONGEST:
        raise SoundError(_too_long(seconds))
    if seconds < SHORTEST:
        raise SoundError(f"has {seconds:.3f} seconds, too short for a word. Record it again.")
    if not np.isfinite(samples).all():
        raise SoundError("has samples that are not finite. Save it again.")
    loudest = max(1.0, float(np.abs(samples).max()))
    mono: NDArray[np.float64] = (samples / loudest).mean(1)
    if np.abs(mono - mono.mean()).max() < FAINTEST:
        raise SoundError("is silent from beginning to end. Record it again, or remove it.")
    return mono


def _too_long(seconds: float) -> str:
    return (
        f"has {math.ceil(seconds):,} seconds; the limit is {LONGEST:g}. Cut the recording into "
        "single words."
    )
