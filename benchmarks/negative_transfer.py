"""Whether harmful sources are found that were planted among good ones.

A family is a target and ``SOURCES`` sources that label vectors by nearly the target's function,
some of which are planted: their labels are flipped, or they follow another random function. Source
inputs are moved, good and planted ones alike, so that the inputs alone tell nothing of harm.
``qs.negative_transfer`` gives each source an effect; the area under the ROC curve of -effect says
how well it tells planted sources from good ones. So it does for the figures beside it.

    python benchmarks/negative_transfer.py --families 100
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers.metrics import roc_auc
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.intervals import half_width
from quickstudy.evaluation.negative_transfer import NegativeTransfer

RESULTS = Path(__file__).parent / "results" / "negative_transfer.json"
SOURCES, HARMFUL, ROWS, TARGET_ROWS, DIMENSIONS = 6, 2, 40, 200, 10
LABELLED, RELATED, NOISE, MOVED = 10, 0.3, 0.1, 0.5
"""Labelled target rows of each class; how far a good source's function is from the target's, as a
share of its size; the share of labels that are wrong anywhere; how far inputs are moved."""

Label = Callable[[Tensor], Tensor]
Family = tuple[dict[str, qs.Examples], qs.Examples, list[int]]


def linear(generator: torch.Generator, base: Tensor | None = None) -> Tensor:
    """A random direction, or one near ``base``."""
    own = torch.randn(DIMENSIONS, generator=generator)
    return own if base is None else base + RELATED * own


def rows(n: int, w: Tensor, generator: torch.Generator, moved: bool) -> qs.Examples:
    """``n`` rows labelled by the side of a plane they are on, some wrongly."""
    x = torch.randn(n, DIMENSIONS, generator=generator)
    if moved:
        x += MOVED * torch.randn(DIMENSIONS, generator=generator)
    wrong = torch.rand(n, generator=generator) < NOISE
    return qs.examples(x, ((x @ w > 0) ^ wrong).long())


def family(kind: str, seed: int) -> Family:
    """Sources by name, the target, and for each source 1 where it was planted."""
    generator = torch.Generator().manual_seed(seed)
    w = linear(generator)
    sources, planted = {}, []
    for k in range(SOURCES):
        harmful = k < HARMFUL
        other = harmful and kind == "other function"
        found = rows(ROWS, linear(generator, None if other else w), generator, True)
        if harmful and kind == "flipped labels":
            found = found._replace(targets=1 - found.targets)
        sources[f"{'planted' if harmful else 'good'} {k}"] = found
        planted.append(int(harmful))
    return sources, rows(TARGET_ROWS, w, generator, False), planted


def auc_of(
    found: NegativeTransfer, sources: dict[str, qs.Examples], planted: list[int]
) -> dict[str, float]:
    """For each figure of the table, the area under the ROC curve for planted sources."""
    table = {row.name: row for row in found.table}
    figures = {
        "effect": lambda row: -row.effect,
        "gain among all": lambda row: -row.gain,
        "gain alone": lambda row: -row.alone,
        "gradient cosine": lambda row: -row.gradient_cosine,
        "domain distance": lambda row: row.distance,
    }
    truth = torch.tensor(planted, dtype=torch.float64)
    return {
        name: float(
            roc_auc(
                torch.tensor([of(table[s]) for s in sources], dtype=torch.float64),
                truth,
                torch.ones_like(truth),
            )
        )
        for name, of in figures.items()
    }


def results_of(kind: str, families: int, repeats: int, seed: int) -> dict[str, Any]:
    """The area under the curve of each figure for each family, and how often verdicts are right."""
    learner = qs.LinearProbe(nn.Identity())
    aucs: dict[str, list[float]] = {}
    found_harmful = accused = 0
    start = time.process_time()
    for number in range(families):
        sources, target, planted = family(kind, 10_000 * seed + number)
        found = qs.negative_transfer(
            learner, sources, target, qs.classification(2), labelled=LABELLED, repeats=repeats,
            seed=seed,
        )  # fmt: skip
        for name, value in auc_of(found, sources, planted).items():
            aucs.setdefault(name, []).append(value)
        found_harmful += sum("planted" in name for name in found.harmful)
        accused += sum("good" in name for name in found.harmful)
    return {
        "families": families,
        "repeats": repeats,
        "auc": {
            name: {
                "mean": sum(of) / len(of),
                "half_width": half_width(torch.tensor(of)),
                "families": [round(value, 4) for value in of],
            }
            for name, of in aucs.items()
        },
        "planted_found": found_harmful / (families * HARMFUL),
        "good_accused": accused / (families * (SOURCES - HARMFUL)),
        "cpu_seconds": time.process_time() - start,
    }


def main() -> None:
    """Both kinds of planted sources."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"seed": options.seed, "labelled": LABELLED}
    for kind in ("flipped labels", "other function"):
        found[kind] = results_of(kind, options.families, options.repeats, options.seed)
        means = {
            n: (round(of["mean"], 3), round(of["half_width"], 3))
            for n, of in found[kind]["auc"].items()
        }
        print(kind, means, found[kind]["planted_found"], found[kind]["good_accused"], flush=True)
    write_atomically(options.out, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
