"""What TrAdaBoost gains from source rows, and from a source that has nothing to add.

    rec_vs_talk, comp_vs_sci   newsgroup pairs: part 1 is the source, part 2 the target; 20 labels
    mushrooms                  tapering -> enlarging stalks; 46 labels

Each seed draws the labelled target rows uniformly from all of them, so that classes differ in
number, and the error is that on all other target rows. Word counts are scaled to rows of length 1;
mushrooms are taken as they are. The base learner is the linear support vector machine of liblinear,
C = 1, 20 rounds. All methods see the same rows.

    python benchmarks/instances.py --root ../shared/data --seeds 20
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.base.trees import concatenate, map_tree
from quickstudy.core import Examples, Learner
from quickstudy.evaluation.intervals import half_width
from quickstudy.learners.domains.tradaboost import hard_loss
from quickstudy.tasks.numbering import generator

RESULTS = Path(__file__).parent / "results" / "instances.json"
PROBLEMS = {
    "rec_vs_talk": ("newsgroup_pairs", "rec_vs_talk_1", "rec_vs_talk_2", 20),
    "comp_vs_sci": ("newsgroup_pairs", "comp_vs_sci_1", "comp_vs_sci_2", 20),
    "mushrooms": ("mushrooms", "tapering", "enlarging", 46),
}
"""Data set, source, target, and the number of labelled target rows."""

PUBLISHED = {
    "rec_vs_talk": {"source": 0.273, "pooled": 0.150, "target": 0.211, "soft": 0.109},
    "comp_vs_sci": {"source": 0.293, "pooled": 0.210, "target": 0.319, "soft": 0.177},
    "mushrooms": {"source": 0.263, "pooled": 0.049, "target": 0.047, "soft": 0.048},
}
"""Errors of 5 seeds that are to be reached."""


def rows_of(problem: str, root: Path) -> tuple[Examples, Examples]:
    """Source rows (group 1) and target rows (group 0)."""
    name, *domains, _ = PROBLEMS[problem]
    found = qs.datasets.load_domains(name, root)
    parts = []
    for domain in domains:
        rows = found[domain]
        if name == "newsgroup_pairs":
            rows = rows._replace(inputs=F.normalize(rows.inputs))
        parts.append(rows)
    source, target = parts
    return source._replace(groups=torch.ones_like(source.groups)), target


def drawn(target: Examples, labels: int, seed: int) -> tuple[Examples, Examples]:
    """``labels`` target rows, and all others."""
    order = torch.randperm(len(target.weights), generator=generator(seed))
    parts = (order[:labels], order[labels:])
    return tuple(Examples(*map_tree(lambda t, i=i: t[i], tuple(target))) for i in parts)  # type: ignore[return-value]


def methods(rounds: int) -> dict[str, tuple[str, Callable[[], Learner]]]:
    """Of each method the rows that it sees, and its learner."""

    def base() -> Learner:
        return qs.LinearSVM(nn.Identity())

    return {
        "source": ("source", base),
        "pooled": ("both", base),
        "target": ("target", base),
        "soft": ("both", lambda: qs.TrAdaBoost(base(), rounds)),
        "hard": ("both", lambda: qs.TrAdaBoost(base(), rounds, hard_loss)),
    }


def errors_of(
    problem: str, root: Path, seeds: int, rounds: int, log: Callable[[str], None] = print
) -> dict[str, list[float]]:
    """The error of each method with each seed."""
    source, target = rows_of(problem, root)
    spec = qs.classification(2)
    errors: dict[str, list[float]] = {name: [] for name in methods(rounds)}
    for seed in range(seeds):
        own, rest = drawn(target, PROBLEMS[problem][-1], seed)
        given = {"source": source, "target": own, "both": Examples(*concatenate(source, own))}
        for name, (rows, made) in methods(rounds).items():
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore", RuntimeWarning)  # the hard loss says that it stops
                ids = made()(given[rows], spec)(rest.inputs).argmax(-1)
            errors[name].append(float((ids != rest.targets).double().mean()))
        log(f"{problem} {seed} " + " ".join(f"{n} {e[-1]:.3f}" for n, e in errors.items()))
    return errors


def summary(errors: dict[str, list[float]]) -> dict[str, Any]:
    """Mean and 95% interval of each method, and of the soft one's paired differences."""

    def of(values: list[float]) -> dict[str, float]:
        tensor = torch.tensor(values, dtype=torch.float64)
        return {"mean": float(tensor.mean()), "half_width": float(half_width(tensor))}

    def minus(name: str) -> list[float]:
        return [a - b for a, b in zip(errors["soft"], errors[name], strict=True)]

    return {
        "errors": {name: of(values) for name, values in errors.items()},
        "soft_minus": {name: of(minus(name)) for name in errors if name != "soft"},
    }


def main() -> None:
    """Write the errors of every seed, and their summary, after each problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for problem in options.problems:
        start = time.process_time()
        errors = errors_of(problem, options.root, options.seeds, options.rounds)
        found[problem] = {
            **summary(errors),
            "published": PUBLISHED[problem],
            "labels": PROBLEMS[problem][-1],
            "rounds": options.rounds,
            "cpu_seconds": time.process_time() - start,
            "seeds": errors,
        }
        write_atomically(options.out, json.dumps(found, indent=1).encode())
        print(json.dumps(found[problem]["errors"]), json.dumps(found[problem]["soft_minus"]))


if __name__ == "__main__":
    main()
