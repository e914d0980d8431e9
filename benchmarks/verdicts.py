"""How often verdicts on pairs of learners are false, and how often their intervals cover the truth.

Scores are drawn from populations in which the truth is known.

    null        copies of one learner with the same weights: every "better" or "worse" is false
    trainings   learners that are trained anew, so that two copies of one learner differ
    power       two learners whose true difference is 0 to 4 margins: which verdicts they get
    tasks       coverage of the interval over tasks (BCa): even, skewed and pooled scores
    others      coverage of the interval over other trainings and other classes, beside what a plain
                percentile bootstrap gives
    pairing     tasks for an interval of half a point, paired and not, for two learners on glyphs

    python benchmarks/verdicts.py null power --repetitions 1000
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from class_intervals import DIMENSIONS, QUERIES, Population, draw_classes, draw_ids
from numpy.typing import NDArray
from torch import Tensor

import quickstudy as qs
from quickstudy.answers.labels import RocAuc
from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation import intervals
from quickstudy.evaluation.intervals import of_means
from quickstudy.evaluation.looks import Look, looks, undecided
from quickstudy.evaluation.over_trainings import over_trainings
from quickstudy.evaluation.paired import LEVEL, Pair, pairs
from quickstudy.evaluation.result import Result, result_of
from quickstudy.evaluation.task_classes import TaskClasses

RESULTS = Path(__file__).parent / "results" / "verdicts.json"
MATTERS, ROWS, PLAIN = 0.005, 75, 100
"""Half a point; queries of a task, five classes of fifteen; repetitions of the plain bootstrap."""

SPREADS = (0.4, 0.6)
"""How far the trainings of the first and second learner are from the identity."""

Floats = NDArray[np.float64]
Row = dict[str, Any]


def draw_scores(
    rng: np.random.Generator, copies: int, trainings: int, tasks: int, *,
    ties: float = 0.0, trained: float = 0.0, difference: float = 0.0,
) -> Floats:  # fmt: skip
    """(copies, trainings, tasks) shares of 75 right rows.

    ``ties``        the share of tasks on which all have the same score.
    ``trained``     the deviation of a training's accuracy.
    ``difference``  by how much the first copy is better than the others.
    """
    hardness = rng.normal(0.8, 0.08, tasks)
    ability = rng.normal(0.0, trained, (copies, trainings, 1)) if trained else np.zeros((1, 1, 1))
    chance = np.clip(hardness + ability, 0.05, 0.95)
    chance = np.broadcast_to(chance, (copies, trainings, tasks)).copy()
    chance[0] += difference / (1 - ties)
    right = rng.binomial(ROWS, chance)
    return np.where(rng.random(tasks) < ties, right[-1:, -1:], right) / ROWS


def as_results(scores: Floats) -> dict[str, list[Result]]:
    """Results by copy, one for each training, of scores (copies, trainings, tasks)."""
    return {
        f"copy {number}": [
            Result("", "accuracy", "%", True, False, True, (), torch.from_numpy(values),
                   float(values.mean()), math.nan)
            for values in of_copy
        ]
        for number, of_copy in enumerate(scores, 1)
    }  # fmt: skip


def judged(scores: Floats, seed: int, plan: Sequence[Look]) -> tuple[tuple[Pair, ...], int]:
    """The pairs of the look at which all are decided, or of the last, and its number of tasks."""
    for look in plan:
        found = pairs(as_results(scores[..., : look.tasks]), MATTERS, seed, look.level)
        if not undecided(found):
            break
    return found, look.tasks


def is_difference(verdict: str) -> bool:
    return verdict in ("better", "worse")


def null(repetitions: int, copies: int, ties: float, plan: str) -> Row:
    """The share of comparisons with any false verdict, where nothing differs but chance."""
    steps = [Look(200, LEVEL)] if plan == "one look" else looks(200)
    if plan == "looks, each at 0.05":
        steps = [replace(look, level=LEVEL) for look in steps]
    counts: Counter[str] = Counter()
    for seed in range(repetitions):
        rng = np.random.default_rng([seed, copies])
        found, _ = judged(draw_scores(rng, copies, 1, 200, ties=ties), seed, steps)
        counts["false"] += any(is_difference(pair.here) for pair in found)
        without = [replace(pair, matters=0.0).here for pair in found]
        counts["without"] += any(map(is_difference, without))
    return {
        "false": counts["false"] / repetitions,
        "false without margin": counts["without"] / repetitions,
    }


def trainings(repetitions: int, copies: int, difference: float, trainings: int) -> Row:
    """Learners that are trained anew, with 0.9 points of deviation, as of two repetitions of one
    published recipe with 61.3 and 62.6%: verdicts on copies, and on the better of two."""
    counts: Counter[str] = Counter()
    for seed in range(repetitions):
        rng = np.random.default_rng([seed, copies, trainings])
        scores = draw_scores(rng, copies, trainings, 300, trained=0.009, difference=difference)
        found = pairs(as_results(scores), MATTERS, seed)
        counts["here"] += any(is_difference(pair.here) for pair in found)
        counts["verdict"] += any(is_difference(pair.verdict) for pair in found)
    return {
        "better or worse here": counts["here"] / repetitions,
        "better or worse": counts["verdict"] / repetitions,
    }


def power(repetitions: int, difference: float, plan: str) -> Row:
    """The verdicts on two learners whose difference is known, by a single look and by several."""
    steps = [Look(600, LEVEL)] if plan == "one look" else looks(600)
    counts: Counter[str] = Counter()
    used = 0
    for seed in range(repetitions):
        rng = np.random.default_rng([seed, 7])
        scores = draw_scores(rng, 2, 1, 600, ties=0.5, difference=difference)
        (pair,), tasks = judged(scores, seed, steps)
        counts[pair.here] += 1
        used += tasks
    names = ("better", "worse", "equivalent", "not known")
    return {"mean tasks": used / repetitions, **{n: counts[n] / repetitions for n in names}}


def even(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, float]:
    """Differences that are normal."""
    return rng.normal(0.01, 0.1, shape), 0.01


def ceiling(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, float]:
    """Accuracies near 1: most tasks have all rows right, a few have many wrong."""
    return rng.binomial(ROWS, rng.beta(6, 0.25, shape)) / ROWS, 6 / 6.25


def near_ceiling(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, float]:
    """Differences of two such accuracies, two of five exact ties."""
    chance = rng.beta(6, 0.25, shape)
    worse = 0.9 * chance + 0.1 * rng.beta(6, 0.75, shape)
    found = rng.binomial(ROWS, chance) - rng.binomial(ROWS, worse)
    return found / ROWS, 0.1 * (6 / 6.25 - 6 / 6.75)


def errors(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, float]:
    """Squared errors, log-normal: the mean is five times the median's third."""
    return rng.lognormal(0.0, 1.0, shape), math.exp(0.5)


def areas(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, float]:
    """Pseudo-values of the difference of two pooled ROC-AUCs, 10 rows a task, tasks that shift
    all scores of their rows."""
    separations, shift = (1.2, 0.9), 0.7
    found = np.zeros(shape)
    for repetition in range(shape[0]):
        targets = rng.integers(0, 2, (shape[1], 10))
        noise = rng.normal(0, shift, (shape[1], 1)) + rng.normal(0, 1, targets.shape)
        for sign, apart in zip((1, -1), separations, strict=True):
            own = noise + 0.8 * rng.normal(0, 1, targets.shape) + apart * targets
            result = result_of("", RocAuc(), [
                {"predictions": torch.from_numpy(p)[:, None], "weights": torch.ones(10),
                 "targets": torch.from_numpy(t)[:, None].double()}
                for p, t in zip(own, targets, strict=True)
            ])  # fmt: skip
            found[repetition] += sign * (result.values + result.mean - result.values.mean()).numpy()
    deviation = math.sqrt(2 * (1 + shift**2 + 0.8**2))
    truths = [0.5 + 0.5 * math.erf(apart / deviation / math.sqrt(2)) for apart in separations]
    return found, truths[0] - truths[1]


POPULATIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], tuple[Floats, float]]] = {
    "normal differences": even,
    "accuracy near 1": ceiling,
    "differences near 1": near_ceiling,
    "squared errors": errors,
    "difference of pooled ROC-AUC": areas,
}


def over_tasks(repetitions: int, population: str, tasks: int) -> Row:
    """Coverage of the interval over tasks, and of Student's t."""
    from scipy.stats import t as student

    covered, by_t = 0, 0
    for seed in range(repetitions):
        values, truth = POPULATIONS[population](np.random.default_rng([seed, tasks]), (1, tasks))
        ((found,),) = of_means(values, seed)
        half = student.ppf(0.975, tasks - 1) * values.std(ddof=1) / math.sqrt(tasks)
        covered += truth in found
        by_t += bool(abs(values.mean() - truth) <= half)
    return {"covered": covered / repetitions, "covered by Student's t": by_t / repetitions}


def accuracies(
    classes: Population, ids: Tensor, maps: Tensor, generator: torch.Generator
) -> Tensor:
    """(trainings, tasks): accuracy of the nearest mean in 1-shot tasks of ``ids``, after each of
    the ``maps`` (trainings, dimensions, dimensions)."""
    means, deviations = (part[ids] for part in classes)
    support = means + deviations[..., None] * torch.randn(means.shape, generator=generator)
    noise = torch.randn(*means.shape[:2], QUERIES, DIMENSIONS, generator=generator)
    query = means[:, :, None] + deviations[..., None, None] * noise
    support = torch.einsum("twd,sde->stwe", support, maps)
    query = torch.einsum("twqd,sde->stwqe", query, maps)
    products = torch.einsum("stwqe,stve->stwqv", query, support)
    logits = products - support.square().sum(-1)[:, :, None, None] / 2
    right = logits.argmax(-1) == torch.arange(ids.shape[1])[None, None, :, None]
    return right.double().mean((-1, -2))


def draw_maps(trainings: int, spread: float, generator: torch.Generator) -> Tensor:
    """What each training makes of the classes: a linear map of its own."""
    shape = (trainings, DIMENSIONS, DIMENSIONS)
    own = torch.randn(shape, generator=generator) / math.sqrt(DIMENSIONS)
    return torch.eye(DIMENSIONS) + spread * own


def percentiles(scores: Floats, members: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """The plain two-level bootstrap: S of S trainings, C of C classes, the product of their
    multiplicities as the weight of a task, percentiles."""
    (trainings, _), units = scores.shape, members.shape[1]
    means = []
    for _ in range(500):
        of_trainings = rng.multinomial(trainings, np.full(trainings, 1 / trainings))
        own = rng.multinomial(units, np.full(units, 1 / units))
        weights = np.where(members > 0, own, 1).prod(1)
        if weights.any():
            means.append(of_trainings @ scores @ weights / (trainings * weights.sum()))
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


@cache
def true_difference(ways: int) -> float:
    """Of two learners, over trainings and classes: a deviation of 0.05 points at 5 ways."""
    generator = torch.Generator().manual_seed(0)
    many, found = 20_000, []
    whole = draw_classes(many, generator)
    for _ in range(400):
        ids = torch.randint(many, (250, ways), generator=generator)
        maps = torch.cat([draw_maps(1, spread, generator) for spread in SPREADS])
        one, other = accuracies(whole, ids, maps, generator).mean(1).tolist()
        found.append(one - other)
    return float(np.mean(found))


def others(repetitions: int, trainings: int, classes: int, ways: int = 5, tasks: int = 300) -> Row:
    """Coverage over other trainings and other classes, of a difference of two learners."""
    truth, generator = true_difference(ways), torch.Generator().manual_seed(1)
    covered: Counter[str] = Counter()
    widths: Counter[str] = Counter()
    for seed in range(repetitions):
        own = draw_classes(classes, generator)
        ids = draw_ids(classes, ways, tasks, generator)
        maps = torch.cat([draw_maps(trainings, spread, generator) for spread in SPREADS])
        first, second = accuracies(own, ids, maps, generator).numpy().reshape(2, trainings, -1)
        scores = first - second
        of = TaskClasses.of([frozenset(map(str, task)) for task in ids.tolist()])
        found = over_trainings([first, -second], of, True).interval
        assert found is not None
        ((here,),) = of_means(scores.mean(0)[None], seed)
        ends = {"others": (found.low, found.high), "these": (here.low, here.high)}
        if seed < PLAIN:
            members, rng = np.zeros((tasks, len(of.names))), np.random.default_rng(seed)
            members[of.pairs] = 1.0
            ends["percentiles"] = percentiles(scores, members, rng)
        for name, (low, high) in ends.items():
            covered[name] += low <= truth <= high
            widths[name] += (high - low) / 2
    times = {"others": repetitions, "these": repetitions, "percentiles": min(PLAIN, repetitions)}
    return {
        "ways": ways, "tasks": tasks, "truth": truth,
        **{f"covered by {name}": covered[name] / times[name] for name in times},
        **{f"half-width of {name}": widths[name] / times[name] for name in times},
    }  # fmt: skip


def tasks_needed(scores: Tensor, half: float = MATTERS) -> int:
    """For an interval of the mean of ``scores`` of this half-width."""
    return math.ceil((1.96 * float(scores.double().std()) / half) ** 2)


@cache
def on_glyphs(steps: int) -> dict[str, Tensor]:
    """Scores (tasks,) of prototypes, of ridge heads on the same backbone, and of prototypes of
    another training, on the same tasks."""
    glyphs = qs.datasets.load("glyphs")
    train, test = (qs.episodes(split, 5, 1, 15) for split in (glyphs.train, glyphs.test))
    trained = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        trained.append(qs.Prototypical(qs.backbones.Conv4()))
        qs.fit(trained[-1], train, steps=steps, tasks_per_step=4, seed=seed)
    one, again = trained
    learners = {"prototypes": one, "ridge": qs.R2D2(one.backbone), "another training": again}
    return {
        name: qs.evaluate(learner, test, max(20, min(steps, 200)), baselines=False).scores
        for name, learner in learners.items()
    }


def pairing(repetitions: int, against: str) -> Row:
    """Tasks for ± half a point: two learners on one backbone, and on backbones of their own."""
    found = on_glyphs(repetitions)
    first, second = found["prototypes"].double(), found[against].double()
    differences = first - second
    # With tasks of their own, the variance of the difference is that of both.
    variances = {"paired": differences.var(), "apart": first.var() + second.var()}
    return {
        "tasks": len(first), "difference": float(differences.mean()),
        "ties": float((differences == 0).double().mean()),
        **{f"tasks needed, {name}": math.ceil(1.96**2 * float(variance) / MATTERS**2)
           for name, variance in variances.items()},
        "scores": [first.tolist(), second.tolist()],
    }  # fmt: skip


def every(**choices: Sequence[Any]) -> list[Row]:
    """All combinations, by name."""
    return [dict(zip(choices, each, strict=True)) for each in product(*choices.values())]


PLANS = ("one look", "looks")
PARTS: dict[str, tuple[Callable[..., Row], list[Row]]] = {
    "null": (null, [
        *every(copies=(2, 4), ties=(0.0, 0.5), plan=PLANS),
        {"copies": 2, "ties": 0.0, "plan": "looks, each at 0.05"},
    ]),
    "others": (others, every(classes=(20, 60), trainings=(3, 5, 10))),
    "tasks": (over_tasks, every(population=list(POPULATIONS), tasks=(20, 58, 150, 600))),
    "trainings": (trainings, [
        *every(copies=(2, 4), difference=(0.0,), trainings=(1, 3, 5, 10)),
        *every(copies=(2,), difference=(0.02, 0.04), trainings=(3, 5, 10)),
    ]),
    "power": (power, every(difference=(0.0, 0.0025, 0.005, 0.0075, 0.01, 0.02), plan=PLANS)),
    "pairing": (pairing, every(against=("ridge", "another training"))),
}  # fmt: skip
"""What is measured, and with which settings."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen parts and write each row to ``results/verdicts.json`` as it ends; rows
    that are there already are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--repetitions", type=int, default=1000, help="steps, for pairing")
    parser.add_argument("--resamples", type=int, default=intervals.RESAMPLES)
    parser.add_argument("--rows", type=int, default=1000, help="at most, of each part")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    intervals.RESAMPLES = chosen.resamples
    times = {"repetitions": chosen.repetitions, "resamples": chosen.resamples}
    for part in chosen.parts:
        measure, settings = PARTS[part]
        results = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
        rows = results.setdefault(part, [])
        done = [{name: row[name] for name in settings[0]} for row in rows]
        for setting in [each for each in settings if each not in done][: chosen.rows]:
            found = measure(chosen.repetitions, **setting)
            rows.append(setting | times | found)
            print({k: v for k, v in rows[-1].items() if k != "scores"}, flush=True)
            write_atomically(chosen.out, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
