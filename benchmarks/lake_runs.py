"""Lake's 20 published one-shot runs, by Prototypical trained on Omniglot's background set.

    python benchmarks/lake_runs.py --held-out --steps 500    # a trial, scored on held-out alphabets
    python benchmarks/lake_runs.py                           # trains, tests once, writes JSON
    python benchmarks/lake_runs.py --pixels                  # the pixel baseline of the runs: 38.8

Protocol: trained on the drawings of the 30 background alphabets alone. With --held-out, five of
them are kept out, and give tasks like the published ones: 20 characters of one alphabet, support
by one person and queries by another. Settings are chosen by these, never by the 20 runs, which are
scored once, with the weights after the last step.

Training tasks: 20 characters of one alphabet, alphabets turned by 90, 180 and 270 degrees as
further ones, six drawings of each, each distorted by a small random affine map. Each of the six in
turn is the support of a one-shot task, with the others as its queries; the loss is the mean.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from figures import as_json, figures
from torch import Tensor

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.datasets import lake_runs
from quickstudy.datasets.registry import card
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.metric.distances import squared_euclidean
from quickstudy.reports.literature import beside_published
from quickstudy.reports.tables import markdown_table
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

RESULT = Path(__file__).parent / "results" / "lake_runs.json"
WAYS, DRAWINGS = 20, 6


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    if args.pixels:
        error = lake_runs.pixel_error(lake_runs.read_runs(args.root))
        print(f"pixels by modified Hausdorff distance: error {100 * error:.2f}%")
        return
    torch.manual_seed(args.seed)
    # Both data sets before training, since a download may fail.
    published = None if args.held_out else qs.datasets.load_tasks("lake_runs", args.root)
    data = qs.datasets.load("omniglot", root=args.root, split="lake")
    background = data.train if args.held_out else _joined(data.train, data.val)
    learner = qs.Prototypical(qs.backbones.Conv4(args.channels))
    wall, cpu = time.perf_counter(), time.process_time()
    qs.fit(
        learner, _training_source(background), steps=args.steps, tasks_per_step=1,
        optimiser=adam(args.rate), schedule=cosine, objective=every_drawing_as_support,
        seed=args.seed, log_every=100, progress=False, run=args.run,
    )  # fmt: skip
    minutes = {
        "wall_minutes": round((time.perf_counter() - wall) / 60, 1),
        "cpu_minutes": round((time.process_time() - cpu) / 60, 1),
    }
    qs.save(learner, args.save)
    if published is None:
        _print(qs.evaluate(learner, like_published(data.val, 200)))
        return
    evaluation = qs.evaluate(learner, published.source)
    _print(evaluation)
    trained = {
        "alphabets": 30, "ways": WAYS, "drawings": DRAWINGS, "steps": args.steps, "threads": 1,
        "rate": args.rate, "seed": args.seed, **minutes,
    }  # fmt: skip
    result = {
        "learner": "prototypical", "network": f"Conv4-{args.channels}", "norm": "group",
        "trained": trained, "commit": commit(), "torch": torch.__version__,
        "evaluation": figures(evaluation),
    }  # fmt: skip
    write_atomically(RESULT, as_json(result))
    print(markdown_table(beside_published(evaluation, card("lake_runs").published, "Prototypical")))


def every_drawing_as_support(learner: qs.Learner, task: qs.Task) -> Tensor:
    """The mean one-shot loss over every choice of the drawings that are the support.

    The support has one drawing of each class, the queries are ordered by class. All are embedded
    once, so this costs no more than one choice.
    """
    inputs = torch.cat([task.support.inputs, task.query.inputs])
    ways = len(task.support.weights)
    support, query = learner.backbone(inputs).split([ways, len(inputs) - ways])
    features = torch.cat([support[None], query.view(ways, -1, query.shape[-1]).transpose(0, 1)])
    drawings = len(features)
    logits = -squared_euclidean(features.flatten(0, 1), features.flatten(0, 1))
    logits = logits.view(drawings, ways, drawings, ways).transpose(1, 2)  # query, support, way, way
    targets = torch.arange(ways).expand(drawings, drawings, ways)
    losses = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none")
    other = ~torch.eye(drawings, dtype=torch.bool)  # no drawing is a query of itself
    return losses.view(drawings, drawings, ways).mean(-1)[other].mean()


@dataclass(frozen=True)
class Distorted:
    """The tasks of ``source``, each image distorted by its own random affine map."""

    source: qs.tasks.Episodes

    def __call__(self, generator: torch.Generator) -> qs.Task:
        """One task; the same generator state gives the same task."""
        support, query, spec = self.source(generator)
        support, query = (
            rows._replace(inputs=distort(rows.inputs, generator)) for rows in (support, query)
        )
        return qs.Task(support, query, spec)


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, 1, side, side), each by its own random affine map.

    Turned by up to 15 degrees, slanted by up to a quarter, stretched by up to 15% and shifted by up
    to 5% of the width in each direction.
    """

    def up_to(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, slant = up_to(math.radians(15)), up_to(0.25)
    wide, high, right, down = 1 + up_to(0.15), 1 + up_to(0.15), up_to(0.1), up_to(0.1)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * wide, (slant * cos - sin) * high, right], -1),
        torch.stack([sin * wide, (slant * sin + cos) * high, down], -1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _training_source(background: qs.LabelledRows) -> Distorted:
    turned = background.with_rotations()
    return Distorted(qs.episodes(turned, WAYS, 1, DRAWINGS - 1, within=turned.superclasses))


def _joined(*splits: qs.LabelledRows) -> qs.LabelledRows:
    return qs.LabelledRows(
        torch.cat([split.inputs for split in splits]),
        torch.cat([split.counts for split in splits]),
        sum((split.names for split in splits), ()),
        sum((split.superclasses or () for split in splits), ()),
    )


def like_published(split: qs.LabelledRows, tasks: int) -> qs.tasks.FixedTasks:
    """Tasks like the published ones: drawing number i of each character is by the same person."""
    generator = torch.Generator().manual_seed(0)
    alphabets = split.superclasses or ()
    large = sorted({a for a in alphabets if alphabets.count(a) >= WAYS})

    def task(alphabet: str) -> qs.Task:
        members = [i for i, a in enumerate(alphabets) if a == alphabet]
        order = torch.randperm(len(members), generator=generator)[:WAYS].tolist()
        first, second = torch.randperm(20, generator=generator)[:2].tolist()
        images = [split.rows(members[i]) for i in order]
        support, queries = (torch.stack([r[n] for r in images]) for n in (first, second))
        ids = torch.arange(WAYS)
        return qs.Task(
            qs.examples(support, ids), qs.examples(queries, ids), qs.classification(WAYS)
        )

    return qs.tasks.fixed([task(large[i % len(large)]) for i in range(tasks)])


def _print(evaluation: qs.Evaluation) -> None:
    print(
        f"error {100 * (1 - evaluation.mean):.2f}% ± {100 * evaluation.half_width:.2f} "
        f"({evaluation.tasks} tasks, {evaluation.protocol})",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--held-out", action="store_true", help="score on held-out alphabets")
    parser.add_argument("--pixels", action="store_true", help="the published pixel baseline alone")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", default=None, help="a folder for the log and checkpoints")
    parser.add_argument("--save", default="lake_runs.safetensors", help="where to save the learner")
    parser.add_argument("--root", default=None, help="data root; default QUICKSTUDY_DATA")
    return parser.parse_args()


if __name__ == "__main__":
    main()
