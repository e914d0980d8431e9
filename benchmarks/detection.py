"""Detection of new classes from few boxes: playing cards in three class splits.

    python benchmarks/detection.py --root DATA [--splits 0 1 2]

In each split four ranks are base classes and two are new; pictures that show a new rank are not
trained on. A support set has 1, 5 or 10 boxes of each rank, drawn from the pictures of the
published training part; all 67 pictures of the test part are queries. Ten support sets a split.
Learners share one trained centre head, and have the settings of ``quickstudy run``; AP50 of new and
of base classes is kept for each support set, and that of objects of any class for each split.
``--data blood_cells`` has one split, and so has ``--data own``, a folder of your own. CPU seconds
are of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import quickstudy as qs
from quickstudy.answers.boxes import AP50
from quickstudy.applications.detection import Detection
from quickstudy.base.atomic import replace_atomically
from quickstudy.core import Task
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.transfer.centre_learner import CentreLearner
from quickstudy.tasks.numbering import draw
from quickstudy.training.optimisers import adam
from quickstudy.training.schedules import cosine

RESULTS = Path(__file__).parent / "results" / "detection.json"
SHOTS, DRAWS, SEED = (1, 5, 10), 10, 0

Row = dict[str, Any]


def rows(
    app: Detection, data: str, root: Path, shots: tuple[int, ...], draws: int
) -> Iterator[Row]:
    """The rows of one class split, each learner as soon as it is scored."""
    start = time.process_time()
    parts = app.prepare(data, root, app.learners[0], shots[0], SEED)
    assert isinstance(parts.learner, CentreLearner)
    assert parts.train is not None
    qs.fit(
        parts.learner, parts.train, parts.steps, parts.tasks_per_step, seed=SEED,
        optimiser=adam(parts.rate), schedule=cosine, clip=parts.clip, progress=False,
    )  # fmt: skip
    seconds = time.process_time() - start
    trained = parts.learner.eval()
    sources = {k: app.prepare_test(data, root, k) for k in shots}
    about = {
        "data": data, "split": app.split, "new": sources[shots[0]].names(torch.Generator())[
            trained.base :], "seed": SEED, "training_s": round(seconds, 1), "commit": commit(),
    }  # fmt: skip
    task = draw(sources[shots[0]], SEED, 0)
    yield about | {"learner": "objects of any class", "AP50": of_any_class(trained, task)}
    for name in app.learners:
        learner = app.learner(name, SEED, trained.base)
        learner.load_state_dict(trained.state_dict())
        # The same frozen networks, which remember their features.
        learner.backbone, learner.encoder = trained.backbone, trained.encoder
        for k in shots:
            start = time.process_time()
            found = [scored(learner.eval(), draw(sources[k], SEED, i)) for i in range(draws)]
            each = (time.process_time() - start) / draws
            scores = {n: [round(s[n], 4) for s in found] for n in found[0]}
            yield about | {"learner": name, "shots": k, "task_s": round(each, 2), **scores}


@torch.no_grad()
def scored(learner: CentreLearner, task: Task) -> dict[str, float]:
    """Every score of the task's answer."""
    with torch.enable_grad():
        predictor = learner(task.support, task.spec)
    predictions = predictor(task.query.inputs)
    return {
        score.name: float(score.value(score.statistic(predictions, task.query)))
        for score in task.spec.answer.scores
    }


@torch.no_grad()
def of_any_class(learner: CentreLearner, task: Task) -> float:
    """AP50 of the centre head alone, all objects as one class."""
    found = learner.found(learner.head(learner.backbone(task.query.inputs)))
    p = found.certainty.unsqueeze(-1)
    predictions = {"boxes": found.boxes, "logits": torch.cat([p, 1 - p], -1).clamp_min(1e-7).log()}
    targets = task.query.targets
    classes = targets["classes"].clamp_max(0)
    query = task.query._replace(targets={"boxes": targets["boxes"], "classes": classes})
    return round(float(AP50().value(AP50().statistic(predictions, query))), 4)


def main() -> None:
    """Rows of the splits asked for, in place of earlier ones of the same data and split."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--data", default="playing_cards")
    parser.add_argument("--splits", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--shots", type=int, nargs="*", default=list(SHOTS))
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--set", nargs="*", default=[], help="NAME=NUMBER of the application")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = {name: int(value) for name, value in (each.split("=") for each in args.set)}
    for split in args.splits if args.data == "playing_cards" else [0]:
        kept: list[Row] = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
        kept = [row for row in kept if (row["data"], row["split"]) != (args.data, split)]
        app = Detection(split=split, **options)
        for row in rows(app, args.data, args.root, tuple(args.shots), args.draws):
            kept.append(row)
            text = json.dumps({"rows": kept}) + "\n"
            replace_atomically(args.out, lambda path, text=text: path.write_text(text))
            means = {
                n: round(100 * sum(v) / len(v), 1) if isinstance(v, list) and n.endswith("AP50")
                else v for n, v in row.items()
            }  # fmt: skip
            print(means, flush=True)


if __name__ == "__main__":
    main()
