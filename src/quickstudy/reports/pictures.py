"""Small images inside a page: arrays as PNG or JPEG data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from quickstudy.reports.view_types import Array

LARGEST_SIDE = 56
"""Pixels: about the size at which a page shows an image; more would only make it larger."""

PIXELS_SEEN = 32
"""Images of up to this side are enlarged with sharp pixels, which JPEG would blur."""

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def data_uri(image: Array, largest_side: int = LARGEST_SIDE) -> str:
    """``image`` (channels, height, width) in [0, 1] as a ``data:`` URI; larger ones are shrunk.

    The format is PNG, which is exact; photographs with a side above ``PIXELS_SEEN`` become JPEG
    where that is smaller.
    """
    pixels = (np.clip(image, 0.0, 1.0) * 255).round().astype(np.uint8)
    channels = len(pixels)
    rows = pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    picture = Image.fromarray(rows, _MODES[channels])
    if max(picture.size) > largest_side:
        picture.thumbnail((largest_side, largest_side), Image.Resampling.LANCZOS)
    encoded, kind = _encode(picture, "PNG"), "png"
    if channels in (1, 3) and max(picture.size) > PIXELS_SEEN:
        jpeg = _encode(picture, "JPEG")
        if len(jpeg) < len(encoded):
            encoded, kind = jpeg, "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"


def _encode(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "PNG":
        picture.save(buffer, kind, optimize=True)
    else:
        picture.save(buffer, kind, quality=78, optimize=True)
    return buffer.getvalue()
