"""What ``qs.recommend`` gives away: its choice beside the best candidate after full trainings.

    python benchmarks/recommend.py --root DATA                        # all eight problems
    python benchmarks/recommend.py sinusoids school --root DATA       # these; others are kept

For each problem: ``qs.recommend`` with its minutes; then every candidate that it could have chosen
is trained in full, its usual number of steps, and tested on the same test tasks. *Regret* is how
much worse the recommended candidate is there than the best one, and *over target only* how much
better than the best of the rows alone; of errors, both are shares of the error of these rows alone.
Each part is kept as it ends, with the score of every task; a script that was stopped goes on there.

The recommendation never sees test tasks. Regret does: of many candidates the best one is best by
luck too, so regret is overstated rather than understated.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.base.errors import first_line
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.reports.tables import markdown_table
from quickstudy.selection.recommending.candidates import Candidate, Problem
from quickstudy.selection.recommending.given import Asked, problem_of
from quickstudy.selection.recommending.racer import Racer, one_result
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "recommend.json"
SEED = 0


class Case(NamedTuple):
    """A problem: its data, the arguments of ``recommend``, minutes, and test tasks at most."""

    data: Callable[[Path | None], Any]
    arguments: dict[str, Any]
    minutes: float
    tasks: int = 600


def shifted(root: Path | None) -> qs.tasks.TransferTasks:
    """A linear boundary; one source has moved, and in the other labels are flipped."""
    chance = torch.Generator().manual_seed(SEED)

    def rows(n: int, moved: float = 0.0, flipped: bool = False) -> qs.Examples:
        x = torch.randn(n, 6, generator=chance)
        noisy = x[:, 0] + x[:, 1] + 0.5 * torch.randn(n, generator=chance)
        y = (noisy > 0).long()
        return qs.examples(x + moved, 1 - y if flipped else y)

    sources = [rows(300, 0.5), rows(300, 0.0, flipped=True)]
    return qs.tasks.transfer(sources, rows(1000), qs.classification(2), labelled=10)


def many_shots(root: Path | None) -> qs.datasets.Domains | tuple[Any, Any]:
    """Digits of the post, 1,000 pictures of 16 pixels: about 100 of each digit."""
    digits = qs.datasets.load_domains("mnist_usps", root)["usps"]
    return digits.inputs, digits.targets


CASES: dict[str, Case] = {
    "sinusoids": Case(lambda root: qs.Sinusoids(10, 50), {}, 4),
    "school": Case(lambda root: qs.datasets.load_named_tasks("school", root), {}, 3),
    "shifted domains, one harmful": Case(shifted, {}, 3),
    "many shots (digits)": Case(many_shots, {}, 6, 100),
    "clinc150": Case(lambda root: qs.datasets.load("clinc150", root), {}, 6),
    "glyphs": Case(lambda root: qs.datasets.load("glyphs", root), {}, 10),
    "omniglot": Case(lambda root: qs.datasets.load("omniglot", root), {}, 10),
    "caltech101": Case(lambda root: qs.datasets.load("caltech101", root), {"shots": 5}, 10),
}
"""The smallest first."""


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.problems or CASES:
        case = CASES[name]
        tasks = min(args.tasks, case.tasks)
        found = results.setdefault(name, {"truth": {}})
        data = case.data(args.root)
        data, targets = data if isinstance(data, tuple) else (data, None)
        given = {**case.arguments, "targets": targets}
        if "recommended" not in found:
            budget = {"steps": args.steps} if args.steps else {
                "minutes": args.minutes or case.minutes
            }  # fmt: skip
            recommended = qs.recommend(
                data, **given, **budget, tasks=tasks, seeds=args.seeds, seed=SEED
            )
            found["recommended"] = recommended.to_json()
            _keep(args.out, results)
        problem = problem_of(data, _asked(given, args.feature_seconds))
        for candidate in problem.candidates:
            if candidate.name not in found["truth"]:
                found["truth"][candidate.name] = _truth(candidate, tasks, args.truth_steps)
                _keep(args.out, results)
        found |= summary(problem, found) | {"commit": commit(), "torch": torch.__version__}
        _keep(args.out, results)
    print(table(results))


def _asked(given: dict[str, Any], seconds: float) -> Asked:
    return Asked(
        given.get("targets"), given.get("target"), None, given.get("ways", 5),
        given.get("shots", 1), given.get("queries", 15), given.get("labelled", 10), SEED, seconds,
        pretend=False,
    )  # fmt: skip


def _truth(candidate: Candidate, tasks: int, at_most: int | None) -> dict[str, Any]:
    """The score of one candidate after its full training, with that of every task."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            racer = Racer(candidate, SEED + 100, Path(folder) / "run", cosine)
            steps = min(candidate.steps, at_most or candidate.steps)
            racer.train_to(steps)
            result = one_result(racer.scored(tasks, SEED, test=True))
    except Exception as error:  # told in the table, and counted last
        return {"failure": first_line(error)}
    print(f"  {candidate.title}: {result.figure}", flush=True)
    return {
        "title": candidate.title, "family": candidate.family, "steps": steps,
        "score": result.score, "unit": result.unit, "higher_is_better": result.higher_is_better,
        "mean": result.mean, "half_width": result.half_width, "tasks": result.tasks,
        "scores": [round(value, 6) for value in result.values.tolist()],
    }  # fmt: skip


def summary(problem: Problem, found: dict[str, Any]) -> dict[str, Any]:
    """Regret, and what the choice gains over the best of the rows alone."""
    truth = {name: each for name, each in found["truth"].items() if "mean" in each}

    def good(name: str) -> float:
        each = truth[name]
        return each["mean"] if each["higher_is_better"] else -each["mean"]

    chosen = found["recommended"]["name"]
    alone = [name for name, each in truth.items() if each["family"] == "target only"]
    best = max(truth, key=good)
    unit = truth[best]["unit"]
    scale = 1.0 if unit == "%" or not alone else abs(max(map(good, alone)))
    regret = (good(best) - good(chosen)) / scale if chosen in truth else math.inf
    gained = (good(chosen) - max(map(good, alone))) / scale if chosen in truth and alone else None
    return {"about": problem.about, "chosen": chosen, "best": best, "regret": regret,
            "over_target_only": gained}  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """The table of ``benchmarks/README.md``."""
    rows = []
    for name, found in results.items():
        if "regret" not in found:
            continue
        best, chosen = (found["truth"][found[key]] for key in ("best", "chosen"))
        rows.append({
            "problem": name,
            "recommended": chosen["title"],
            "its full training": _figure(chosen),
            "best in hindsight": best["title"],
            "its full training ": _figure(best),
            "regret": _points(found["regret"], best["unit"]),
            "over target only": _points(found["over_target_only"], best["unit"]),
        })  # fmt: skip
    regrets = [f["regret"] for f in results.values() if "regret" in f]
    mean = f"\n\nMean regret over {len(regrets)} problems: {100 * sum(regrets) / len(regrets):.1f}"
    return markdown_table(rows) + mean if rows else "nothing is finished yet"


def _figure(truth: dict[str, Any]) -> str:
    mean, width = truth["mean"], truth["half_width"]
    if truth["unit"] == "%":
        return f"{100 * mean:.1f} ± {100 * width:.1f}"
    return f"{mean:.3g} ± {width:.2g}"


def _points(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if unit == "%" else f"{100 * value:.1f}% of the error alone"


def _keep(path: Path, results: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", help="all by default")
    parser.add_argument("--root", type=Path, default=None, help="folder of the data sets")
    parser.add_argument("--minutes", type=float, default=None, help="of each race")
    parser.add_argument("--steps", type=int, default=None, help="instead of --minutes")
    parser.add_argument("--truth-steps", type=int, default=None, help="at most, of full trainings")
    parser.add_argument("--tasks", type=int, default=600, help="test tasks at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--feature-seconds", type=float, default=math.inf,
                        help="for features of pretrained networks, in full trainings")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    warnings.simplefilter("ignore", RuntimeWarning)  # of gates with too few rows
    main()
