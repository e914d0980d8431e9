"""Spoken words after a few recordings: new words, new speakers, and both at once.

    python benchmarks/speech.py --root DATA
    python benchmarks/speech.py --root DATA --only "nearest mean of log-mel"

Each method is trained for ``--minutes`` of CPU time on one thread and scored on the same test
tasks, 1 and 5 shots, 15 queries of each word. Results, with the score of every task, go to
``results/speech.json``. Inductive. The splits are those of ``spoken_digits``:

    both      trained on zero to five of four speakers, tested on six to nine of the two others
    words     trained on zero to five, tested on six to nine, all of all six speakers
    speakers  trained on four speakers, tested on all ten words of each of the two others
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from figures import as_json, figures

import quickstudy as qs
from quickstudy.backbones.joined import Flat
from quickstudy.base.atomic import write_atomically
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "speech.json"
WAYS = {"both": 4, "words": 4, "speakers": 10}
TRAIN_WAYS = {"both": 8, "words": 8, "speakers": 10}
QUERIES, TRAIN_SHOTS, TRAIN_QUERIES = 15, 3, 3
METHODS: dict[str, tuple[bool, str | None]] = {
    "nearest mean of log-mel": (False, None),
    "Prototypical": (True, None),
    "Prototypical, shifts and masks": (True, "shifts+masks"),
}
"""Name -> whether it is trained, and the augmentation of its training tasks."""
WARM_UP = 10
"""Steps by which the time of one is measured."""


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    for split in args.splits:
        data = qs.datasets.load("spoken_digits", args.root, split=split, size=args.size,
                                rotations=True)  # fmt: skip
        for name in args.only or METHODS:
            trained, augment = METHODS[name]
            learner, about = (
                _trained(data, split, augment, args)
                if trained
                else _untrained(data.test.inputs[0].numel())
            )
            if args.picture and split == "both":
                draw(learner, data, args.picture, args.seed)
            for shots in (1, 5):
                source = _tasks(data, data.test, WAYS[split], shots, QUERIES)
                found = qs.evaluate(learner, source, args.tasks, seed=args.seed, baselines=False)
                _keep(args.out, f"{split} {name} {shots}", {**figures(found), **about,
                      "commit": commit(), "ways": WAYS[split], "shots": shots})  # fmt: skip


def draw(learner: qs.Learner, data: Any, path: Path, seed: int) -> None:
    """One test task, 1 shot: on each line a word's example, and queries with what was said."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown, words = 6, data.test.names
    source = _tasks(data, data.test, len(words), 1, shown)
    task = source(torch.Generator().manual_seed(seed))
    names = source.names(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        said = learner(task.support, task.spec)(task.query.inputs).argmax(-1)
    figure, axes = plt.subplots(len(words), 1 + shown, figsize=(7, 4.6))
    for way, line in enumerate(axes):
        rows = (task.query.targets == way).nonzero()[:, 0]
        pictures = [task.support.inputs[task.support.targets == way][0], *task.query.inputs[rows]]
        titles = [f"“{names[way]}”", *(names[int(said[row])] for row in rows)]
        colours = ["black", *("#1a7f37" if said[row] == way else "#b3261e" for row in rows)]
        for axis, picture, title, colour in zip(line, pictures, titles, colours, strict=True):
            axis.imshow(picture[0], cmap="magma", vmin=0, vmax=1)
            axis.set_title(title, color=colour, fontsize=9, pad=2)
            axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _tasks(
    data: Any, rows: qs.LabelledRows, ways: int, shots: int, queries: int, augment: Any = None
) -> Any:
    within = rows.superclasses if data.within_superclass else None
    return qs.episodes(rows, ways, shots, queries, augment=augment, within=within)


def _untrained(pixels: int) -> tuple[qs.Learner, dict[str, Any]]:
    return qs.Prototypical(Flat(pixels)), {"steps": 0, "cpu_seconds": 0}


def _trained(
    data: Any, split: str, augment: str | None, args: argparse.Namespace
) -> tuple[qs.Learner, dict[str, Any]]:
    source = _tasks(data, data.train, TRAIN_WAYS[split], TRAIN_SHOTS, TRAIN_QUERIES, augment)

    def fitted(steps: int) -> tuple[qs.Learner, float]:
        torch.manual_seed(args.seed)
        learner = qs.Prototypical(qs.backbones.Conv4(image_size=data.train.inputs.shape[-1]))
        start = time.process_time()
        qs.fit(learner, source, steps=steps, optimiser=adam(args.rate), schedule=cosine,
               seed=args.seed, progress=False)  # fmt: skip
        return learner.eval(), time.process_time() - start

    steps = args.steps
    if steps is None:
        fitted(2)
        steps = max(1, int(args.minutes * 60 / (fitted(WARM_UP)[1] / WARM_UP)))
    learner, seconds = fitted(steps)
    return learner, {"steps": steps, "cpu_seconds": round(seconds, 1)}


def _keep(out: Path, key: str, result: dict[str, Any]) -> None:
    results = json.loads(out.read_text()) if out.exists() else {}
    results[key] = result
    out.parent.mkdir(exist_ok=True)
    write_atomically(out, as_json(results))
    print(f"{key}: {100 * result['mean']:.1f} ± {100 * result['half_width']:.1f}, "
          f"{result['steps']} steps, {result['cpu_seconds']} CPU s", flush=True)  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="the folder that holds spoken_digits/")
    parser.add_argument("--splits", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--only", nargs="+", choices=list(METHODS), help="methods; by default all")
    parser.add_argument("--size", type=int, help="bands and frames; by default the data set's")
    parser.add_argument("--minutes", type=float, default=5, help="of CPU time for each training")
    parser.add_argument("--steps", type=int, help="of each training, in place of minutes")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="where to draw a task of the last method")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
