"""Linear multi-task learning on School: the scores of pupils in 139 schools, one task a school.

    known   10 random splits of the pupils of every school, 75% for training. Explained variance is
            1 - SSE / total variance of all test scores; beside it the root mean squared error of a
            school, mean over schools.
    new     10 disjoint groups of 10 schools are held out in turn. Learners learn from all others,
            and adapt to 10 pupils of each school held out; errors are on its other pupils.

Compared are a ridge regression for each school, one for all pupils, ``MeanRegularised`` (offsets
without penalty, or pulled to a shared one) and ``TraceNorm``. All choose their penalties among 8
settings by cross-validation on training rows: over pupils in ``known``, and in ``new`` as it will
be used, by adapting to 10 pupils of schools that were left out. Of the 28 columns the constant one
is left out, since all models have an offset, and the two in percent are standardised by training
rows.

    python benchmarks/school.py known new --root ../shared/data
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Predictor
from quickstudy.evaluation.intervals import half_width
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.multitask.linear_rows import LinearRows
from quickstudy.learners.multitask.linear_stacks import best_setting
from quickstudy.learners.multitask.mean_regularised_optimum import Shared, weights_of
from quickstudy.tasks.examples import take
from quickstudy.tasks.named_tasks import NamedTasks

RESULTS = Path(__file__).parent / "results" / "school.json"
SPEC = qs.regression()
PERCENT, COLUMNS = [3, 4], 27
FOLDS, SCHOOLS, PUPILS = 5, 10, 10
TOLERANCE = 1e-3
"""Of the trace norm: the objective is at most so far above the optimum, in units of that at 0."""

Rows = Mapping[str, qs.Examples]
Fitted = Callable[[str, qs.Examples], Predictor]
"""The predictor for a school, given its name and training rows."""


def spread(low: float, high: float, n: int) -> list[float]:
    """``n`` numbers from ``low`` to ``high``, evenly over the logarithm."""
    return [low * (high / low) ** (k / (n - 1)) for k in range(n)]


GRIDS: dict[str, list[tuple[float, ...]]] = {
    "single": [(l2,) for l2 in spread(0.3, 100, 8)],
    "pooled": [(l2,) for l2 in spread(0.01, 1000, 8)],
    "mean-regularised": [(l2,) for l2 in spread(3, 3000, 8)],
    "mean-regularised, offsets pulled": [
        (l2, offset) for l2 in (10.0, 30.0, 100.0, 300.0) for offset in (3.0, 20.0)
    ],
    "trace norm": [(l2,) for l2 in spread(0.1, 30, 8)],
}
"""The settings among which each method chooses: as many for each."""


def prepared(tasks: NamedTasks, like: NamedTasks) -> dict[str, qs.Examples]:
    """Without the constant column, those in percent standardised by the rows of ``like``."""
    every = torch.cat([like[name].inputs[:, PERCENT] for name in like])
    mean, deviation = every.mean(0), every.std(0, unbiased=False)

    def inputs(x: Tensor) -> Tensor:
        x = x[:, :COLUMNS].clone()
        x[:, PERCENT] = (x[:, PERCENT] - mean) / deviation
        return x.double()

    return {
        name: tasks[name]._replace(
            inputs=inputs(tasks[name].inputs),
            targets=tasks[name].targets.double(),
            weights=tasks[name].weights.double(),
        )
        for name in tasks
    }


def pooled_rows(rows: Rows) -> qs.Examples:
    """The rows of all schools as one task."""
    return qs.Examples(*(torch.cat(leaves) for leaves in zip(*rows.values(), strict=True)))


def learner(method: str, setting: Sequence[float] = ()) -> Any:
    """The learner of a method, with penalties."""
    features = qs.backbones.Features(COLUMNS)
    if method in ("single", "pooled"):
        return qs.LinearProbe(features, l2=setting[0] if setting else 1.0).double()
    if method == "trace norm":
        return qs.TraceNorm(features, *setting).double()
    pulled = "pulled" in method
    l2, *offset = setting or (1.0, *[1.0] * pulled)
    return qs.MeanRegularised(features, l2=l2, l2_offset=offset[0] if pulled else None).double()


def fitted(method: str, rows: Rows, setting: Sequence[float]) -> Fitted:
    """A method with these penalties, learnt from the rows of all schools."""
    made = learner(method, setting)
    if method == "pooled":
        predictor = made(pooled_rows(rows), SPEC)
        return lambda name, support: predictor
    if method == "trace norm":
        made.learn_from(rows, SPEC, tolerance=TOLERANCE)
    elif method != "single":
        made.learn_from(rows, SPEC)
    return lambda name, support: made(support, SPEC)


def chosen_on_pupils(method: str, rows: Rows, seed: int) -> tuple[float, ...]:
    """The setting that predicts left-out pupils of known schools best."""
    grid, made = GRIDS[method], learner(method)
    one = [setting[0] for setting in grid]
    if method == "trace norm":
        made.learn_from(rows, SPEC, l2=one, tolerance=TOLERANCE, folds=FOLDS, seed=seed)
    elif method == "mean-regularised":
        made.learn_from(rows, SPEC, l2=one, folds=FOLDS, seed=seed)
    elif method.startswith("mean-regularised"):
        pulls, offsets = (sorted({setting[k] for setting in grid}) for k in (0, 1))
        made.learn_from(rows, SPEC, l2=pulls, l2_offset=offsets, folds=FOLDS, seed=seed)
        return float(made.log_l2.detach().exp()), float(made.log_l2_offset.detach().exp())
    else:  # ridge regressions pulled to 0
        given = [pooled_rows(rows)] if method == "pooled" else list(rows.values())
        tasks = [LinearRows(t.inputs, t.targets, t.weights[:, None], SPEC.answer) for t in given]
        zero = torch.zeros(COLUMNS, 1, dtype=torch.float64)
        return best_setting(
            grid, tasks,
            lambda l2, stacks: [weights_of(s, Shared(zero, None, *l2, None)) for s in stacks],
            with_ones=False, folds=FOLDS, seed=seed,
        )  # fmt: skip
    return (float(made.log_l2.detach().exp()),)


def chosen_on_schools(method: str, rows: Rows, seed: int) -> tuple[float, ...]:
    """The setting that, learnt from two thirds of the schools and adapted to a few pupils of each
    of the others, predicts their other pupils best."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    names = list(rows)
    out = [names[k] for k in order[: len(rows) // 3]]
    rest = {name: task for name, task in rows.items() if name not in out}
    errors = {}
    for setting in GRIDS[method]:
        model = fitted(method, rest, setting)
        errors[setting] = sum(adapted_error(model, name, rows[name], seed)["sse"] for name in out)
    return min(errors, key=errors.__getitem__)


def statistic(predictor: Predictor, query: qs.Examples) -> dict[str, float]:
    """What is kept of a school: from these numbers all scores follow."""
    targets = query.targets
    with torch.no_grad():
        sse = (predictor(query.inputs) - targets).square().sum()
    return {"n": len(targets), "sse": round(float(sse), 3), "sum": round(float(targets.sum()), 3),
            "squares": round(float(targets.square().sum()), 3)}  # fmt: skip


def adapted_error(model: Fitted, name: str, rows: qs.Examples, seed: int) -> dict[str, float]:
    """The statistic of a school's pupils but for a few at random, to which it was adapted."""
    order = torch.randperm(len(rows.weights), generator=torch.Generator().manual_seed(seed))
    support, query = take(rows, order[:PUPILS]), take(rows, order[PUPILS:])
    return statistic(model(name, support), query)


def explained(schools: Mapping[str, Mapping[str, float]]) -> float:
    """1 - SSE / total variance of the test scores of all schools."""
    sums = {key: sum(s[key] for s in schools.values()) for key in ("n", "sse", "sum", "squares")}
    return 1 - sums["sse"] / (sums["squares"] - sums["sum"] ** 2 / sums["n"])


def rmse(school: Mapping[str, float]) -> float:
    """Root mean squared error of one school."""
    return float((school["sse"] / school["n"]) ** 0.5)


def known(schools: NamedTasks, seed: int) -> dict[str, Any]:
    """For each method: the penalties chosen, and the statistic of every school in one split."""
    found: dict[str, Any] = {}
    train, test = schools.split_rows(0.75, seed)
    rows, queries = prepared(train, train), prepared(test, train)
    for method in GRIDS:
        start = time.process_time()
        setting = chosen_on_pupils(method, rows, seed)
        model = fitted(method, rows, setting)
        each = {name: statistic(model(name, rows[name]), queries[name]) for name in rows}
        seconds = round(time.process_time() - start, 2)
        found[method] = {"setting": setting, "cpu_seconds": seconds, "schools": each}
        print(f"known {seed} {method}: {explained(each):.3f} at {setting}", flush=True)
    return found


def new(schools: NamedTasks, seed: int) -> dict[str, Any]:
    """For each method: the penalties chosen, and the statistic of every school of one group."""
    order = torch.randperm(len(schools), generator=torch.Generator().manual_seed(0))
    names = [list(schools)[k] for k in order.tolist()]
    found: dict[str, Any] = {}
    rest, held_out = schools.split_tasks(names[SCHOOLS * seed : SCHOOLS * (seed + 1)])
    rows, queries = prepared(rest, rest), prepared(held_out, rest)
    for method in GRIDS:
        start = time.process_time()
        setting = chosen_on_schools(method, rows, seed)
        model = fitted(method, rows, setting)
        each = {name: adapted_error(model, name, queries[name], seed) for name in queries}
        seconds = round(time.process_time() - start, 2)
        found[method] = {"setting": setting, "cpu_seconds": seconds, "schools": each}
        print(f"new {seed} {method}: {explained(each):.3f} at {setting}", flush=True)
    return found


def over_splits(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over splits, and in how many a method is above single ridges."""
    scores = {
        method: [
            (explained(each[method]["schools"]), mean_rmse(each[method]["schools"]))
            for each in repeats
        ]
        for method in GRIDS
    }
    found = {}
    for method, pairs in scores.items():
        each = torch.tensor(pairs, dtype=torch.float64)
        (mean, mean_error), (deviation, error_deviation) = each.mean(0).tolist(), _deviation(each)
        found[method] = {
            "explained_variance": mean, "deviation": deviation,
            "rmse": mean_error, "rmse_deviation": error_deviation,
            "above_single": sum(a[0] > b[0] for a, b in zip(pairs, scores["single"], strict=True)),
        }  # fmt: skip
    return found


def _deviation(each: Tensor) -> list[float]:
    """Standard deviations (scores,) over repeats (repeats, scores); 0 for a single one."""
    return (each.std(0) if len(each) > 1 else torch.zeros_like(each[0])).tolist()


def over_schools(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Errors over all schools held out, and gains over single and pooled ridges with intervals."""
    errors = {
        method: torch.tensor(
            [rmse(s) for each in repeats for s in each[method]["schools"].values()]
        )
        for method in GRIDS
    }
    found: dict[str, Any] = {}
    for method, own in errors.items():
        found[method] = {"rmse": float(own.mean()), "half_width": half_width(own)}
        for other in ("single", "pooled"):
            gain = errors[other] - own
            found[method][f"gain_over_{other}"] = {
                "mean": float(gain.mean()), "half_width": half_width(gain),
                "better": int((gain > 0).sum()), "schools": len(gain),
            }  # fmt: skip
    return found


def mean_rmse(schools: Mapping[str, Mapping[str, float]]) -> float:
    """The mean over schools of their root mean squared errors."""
    return sum(map(rmse, schools.values())) / len(schools)


def main() -> None:
    """Run the parts asked for; repeats that the results have already are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=("known", "new"))
    parser.add_argument("--root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--repeats", type=int, default=10, help="splits, and groups of schools")
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    schools = qs.datasets.load_named_tasks("school", words.root)
    results = json.loads(words.out.read_text()) if words.out.exists() else {}
    for part in words.parts:
        run, summary = (known, over_splits) if part == "known" else (new, over_schools)
        done = results.get(part, {}).get("repeats", [])
        for seed in range(len(done), words.repeats):
            done.append(run(schools, seed) | {"commit": commit()})
            settings = {"folds": FOLDS, "pupils": PUPILS, "held_out": SCHOOLS, "grids": GRIDS,
                        "trace_norm_tolerance": TOLERANCE}  # fmt: skip
            results[part] = {"settings": settings, "summary": summary(done), "repeats": done}
            write_atomically(words.out, (json.dumps(results) + "\n").encode())
        for method, row in results[part]["summary"].items():
            print(part, method, row)


if __name__ == "__main__":
    main()
