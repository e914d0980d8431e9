"""Folders of pictures with coloured tiles and their boxes, as VOC XML."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (30, 180, 60), "red": (220, 40, 40)}


def tiles(folder: Path, shown: list[list[str]], seed: int = 0) -> Path:
    """Pictures of 80 x 60 pixels, each with a tile of each of its colours, side by side."""
    random = np.random.default_rng(seed)
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i, names in enumerate(shown):
        pixels = random.integers(100, 130, (60, 80, 3)).astype(np.uint8)
        objects = ""
        for k, name in enumerate(names):
            left, top = 4 + 26 * k + int(random.integers(4)), int(random.integers(5, 35))
            pixels[top : top + 20, left : left + 18] = COLOURS[name]
            objects += (
                f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
                f"<xmax>{left + 18}</xmax><ymax>{top + 20}</ymax></bndbox></object>"
            )
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        (folder / "annotations" / f"{i}.xml").write_text(f"<annotation>{objects}</annotation>")
    return folder
