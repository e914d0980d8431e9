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
from quickstudy.evaluation.intervals import of_means
from quickstudy.evaluation.looks import Look, looks, undecided
from quickstudy.evaluation.over_trainings import over_trainings
from quickstudy.evaluation.paired import LEVEL, Pair, pairs
from quickstudy.evaluation.result import Result, result_of
from quickstudy.evaluation.task_classes import TaskClasses

RESULTS = Path(__file__).parent / "results" / "verdicts.json"
MATTERS, ROWS, PLAIN = 0.005, 75, 100
"""Half a point; queries of a task, five classes of fifteen; repetitions of the plain bootstrap."""

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


def null(repetitions: int) -> list[Row]:
    """The share of comparisons with any false verdict, where nothing differs but chance."""
    plans = {
        "one look": [Look(200, LEVEL)],
        "looks": looks(200),
        "looks, each at 0.05": [replace(look, level=LEVEL) for look in looks(200)],
    }
    rows = []
    for copies in (2, 4):
        for ties in (0.0, 0.5):
            for name, plan in plans.items():
                counts: Counter[str] = Counter()
                for seed in range(repetitions):
                    rng = np.random.default_rng([seed, copies])
                    found, _ = judged(draw_scores(rng, copies, 1, 200, ties=ties), seed, plan)
                    counts["false"] += any(is_difference(pair.here) for pair in found)
                    without = [replace(pair, matters=0.0).here for pair in found]
                    counts["false without margin"] += any(map(is_difference, without))
                rows.append({
                    "copies": copies, "ties": ties, "plan": name, "repetitions": repetitions,
                    "false": counts["false"] / repetitions,
                    "false without margin": counts["false without margin"] / repetitions,
                })  # fmt: skip
                print(rows[-1], flush=True)
    return rows


def trainings(repetitions: int) -> list[Row]:
    """Learners that are trained anew, with 0.9 points of deviation, as of two repetitions of one
    published recipe with 61.3 and 62.6%: verdicts on copies, and on the better of two."""
    rows = []
    for copies, difference in ((2, 0.0), (4, 0.0), (2, 0.02), (2, 0.04)):
        for number in (1, 3, 5, 10):
            counts: Counter[str] = Counter()
            for seed in range(repetitions):
                rng = np.random.default_rng([seed, copies, number])
                scores = draw_scores(rng, copies, number, 300, trained=0.009, difference=difference)
                found = pairs(as_results(scores), MATTERS, seed)
                counts["here"] += any(is_difference(pair.here) for pair in found)
                counts["verdict"] += any(is_difference(pair.verdict) for pair in found)
            rows.append({
                "copies": copies, "difference": difference, "trainings": number,
                "repetitions": repetitions, "better or worse here": counts["here"] / repetitions,
                "better or worse": counts["verdict"] / repetitions,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def power(repetitions: int) -> list[Row]:
    """The verdicts on two learners whose difference is known, by a single look and by several."""
    rows = []
    for difference in (0.0, 0.0025, 0.005, 0.0075, 0.01, 0.02):
        for name, plan in (("one look", [Look(600, LEVEL)]), ("looks", looks(600))):
            counts: Counter[str] = Counter()
            used = 0
            for seed in range(repetitions):
                rng = np.random.default_rng([seed, 7])
                scores = draw_scores(rng, 2, 1, 600, ties=0.5, difference=difference)
                (pair,), tasks = judged(scores, seed, plan)
                counts[pair.here] += 1
                used += tasks
            names = ("better", "worse", "equivalent", "not known")
            rows.append({
                "difference": difference, "plan": name, "repetitions": repetitions,
                "tasks": used / repetitions, **{n: counts[n] / repetitions for n in names},
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


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


def over_tasks(all_repetitions: int) -> list[Row]:
    """Coverage of the interval over tasks, and of Student's t."""
    from scipy.stats import t as student

    rows = []
    for name, draw in POPULATIONS.items():
        for tasks in (20, 58, 150, 600):
            counts: Counter[str] = Counter()
            # Pseudo-values of pooled scores take long.
            repetitions = max(1, all_repetitions // 4) if draw is areas else all_repetitions
            for seed in range(repetitions):
                values, truth = draw(np.random.default_rng([seed, tasks]), (1, tasks))
                ((found,),) = of_means(values, seed)
                half = student.ppf(0.975, tasks - 1) * values.std(ddof=1) / math.sqrt(tasks)
                counts["BCa"] += truth in found
                counts["t"] += bool(abs(values.mean() - truth) <= half)
            rows.append({
                "scores": name, "tasks": tasks, "repetitions": repetitions,
                "covered": counts["BCa"] / repetitions,
                "covered by Student's t": float(counts["t"]) / repetitions,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


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


def others(repetitions: int, ways: int = 5, tasks: int = 300, spread: float = 0.4) -> list[Row]:
    """Coverage over other trainings and other classes, of a difference of two learners."""
    generator = torch.Generator().manual_seed(0)
    many, spreads, truths = 20_000, (spread, 1.5 * spread), []
    whole = draw_classes(many, generator)
    for _ in range(400):
        ids = torch.randint(many, (500, ways), generator=generator)
        maps = torch.cat([draw_maps(1, each, generator) for each in spreads])
        one, other = accuracies(whole, ids, maps, generator).mean(1).tolist()
        truths.append(one - other)
    truth, rows = float(np.mean(truths)), []
    times = {"others": repetitions, "these": repetitions, "percentiles": min(PLAIN, repetitions)}
    for classes in (20, 60):
        for number in (3, 5, 10):
            counts: Counter[str] = Counter()
            widths: Counter[str] = Counter()
            for seed in range(repetitions):
                own = draw_classes(classes, generator)
                ids = draw_ids(classes, ways, tasks, generator)
                maps = torch.cat([draw_maps(number, each, generator) for each in spreads])
                first, second = accuracies(own, ids, maps, generator).numpy().reshape(2, number, -1)
                scores = first - second
                of = TaskClasses.of([frozenset(map(str, task)) for task in ids.tolist()])
                found = over_trainings([first, -second], of, True).interval
                assert found is not None
                ((here,),) = of_means(scores.mean(0)[None], seed)
                ends = {"others": (found.low, found.high), "these": (here.low, here.high)}
                if seed < PLAIN:
                    rng = np.random.default_rng(seed)
                    ends["percentiles"] = percentiles(scores, of.membership.numpy(), rng)
                for name, (low, high) in ends.items():
                    counts[name] += low <= truth <= high
                    widths[name] += (high - low) / 2
            rows.append({
                "trainings": number, "classes": classes, "ways": ways, "tasks": tasks,
                "repetitions": repetitions, "truth": truth,
                **{f"covered by {name}": counts[name] / times[name] for name in counts},
                **{f"half-width of {name}": widths[name] / times[name] for name in widths},
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def tasks_needed(scores: Tensor, half: float = MATTERS) -> int:
    """For an interval of the mean of ``scores`` of this half-width."""
    return math.ceil((1.96 * float(scores.double().std()) / half) ** 2)


def pairing(repetitions: int) -> list[Row]:
    """Tasks for ± half a point: two learners on one backbone, and on backbones of their own."""
    glyphs = qs.datasets.load("glyphs")
    train, test = (qs.episodes(split, 5, 1, 15) for split in (glyphs.train, glyphs.test))
    trained = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        trained.append(qs.Prototypical(qs.backbones.Conv4()))
        qs.fit(trained[-1], train, steps=repetitions, tasks_per_step=4, seed=seed)
    one, again = trained
    ridge = qs.R2D2(one.backbone)
    tasks = max(20, min(repetitions, 300))
    found = {
        name: qs.evaluate(learner, test, tasks, baselines=False).scores
        for name, learner in (("prototypes", one), ("ridge", ridge), ("again", again))
    }
    rows = []
    for name, other in (("ridge on the same backbone", "ridge"), ("another training", "again")):
        first, second = found["prototypes"], found[other]
        # Independent tasks for each learner: the variance of a difference is that of both.
        apart = first.double().std().square() + second.double().std().square()
        needed = math.ceil(1.96**2 * float(apart) / MATTERS**2)
        rows.append({
            "against": name, "tasks": tasks, "steps": repetitions,
            "difference": float((first - second).mean()),
            "ties": float((first == second).double().mean()),
            "tasks needed, paired": tasks_needed(first - second), "tasks needed, apart": needed,
            "scores": [first.tolist(), second.tolist()],
        })  # fmt: skip
        print({key: value for key, value in rows[-1].items() if key != "scores"}, flush=True)
    return rows


PARTS: dict[str, Callable[[int], list[Row]]] = {
    "null": null, "trainings": trainings, "power": power, "tasks": over_tasks, "others": others,
    "pairing": pairing,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen parts and write them to ``results/verdicts.json`` as each ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=1000, help="steps, for pairing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    for part in chosen.parts:
        found = PARTS[part](chosen.repetitions)
        results = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
        results[part] = found
        write_atomically(chosen.out, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
