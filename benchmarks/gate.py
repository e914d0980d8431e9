"""What the gate before transfer gives up, and what it refuses.

    shifts      skada's shifted data, with the settings of its published benchmark (Lalou et al.,
                2025, SKADA-Bench), 10 labelled rows a class of the target
    mushrooms   tapering -> enlarging stalks, 46 labelled rows: no gain to be had (Dai et al., 2007)
    harmful     a source that must be refused: half of the target's own rows, with flipped labels.
                (The tapering rows with flipped labels harm a linear machine by 0.2 points only:
                other columns tell the two domains apart.)

Each task draws labelled target rows, and scores target only, source only, pooled and the gate on
all other target rows. The gate has these three as candidates. With ``--more``, ``shifts`` has
another gate that also has CORAL and linear transport, on 200 unlabelled rows. The gate's rule was
chosen on other draws of labelled rows, from the same data sets.

    python benchmarks/gate.py shifts --draws 10
    python benchmarks/gate.py mushrooms harmful --root ../shared/data --draws 20
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Examples, Learner, Task
from quickstudy.evaluation.intervals import half_width
from quickstudy.tasks.examples import take
from quickstudy.tasks.numbering import Stream, draw

RESULTS = Path(__file__).parent / "results" / "gate.json"
SHIFTS = {
    "covariate_shift": (1, 0.6),
    "target_shift": (1, 0.8),
    "conditional_shift": (1, 0.8),
    "subspace": (3, 0.4),
}
"""Of skada-bench's simulated data: a factor on 100 samples, and the noise."""

SEEDS, SEED = range(5), 17
"""Of skada's data, as published; of the choice of labelled rows."""


def shifted(shift: str, seed: int, size: int = 100) -> tuple[Examples, Examples]:
    """Source and target of skada's generator."""
    from skada.datasets import make_shifted_datasets

    factor, noise = SHIFTS[shift]
    x, y, domain = make_shifted_datasets(
        factor * size, factor * size, shift=shift, noise=noise, label="binary",
        center_cov_shift=(-0.4, 3), random_state=seed,
    )  # fmt: skip
    return tuple(qs.examples(x[of], y[of].astype(int)) for of in (domain > 0, domain < 0))  # type: ignore[return-value]


def tasks_of_shift(shift: str, draws: int, size: int = 100) -> Iterator[Task]:
    """``draws`` tasks for each of the five published data sets."""
    for seed in SEEDS:
        source, target = shifted(shift, seed, size)
        tasks = qs.tasks.transfer(
            source, target, qs.classification(2), labelled=10, unlabelled=2 * size
        )
        for number in range(draws):
            yield draw(tasks, SEED + seed, number, Stream.TEST)


def tasks_of_mushrooms(root: Path, draws: int, flipped: bool) -> Iterator[Task]:
    """``draws`` tasks of 23 labelled rows a class; with a harmful source where ``flipped``."""
    found = qs.datasets.load_domains("mushrooms", root)
    source, target = found["tapering"], found["enlarging"]
    if flipped:
        order = torch.randperm(len(target.weights), generator=torch.Generator().manual_seed(SEED))
        half = len(order) // 2
        source, target = take(target, order[:half]), take(target, order[half:])
        source = source._replace(targets=1 - source.targets)
    tasks = qs.tasks.transfer(source, target, found.spec, labelled=23)
    for number in range(draws):
        yield draw(tasks, SEED, number, Stream.TEST)


def score(learner: Learner, support: Examples, task: Task) -> tuple[float, Any]:
    """Accuracy on the queries after adapting to ``support``, and the state."""
    with torch.no_grad():
        predictor = learner(support, task.spec)
        right = predictor(task.query.inputs).argmax(-1) == task.query.targets
    return float(right.float().mean()), predictor.state


Scores = dict[str, list[float]]
Choices = dict[str, list[str]]


def scores_of(
    tasks: Iterator[Task], alone: Learner, gates: dict[str, qs.SafeGate], log: Callable[[str], None]
) -> tuple[Scores, Choices]:
    """The accuracies on every task, by method, and what the gates chose."""
    scores: Scores = {}
    choices: Choices = {name: [] for name in gates}
    for number, task in enumerate(tasks):
        rows = task.support
        given = {
            "target only": take(rows, rows.groups == 0),
            "source only": take(rows, rows.groups != 0),
            "pooled": rows,
        }
        for name, support in given.items():
            scores.setdefault(name, []).append(score(alone, support, task)[0])
        for name, gate in gates.items():
            value, state = score(gate, rows, task)
            scores.setdefault(name, []).append(value)
            choices[name].append(gate.choice(state))
        log(f"{number} { ({name: round(of[-1], 3) for name, of in scores.items()}) }")
    return scores, choices


def summary(scores: Scores, choices: Choices) -> dict[str, Any]:
    """Means, and what each method loses to the better of target only and source only."""
    means = {name: sum(of) / len(of) for name, of in scores.items()}
    better = max(("target only", "source only"), key=means.__getitem__)
    rows = {}
    for name, of in scores.items():
        lost = torch.tensor(scores[better], dtype=torch.float64) - torch.tensor(of).double()
        rows[name] = {
            "mean": means[name],
            "half_width": half_width(torch.tensor(of)),
            "lost": float(lost.mean()),
            "lost_half_width": half_width(lost),
            "scores": [round(value, 6) for value in of],
        }
    counted = {
        name: {each: of.count(each) for each in dict.fromkeys(of)} for name, of in choices.items()
    }
    return {"tasks": len(scores["pooled"]), "better": better, "rows": rows, "choices": counted}


def learners(part: str, more: bool) -> tuple[Learner, dict[str, qs.SafeGate]]:
    """The learner of target only, source only and pooled rows, and the gates; ``more`` of them."""
    inputs = nn.Identity()
    if part != "shifts":
        linear = qs.SVM(inputs, kernel="linear", tol=1e-3)
        return linear, {"gate": qs.SafeGate([linear])}
    svm = qs.SVM(inputs, tol=1e-3)
    gate = {"gate": qs.SafeGate([svm])}
    if not more:
        return svm, gate
    methods: Sequence[Learner] = [svm, qs.CORAL(inputs, svm), qs.LinearTransport(inputs, svm)]
    return svm, {**gate, "gate, more methods": qs.SafeGate(methods)}


def main() -> None:
    """Run the parts named on the command line, and add them to the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+", choices=("shifts", "mushrooms", "harmful"))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--more", action="store_true", help="also a gate with more methods")
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(options.out.read_text()) if options.out.is_file() else {}

    def log(line: str) -> None:
        print(line, flush=True)

    for part in options.parts:
        alone, gates = learners(part, options.more)
        if part == "shifts":
            for shift in SHIFTS:
                tasks = tasks_of_shift(shift, options.draws, options.size)
                found[shift] = summary(*scores_of(tasks, alone, gates, log))
        else:
            tasks = tasks_of_mushrooms(options.root, options.draws, part == "harmful")
            found[part] = summary(*scores_of(tasks, alone, gates, log))
        found["seed"] = SEED
        write_atomically(options.out, json.dumps(found, indent=1).encode())
    for name, of in found.items():
        if isinstance(of, dict):
            rows = {k: (round(v["mean"], 4), round(v["lost"], 4)) for k, v in of["rows"].items()}
            print(name, rows, of["choices"])


if __name__ == "__main__":
    main()
