"""How often 95% intervals of an accuracy cover the truth for *other classes*.

Classes are points in space, each with its own noise, from a population that is known, so that the
accuracy of the nearest mean over all classes of the population is known too. A test draws few of
them, then tasks from these. The interval over tasks is compared with the one over classes
(``quickstudy.evaluation.over_classes``) and with Student's interval of the classes' own accuracies.

    python benchmarks/class_intervals.py --tests 300
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation import over_classes
from quickstudy.evaluation.intervals import half_width

RESULTS = Path(__file__).parent / "results" / "class_intervals.json"
SETTINGS = (
    *((ways, classes, 600) for ways in (2, 5) for classes in (6, 8, 10, 15, 20, 50)),
    (5, 100, 600),
    (5, 400, 600),
    (5, 1000, 100),
    (20, 30, 600),
)
"""(ways, classes, tasks) of a test."""

DIMENSIONS, QUERIES = 16, 5
BETWEEN, WITHIN, UNEVEN = 0.5, 0.5, 0.5
"""Deviations: of class means, of rows around them, and of the logarithm of the latter by class."""

Population = tuple[Tensor, Tensor]
"""Means (classes, dimensions) and deviations (classes,)."""


def draw_classes(n: int, generator: torch.Generator) -> Population:
    """``n`` classes of the population."""
    means = BETWEEN * torch.randn(n, DIMENSIONS, generator=generator)
    return means, WITHIN * (UNEVEN * torch.randn(n, generator=generator)).exp()


def accuracies(classes: Population, ids: Tensor, generator: torch.Generator) -> Tensor:
    """(tasks, ways): the share of right queries of each class in 1-shot tasks of ``ids``."""
    means, deviations = (part[ids] for part in classes)
    shape = (*means.shape[:2], QUERIES, DIMENSIONS)
    support = means + deviations[..., None] * torch.randn(means.shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    query = means[:, :, None] + deviations[..., None, None] * noise
    products = torch.einsum("twqd,tvd->twqv", query, support)
    logits = products - support.square().sum(-1)[:, None, None] / 2
    right = logits.argmax(-1) == torch.arange(ids.shape[1])[None, :, None]
    return right.double().mean(-1)


def draw_ids(classes: int, ways: int, tasks: int, generator: torch.Generator) -> Tensor:
    """(tasks, ways) different classes in each task."""
    return torch.rand(tasks, classes, generator=generator).argsort(1)[:, :ways]


def coverage(
    ways: int, classes: int, tasks: int, tests: int, many: int = 40_000
) -> dict[str, float]:
    """The share of ``tests`` in which each interval covers the truth, and mean half-widths.

    ``many``  classes of the population.
    """
    generator = torch.Generator().manual_seed(0)
    whole = draw_classes(many, generator)
    ids = torch.randint(many, (many // 2, ways), generator=generator)
    truth = float(accuracies(whole, ids, generator).mean())
    names = ("over tasks", "over classes", "of classes' own accuracies")
    covered, widths = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for _ in range(tests):
        ids = draw_ids(classes, ways, tasks, generator)
        found = accuracies(draw_classes(classes, generator), ids, generator)
        scores = found.mean(1)
        for name, width in zip(names, _half_widths(found, scores, ids), strict=True):
            covered[name] += (abs(float(scores.mean()) - truth) <= width) / tests
            widths[name] += width / tests
    return {
        "ways": ways, "classes": classes, "tasks": tasks, "tests": tests, "truth": round(truth, 4),
        **{f"covered, {name}": round(share, 4) for name, share in covered.items()},
        **{f"half-width, {name}": round(width, 4) for name, width in widths.items()},
    }  # fmt: skip


def _half_widths(found: Tensor, scores: Tensor, ids: Tensor) -> tuple[float, float, float]:
    names = [frozenset(map(str, task)) for task in ids.tolist()]
    counts = ids.flatten().bincount()
    own = torch.zeros(len(counts), dtype=torch.double).index_add_(
        0, ids.flatten(), found.flatten()
    )[counts > 0] / counts[counts > 0]  # fmt: skip
    return half_width(scores), over_classes.over_classes(scores, names).half_width, half_width(own)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all settings and write them to ``results/class_intervals.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    over_classes.LEAST_CLASSES = 2  # to see what it protects from
    rows = []
    for setting in SETTINGS:
        rows.append(coverage(*setting, chosen.tests))
        print({k: v for k, v in rows[-1].items() if math.isfinite(v)}, flush=True)
    write_atomically(chosen.out, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
