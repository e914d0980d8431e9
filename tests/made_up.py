"""Small artificial data for tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import Examples, Task, TaskSource, TaskSpec
from quickstudy.tasks.examples import one_place


def examples_of(inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Examples:
    """Examples of the given tensors; ``qs.examples`` would convert them to the default type."""
    if weights is None:
        weights = torch.ones(len(inputs), dtype=inputs.dtype)
    return Examples(inputs, targets, weights, one_place(weights))


def random_classes(classes: int = 8, rows: int = 10, side: int = 16) -> qs.LabelledRows:
    """Noisy copies of one random image per class, which can be learnt."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(classes, 1, 1, side, side, generator=generator)
    noise = torch.rand(classes, rows, 1, side, side, generator=generator)
    pixels = ((0.6 * centres + 0.4 * noise) * 255).to(torch.uint8).flatten(0, 1)
    names = tuple(f"class {i}" for i in range(classes))
    return qs.LabelledRows(pixels, torch.full((classes,), rows), names)


def clouds(ways: int = 3, shots: int = 1, queries: int = 2, d: int = 4) -> TaskSource:
    """Classes of vectors (d,) around random centres."""

    def source(generator: torch.Generator) -> Task:
        centres = torch.randn(ways, d, generator=generator)

        def drawn(n: int) -> qs.Examples:
            noise = torch.randn(n * ways, d, generator=generator)
            return qs.examples(centres.repeat(n, 1) + 0.5 * noise, torch.arange(ways).repeat(n))

        return Task(drawn(shots), drawn(queries), qs.classification(ways))

    return source


def planes(outputs: int = 1, missing: bool = False, shots: int = 5, queries: int = 4) -> TaskSource:
    """Linear functions of vectors (4,); of ``missing`` targets a fifth is unknown."""

    def truth(x: Tensor, generator: torch.Generator) -> Tensor:
        return x @ torch.randn(4, outputs, generator=generator)

    return _functions(truth, qs.regression(outputs, missing), missing, (shots, queries))


def yes_or_no(labels: int = 2, shots: int = 5, queries: int = 4) -> TaskSource:
    """On which side of random planes vectors (4,) are; a fifth of the labels is unknown."""

    def truth(x: Tensor, generator: torch.Generator) -> Tensor:
        return (x @ torch.randn(4, labels, generator=generator) > 0).float()

    return _functions(truth, qs.multilabel(labels), True, (shots, queries))


def _functions(
    truth: Callable[[Tensor, torch.Generator], Tensor],
    spec: TaskSpec,
    missing: bool,
    rows: tuple[int, int],
) -> TaskSource:
    def source(generator: torch.Generator) -> Task:
        x = torch.randn(sum(rows), 4, generator=generator)
        y = truth(x, generator)
        if missing:
            y = y.masked_fill(torch.rand(y.shape, generator=generator) < 0.2, torch.nan)
        support, query = (
            qs.examples(*part) for part in zip(x.split(rows), y.split(rows), strict=True)
        )
        return Task(support, query, spec)

    return source


def bright_places(shots: int = 2, queries: int = 2, side: int = 6) -> TaskSource:
    """Pictures (1, side, side) whose bright pixels are of class 1, or 0; a fifth is unknown."""

    def source(generator: torch.Generator) -> Task:
        flip = int(torch.randint(2, (), generator=generator))

        def drawn(n: int) -> qs.Examples:
            x = torch.randn(n, 1, side, side, generator=generator)
            ids = ((x[:, 0] > 0).long() - flip).abs()
            hidden = torch.rand(ids.shape, generator=generator) < 0.2
            return qs.examples(x, ids.masked_fill(hidden, -1))

        return Task(drawn(shots), drawn(queries), qs.segmentation(2))

    return source


def bright_boxes(shots: int = 2, queries: int = 2, side: int = 16) -> TaskSource:
    """Pictures (1, side, side) of one bright or dark rectangle, classes 0 and 1, and padding."""

    def source(generator: torch.Generator) -> Task:
        def drawn(n: int) -> qs.Examples:
            x = 0.1 * torch.rand(n, 1, side, side, generator=generator) + 0.4
            start = torch.randint(0, side // 2, (n, 2), generator=generator)
            size = torch.randint(side // 4, side // 2, (n, 2), generator=generator)
            classes = torch.arange(n) % 2
            for i, (left, top) in enumerate(start.tolist()):
                width, height = size[i].tolist()
                x[i, :, top : top + height, left : left + width] = 0.9 - 0.8 * float(classes[i])
            box = torch.cat([start, start + size], 1) / side
            padding = torch.full((n, 1, 4), torch.nan)
            targets = {
                "boxes": torch.cat([box.unsqueeze(1), padding], 1),
                "classes": torch.stack([classes, torch.full((n,), -1)], 1),
            }
            return qs.examples(x, targets)

        return Task(drawn(shots), drawn(queries), qs.detection(2))

    return source


class PixelNet(nn.Module):
    """Pictures (n, 1, h, w) -> logits (n, h, w, 2), each from its neighbourhood."""

    outputs = 2

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.first(inputs).tanh().movedim(1, -1))
        return logits


class Detector(nn.Module):
    """(n, size) -> slots, each of a box and two logits."""

    def __init__(self, size: int, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.net = nn.Sequential(nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, slots * 6))

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        slots = self.net(rows).unflatten(-1, (self.slots, 6))
        start, size = slots[..., :2].sigmoid(), slots[..., 2:4].sigmoid()
        return {"boxes": torch.cat([start, start + size], -1), "logits": slots[..., 4:]}
