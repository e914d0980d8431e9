"""Decode one image from outside, of any size and mode, or raise an error that names the file.

Only the formats in :data:`FORMATS` are tried, so that no file reaches a decoder that runs programs,
as the one for PostScript does.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from quickstudy.base.names import unknown_name
from quickstudy.base.shown import told

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 100_000_000  # 300 MB when decoded, more than photographs of today's cameras
MAX_BYTES = 2**28  # of a file
MAX_SCANNED = 30 * MAX_PIXELS  # in all scans of a JPEG; cameras and programs make 1 to 12
FILTERS = ("bicubic", "area")
"""How pictures are resized. "area" is for drawings: a pixel is the mean of the area that it covers,
exactly, so that a line of one bit becomes its share of ink."""
EXIF_ORIENTATION, EXIF_ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and its values for pictures whose stored rows are columns: decode turns them."""
MIN_SIDE = 4  # smaller images contain too little to learn from


class ImageError(ValueError):
    """A file that cannot be used as an image."""


def decode(
    source: Path | bytes, name: str, *, size: int, channels: int, resize: str = "bicubic",
    whole: bool = False,
) -> np.ndarray:  # fmt: skip
    """(channels, size, size) uint8: the middle square of the image, resized.

    ``source``    a file, or its bytes.
    ``name``      its name in errors.
    ``channels``  3 for RGB or 1 for grey; other images are converted.
    ``resize``    one of :data:`FILTERS`; "area" takes the middle square always.
    ``whole``     the whole image in place of its middle square, its sides stretched alike or not.

    The image is rotated by its EXIF orientation; transparency becomes white; 16 bits become 8; of
    several frames the first is used. Raises ImageError, naming the file, where it is not an image,
    is incomplete, is not a regular file, has a side below 4 pixels, or has over 100 million pixels.
    """
    if channels not in (1, 3):
        raise ValueError(f"images: channels must be 1 (grey) or 3 (RGB); found {channels}.")
    if size < 1:
        raise ValueError(f"images: size must be at least 1 pixel; found {size}.")
    if resize not in FILTERS:
        raise unknown_name("images: resize", resize, dict.fromkeys(FILTERS))
    from PIL import Image, ImageOps

    with opened_safely(source, name) as opened:
        image = upright(opened, channels)
        if resize == "area":
            return _mean_of_areas(image, size)
        if whole:
            square = image.resize((size, size), Image.Resampling.BICUBIC)
        else:
            square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return _channels_first(square)


def upright(opened: Image.Image, channels: int) -> Image.Image:
    """The image in its own size, as :func:`decode` sees it: RGB for 3 channels, grey for 1.

    Rotated by its EXIF orientation; transparency becomes white, and 16 bits become 8. To be called
    inside of :func:`opened_safely`.
    """
    from PIL import ImageOps

    image = _eight_bits(ImageOps.exif_transpose(opened))
    return image.convert("RGB" if channels == 3 else "L")


@contextmanager
def opened_safely(
    source: Path | bytes, name: str, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """The image, not decoded yet; any error inside, in decoding too, as an ImageError.

    ``formats``  those that are tried.

    Raises ImageError, naming the file, as :func:`decode` does.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(source, Path):
            _refuse_special(source)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            stream = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(stream, formats=formats) as opened:
                _refuse_size(opened.width, opened.height)
                _refuse_scans(source, opened)
                yield opened
    except ImageError as error:
        raise ImageError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image. Known formats: {', '.join(formats)}. Remove the file."
        ) from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: there is no such file. Check the path.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {_too_large(str(error))}") from error
    except Exception as error:  # a decoder may raise anything on damaged bytes
        raise ImageError(
            f"{name}: cannot be read ({type(error).__name__}: {told(error)}). The file may be "
            "incomplete or without read permission; restore or remove it."
        ) from error


def _channels_first(image: Image.Image) -> np.ndarray:
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def _mean_of_areas(image: Image.Image, size: int) -> np.ndarray:
    """The middle square, each pixel the mean over its area, halves rounded up."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = _channels_first(image.crop((left, top, left + side, top + side)))
    overlap = overlaps(side, size).astype(np.float64)
    # Integers below 2^53: sums are exact, and so independent of their order.
    narrow = np.concatenate(  # in parts, since a large picture takes eight times its memory
        [pixels[:, i : i + 512].astype(np.float64) @ overlap.T for i in range(0, side, 512)], 1
    )
    means: np.ndarray = np.floor(overlap @ narrow / side**2 + 0.5).astype(np.uint8)
    return means


def overlaps(source: int, target: int) -> np.ndarray:
    """(target, source) int: how much of each source pixel lies in each target pixel.

    The unit is 1 / ``target`` of a source pixel, so each row adds up to ``source``.
    """
    edges, pixels = np.arange(target + 1) * source, np.arange(source) * target
    shared = np.minimum(edges[1:, None], pixels + target) - np.maximum(edges[:-1, None], pixels)
    return shared.clip(min=0)


def _refuse_special(path: Path) -> None:
    """ImageError for a pipe, which would wait for a writer, or a device, which may never end."""
    if path.exists() and not path.is_file():
        raise ImageError("a folder, a pipe or a device, not a regular file. Remove it.")
    if path.exists() and path.stat().st_size > MAX_BYTES:
        raise ImageError(f"over {MAX_BYTES:,} bytes. Make the picture smaller.")


def _refuse_size(width: int, height: int) -> None:
    """ImageError by the size in the header, before pixels are decoded."""
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(f"{width} x {height} pixels"))
    if min(width, height) < MIN_SIDE:
        raise ImageError(
            f"{width} x {height} pixels is too small; the shorter side needs {MIN_SIDE}. "
            "Remove the file."
        )


def _refuse_scans(source: Path | bytes, opened: Image.Image) -> None:
    """ImageError for a JPEG whose many scans would each be decoded over all pixels."""
    if opened.format != "JPEG":
        return
    content = source if isinstance(source, bytes) else source.read_bytes()
    scans = content.count(b"\xff\xda")  # the marker of a scan; by chance in some metadata too
    if scans * opened.width * opened.height > MAX_SCANNED:
        raise ImageError(
            f"{scans:,} scans of {opened.width} x {opened.height} pixels would take minutes. "
            "Save the picture again."
        )


def _too_large(found: str) -> str:
    return (
        f"too large ({found}); the limit is {MAX_PIXELS:,} pixels, against decompression bombs. "
        "Make the picture smaller."
    )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Any mode -> L, RGB or CMYK and the like, without transparency and with 8 bits a channel."""
    from PIL import Image

    if image.mode == "F":
        raise ImageError("floating-point pixels have no agreed range. Save it with 8 or 16 bits.")
    if image.mode.startswith("I"):  # 16 bits; some decoders return them as 32
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65_535:
            raise ImageError("32-bit pixels have no agreed range. Save it with 8 or 16 bits.")
        # Rounds to the nearest; in integers, since float64 would take 8 bytes a pixel.
        return Image.fromarray(((levels.astype(np.int32) + 128) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image
