"""The picture of docs/applications/segmentation.md: drawn cells, two with masks, three new ones.

    python benchmarks/segmentation_picture.py

Discs with a core on a mottled ground, drawn here from a seed. Above: the pictures; below: the given
masks of the first two, and the masks that a pixel head adapted to these two gives the others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import quickstudy as qs
from quickstudy.applications.segmentation import COLOURS, Segmentation

OUT = Path(__file__).parents[1] / "docs" / "applications" / "segmentation.png"
SIDE, GIVEN, NEW, GAP = 128, 2, 3, 6


def drawn(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture (side, side, 3) uint8 of a few cells, and the class of each pixel."""
    y, x = np.mgrid[:SIDE, :SIDE]
    mottled = sum(
        np.sin((x * random.uniform(-1, 1) + y * random.uniform(-1, 1)) / random.uniform(4, 14))
        for _ in range(6)
    )
    pixels = np.array([232, 216, 224]) + 5 * mottled[..., None] + random.normal(0, 5, (*x.shape, 3))
    ids = np.zeros(x.shape, np.int64)
    for _ in range(3):
        centre, radius = random.uniform(18, SIDE - 18, 2), random.uniform(14, 24)
        angle = np.arctan2(y - centre[0], x - centre[1])
        edge = radius * (1 + 0.1 * np.sin(random.integers(2, 5) * angle + random.uniform(0, 6)))
        distance = np.hypot(y - centre[0], x - centre[1])
        core = np.hypot(y - centre[0] - 4, x - centre[1] + 3) < 0.45 * radius
        body = distance < edge
        pixels[body] += np.array([-50, -60, -20])
        pixels[body & core] += np.array([-70, -90, -30])
        ids[body] = 1
        ids[body & core] = 2
    return pixels.clip(0, 255).astype(np.uint8), ids


def coloured(picture: np.ndarray, ids: np.ndarray) -> np.ndarray:
    colours, grey = np.asarray(COLOURS)[ids], picture.mean(-1, keepdims=True)
    return np.where(ids[..., None] > 0, 0.6 * colours + 0.4 * grey, grey).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(3)
    pictures, ids = (np.stack(each) for each in zip(*(drawn(random) for _ in range(GIVEN + NEW)),
                                                    strict=True))  # fmt: skip
    inputs = torch.from_numpy(pictures).movedim(-1, 1) / 255
    learner = Segmentation(steps=args.steps).learner("pixel_head", 0, trained=False)
    support = qs.examples(inputs[:GIVEN], torch.from_numpy(ids[:GIVEN]))
    with torch.no_grad():
        found = learner(support, qs.segmentation(3))(inputs[GIVEN:]).argmax(-1).numpy()
    right = (found == ids[GIVEN:]).mean()
    masks = np.concatenate([ids[:GIVEN], found])
    columns = [
        np.concatenate([p, np.full((GAP, SIDE, 3), 255, np.uint8), coloured(p, m)])
        for p, m in zip(pictures, masks, strict=True)
    ]
    between = [GAP, 4 * GAP] + [GAP] * NEW  # a wider gap between the given and the new ones
    parts = [
        np.concatenate([column, np.full((len(column), gap, 3), 255, np.uint8)], 1)
        for column, gap in zip(columns, between, strict=True)
    ]
    image = Image.fromarray(np.concatenate(parts, 1)[:, :-GAP])
    image.quantize(128).save(args.out, optimize=True)
    print(f"{args.out}: {100 * right:.1f}% of the pixels of the new pictures are right")


if __name__ == "__main__":
    main()
