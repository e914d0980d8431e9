"""Drawings of characters that training has not seen: completed, and made anew from five.

    python benchmarks/generation.py completion --root DATA
    python benchmarks/generation.py samples --root DATA

Omniglot at 14x14 pixels in Lake's split: trained on characters of 25 alphabets, tested on those of
20 others. Trainings take ``--minutes`` of CPU time on one thread. Results, with the score of every
task, go to ``results/generation.json``. Inductive.

``completion``: 40 of the 196 pixels of a drawing are given; the score is the squared error at the
other 156, where ink is from 0 to 1. All rows are scored on the same drawings.

``samples``: of each of 20 test characters, the learner is given drawings by 5 people and makes new
ones. A judge names them among the 20 characters. It is a Prototypical Conv4, trained on characters
of the 5 validation alphabets, which the learner has never seen, and it is given drawings of the 20
characters by 10 other people. The score is the share that it names right. Beside it stand real
drawings by the last 5 people, the given drawings themselves, and the mean of the five. Copying what
was given would score high too, so the distance of each to the nearest given drawing is kept: the
root of the mean squared difference of its pixels, after moving it by up to a pixel.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from figures import as_json, figures
from torch import Tensor

import quickstudy as qs
from quickstudy.applications.drawing_baselines import MeanDrawing, NearestPixel
from quickstudy.applications.drawing_files import write_drawing
from quickstudy.applications.drawing_tasks import Completions, NewDrawings
from quickstudy.applications.generation import CONTEXT, LATENT, Generation, drawings_of
from quickstudy.base.atomic import write_atomically
from quickstudy.base.door import to_unit
from quickstudy.evaluation.intervals import half_width
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "generation.json"
SIZE, GIVEN, WAYS = 14, 40, 20
SUPPORT, JUDGE, REAL = slice(0, 5), slice(5, 15), slice(15, 20)
"""The drawings of a character, after shuffling: for the learner, for the judge, and to compare."""
EACH = 5
"""New drawings of each character."""
PROCESSES = {
    "convolutional process": "convolutional_conditional_neural_process",
    "attentive process": "attentive_conditional_neural_process",
    "conditional process": "conditional_neural_process",
}
WARM_UP = 10
"""Steps by which the time of one is measured."""


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    data = qs.datasets.load("omniglot", args.root, split="lake", size=SIZE)
    {"completion": completion, "samples": samples}[args.part](data, args)


def completion(data: Any, args: argparse.Namespace) -> None:
    """Score every way to complete drawings."""
    test = Completions(data.test, GIVEN)
    mean = to_unit(data.train.inputs).mean((0, 1))
    made: dict[str, Callable[[], tuple[qs.Learner, dict[str, Any]]]] = {
        "nearest given pixel": lambda: (NearestPixel(), {}),
        "mean drawing": lambda: (MeanDrawing(mean), {}),
        **{name: lambda card=card: _fitted_process(card, data, args)
           for name, card in PROCESSES.items()},
    }  # fmt: skip
    for name in args.only or made:
        learner, about = made[name]()
        if args.picture and name == "convolutional process":
            draw_completions(learner, data, args.picture)
        found = qs.evaluate(learner, test, args.tasks, seed=args.seed, baselines=False)
        _keep(args.out, f"completion {name}", {**figures(found), **about, "commit": commit()})


def draw_completions(learner: qs.Learner, data: Any, path: Path) -> None:
    """Eight test drawings: what was given, what was made of it, and the drawing itself."""
    test = Completions(data.test, GIVEN)
    lines: list[list[Tensor]] = [[], [], []]
    for seed in range(8):
        task = test(torch.Generator().manual_seed(seed))
        where = torch.cat([task.support.inputs, task.query.inputs])
        with torch.no_grad():
            made = learner(task.support, task.spec)(where)
        known = torch.cat([task.support.targets, torch.full_like(task.query.targets, 0.25)])
        true = torch.cat([task.support.targets, task.query.targets])
        cells = ((where + 1) / 2 * SIZE).long()
        for line, ink in zip(lines, (known, made, true), strict=True):
            picture = torch.zeros(SIZE, SIZE)
            picture[cells[:, 0], cells[:, 1]] = ink[:, 0].clamp(0, 1)
            line.append(picture)
    _draw([torch.stack(line) for line in lines], path)


def draw_samples(learner: qs.Learner, data: Any, path: Path) -> None:
    """Six test characters: the five drawings that were given, and five new ones."""
    generator = torch.Generator().manual_seed(0)
    drawings = _characters(data.test, generator)[:6]
    new = _new(learner, drawings[:, SUPPORT], generator)
    gap = torch.full((6, 1, SIZE * SIZE), 0.1)
    rows = torch.cat([drawings[:, SUPPORT], gap, new], 1)
    _draw(list(rows.unflatten(-1, (SIZE, SIZE))), path)


def _draw(lines: list[Tensor], path: Path) -> None:
    """Lines of drawings (n, SIZE, SIZE), dark ink on white, as one picture."""
    padded = [F.pad(line, (1, 1, 1, 1), value=0.1) for line in lines]
    whole = torch.cat([torch.cat(list(line), 1) for line in padded], 0)
    write_drawing(whole, path, enlarged=4)


def _fitted_process(
    card: str, data: Any, args: argparse.Namespace
) -> tuple[qs.Learner, dict[str, Any]]:
    source = Completions(data.train, GIVEN, turned=True)
    return _fitted(lambda: Generation(size=SIZE)._learner(card), source, 16, args)


def samples(data: Any, args: argparse.Namespace) -> None:
    """Score new drawings, and what they are compared with."""
    learner, about = _fitted(
        lambda: Generation(size=SIZE)._learner("neural_statistician"),
        NewDrawings(data.train, 5, 1, CONTEXT + LATENT, turned=True), 16, args,
    )  # fmt: skip
    if args.picture:
        draw_samples(learner, data, args.picture)
    judge, of_judge = _judge(data, args)
    kinds = ("new drawings", "real drawings", "given drawings", "mean of the given")
    rows: dict[str, dict[str, list[float]]] = {
        kind: {"right": [], "distance": [], "spread": []} for kind in kinds
    }
    for task in range(args.tasks):
        generator = torch.Generator().manual_seed(args.seed * 100_003 + task)
        drawings = _characters(data.test, generator)
        support = drawings[:, SUPPORT]
        of_kind = {
            "new drawings": _new(learner, support, generator), "real drawings": drawings[:, REAL],
            "given drawings": support, "mean of the given": support.mean(1, keepdim=True),
        }  # fmt: skip
        name = _namer(judge, drawings[:, JUDGE])
        for kind, pictures in of_kind.items():
            rows[kind]["right"].append(name(pictures))
            rows[kind]["distance"].append(_distance(pictures, support, kind == "given drawings"))
            rows[kind]["spread"].append(_spread(pictures))
    for kind, found in rows.items():
        scores = torch.tensor(found["right"], dtype=torch.float64)
        _keep(args.out, f"samples {kind}", {
            "metric": "named right", "mean": float(scores.mean()), "half_width": half_width(scores),
            "tasks": args.tasks, "seed": args.seed, "ways": WAYS,
            **(about if kind == "new drawings" else {}), "judge": of_judge,
            "distance": sum(found["distance"]) / args.tasks,
            "spread": sum(found["spread"]) / args.tasks,
            "commit": commit(), "scores": [round(float(each), 6) for each in scores],
        })  # fmt: skip


def _characters(rows: qs.LabelledRows, generator: torch.Generator) -> Tensor:
    """(WAYS, 20, pixels): characters at random, the drawings of each shuffled."""
    chosen = torch.randperm(len(rows), generator=generator)[:WAYS]
    shuffled = [
        rows.rows(int(each))[torch.randperm(20, generator=generator)] for each in chosen
    ]  # fmt: skip
    return to_unit(torch.stack(shuffled)).flatten(2)


def _new(learner: qs.Learner, support: Tensor, generator: torch.Generator) -> Tensor:
    """(WAYS, EACH, pixels)."""
    spec, made = qs.regression(support.shape[-1]), []
    for given in support:
        noise = torch.zeros(len(given), CONTEXT + LATENT)
        made.append(drawings_of(learner(qs.examples(noise, given), spec), EACH, generator))
    return torch.stack(made)


def _judge(data: Any, args: argparse.Namespace) -> tuple[qs.Learner, dict[str, Any]]:
    """A classifier of characters, trained on alphabets that nothing else is trained on."""
    source = qs.episodes(data.val, ways=WAYS, shots=5, queries=3, augment="affine")

    def made() -> qs.Learner:
        return qs.Prototypical(qs.backbones.Conv4(32, image_size=SIZE, pools=3))

    return _fitted(made, source, 1, args, args.judge_minutes)


def _namer(judge: qs.Learner, support: Tensor) -> Callable[[Tensor], float]:
    """Drawings (WAYS, n, pixels) -> the share of them whose character the judge names right."""
    ids = torch.arange(len(support)).repeat_interleave(support.shape[1])
    predictor = judge(qs.examples(_pictures(support), ids), qs.classification(len(support)))

    def right(drawings: Tensor) -> float:
        with torch.no_grad():
            named = predictor(_pictures(drawings)).argmax(-1)
        true = torch.arange(len(drawings)).repeat_interleave(drawings.shape[1])
        return float((named == true).double().mean())

    return right


def _pictures(drawings: Tensor) -> Tensor:
    return drawings.reshape(-1, 1, SIZE, SIZE)


def _distance(drawings: Tensor, support: Tensor, themselves: bool) -> float:
    """The mean distance of ``drawings`` to the nearest of ``support``, up to a shift of a pixel."""
    padded = F.pad(drawings.unflatten(-1, (SIZE, SIZE)), (1, 1, 1, 1))
    moved = padded.unfold(2, SIZE, 1).unfold(3, SIZE, 1).flatten(2, 3).flatten(-2)  # 9 each
    squares = (moved[:, :, None] - support[:, None, :, None]).square().mean(-1)  # way, new, old, 9
    nearest = squares.amin(-1)
    if themselves:
        nearest = nearest.masked_fill(torch.eye(nearest.shape[1], dtype=torch.bool), torch.inf)
    return float(nearest.amin(-1).sqrt().mean())


def _spread(drawings: Tensor) -> float:
    """The root of the mean squared difference of ``drawings`` of a character from their mean."""
    return float((drawings - drawings.mean(1, keepdim=True)).square().mean().sqrt())


def _fitted(
    made: Callable[[], qs.Learner],
    source: Any,
    tasks_per_step: int,
    args: argparse.Namespace,
    minutes: float | None = None,
) -> tuple[qs.Learner, dict[str, Any]]:
    """A learner after as many steps as the CPU time allows, and what training took."""

    def fitted(steps: int) -> tuple[qs.Learner, float]:
        torch.manual_seed(args.seed)
        learner, start = made(), time.process_time()
        qs.fit(learner, source, steps, tasks_per_step, optimiser=adam(1e-3), schedule=cosine,
               seed=args.seed, progress=False)  # fmt: skip
        return learner.eval(), time.process_time() - start

    steps = args.steps
    if steps is None:
        fitted(2)
        budget = 60 * (args.minutes if minutes is None else minutes)
        steps = max(1, int(budget / (fitted(WARM_UP)[1] / WARM_UP)))
    learner, seconds = fitted(steps)
    return learner, {"steps": steps, "cpu_seconds": round(seconds, 1)}


def _keep(out: Path, key: str, result: dict[str, Any]) -> None:
    results = json.loads(out.read_text()) if out.exists() else {}
    results[key] = result
    out.parent.mkdir(exist_ok=True)
    write_atomically(out, as_json(results))
    print(f"{key}: {result['mean']:.4f} ± {result['half_width']:.4f}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("completion", "samples"))
    parser.add_argument("--root", required=True, help="the folder that holds omniglot/")
    parser.add_argument("--only", nargs="+", help="rows of the completion; by default all")
    parser.add_argument("--minutes", type=float, default=5, help="of CPU time for each training")
    parser.add_argument("--judge-minutes", type=float, default=2)
    parser.add_argument("--steps", type=int, help="of each training, in place of minutes")
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="where to draw what was made")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
