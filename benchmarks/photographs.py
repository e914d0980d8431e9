"""Image folders of real photographs: train, adapt to five new classes, predict.

    python benchmarks/photographs.py --root DATA

Trains on 64 classes of Caltech-101 as ``quickstudy run`` does. Then, ``--draws`` times: 5 of the
20 test classes, 5 photographs of each as files in class folders, given to what ``quickstudy adapt``
calls; all their other photographs given to what ``quickstudy predict`` calls. Inductive.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
import zipfile
from pathlib import Path

import torch
from figures import as_json, figures

from quickstudy.base.atomic import write_atomically
from quickstudy.evaluation.intervals import half_width
from quickstudy.files.storage import load, save
from quickstudy.interfaces.runs.adapting import adapt_folder
from quickstudy.interfaces.runs.execute import execute
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.predicting import predict_files
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.interfaces.runs.recipe import Recipe

RESULTS = Path(__file__).parent / "results"
WAYS, SHOTS = 5, 5


def main() -> None:
    args = _arguments()
    recipe = Recipe(
        data="caltech101", root=args.root, size=48, learner=args.learner, ways=WAYS, shots=SHOTS,
        queries=15, train_ways=10, train_queries=5, steps=args.steps, tasks_per_step=1,
        threads=args.threads, seed=args.seed,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(recipe, Path(folder) / "run")
        cpu = time.process_time()
        evaluation = execute(run)
        cpu = time.process_time() - cpu
        assert evaluation is not None
        print(f"test episodes: {evaluation}", flush=True)
        photographs = Path(folder) / "photographs"
        with zipfile.ZipFile(Path(args.root) / "caltech101" / "caltech101_30_test.zip") as archive:
            archive.extractall(photographs)
        kinds = sorted(p for p in (photographs / "101_ObjectCategories").iterdir() if p.is_dir())
        draws = random.Random(args.seed)
        accuracies = [_one_draw(run, kinds, draws, Path(folder)) for _ in range(args.draws)]
    scores = torch.tensor(accuracies)
    result = {
        "recipe": recipe.to_json() | {"root": None}, "commit": commit(),
        "cpu_minutes": round(cpu / 60, 1), "episodes": figures(evaluation),
        "folders": {"draws": args.draws, "mean": float(scores.mean()),
                    "half_width": half_width(scores), "protocol": evaluation.protocol,
                    "scores": [round(score, 6) for score in accuracies]},
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULTS / f"photographs_{args.learner}.json", as_json(result))
    print(
        f"folders: {100 * float(scores.mean()):.1f}% ± {100 * half_width(scores):.1f} "
        f"(95% CI, {args.draws} draws of {WAYS} kinds, {SHOTS} photographs each)"
    )


def _one_draw(run: Run, kinds: list[Path], draws: random.Random, folder: Path) -> float:
    """Accuracy on all photographs outside the support set, of five classes drawn at random."""
    support, queries = folder / "support", []
    shutil.rmtree(support, ignore_errors=True)
    for kind in draws.sample(kinds, WAYS):
        files = sorted(kind.glob("*.jpg"))
        shown = draws.sample(files, SHOTS)
        (support / kind.name).mkdir(parents=True)
        for file in shown:
            shutil.copy(file, support / kind.name)
        queries += [file for file in files if file not in shown]
    predictor = adapt_folder(run, support)
    path = save(predictor, folder / "predictor.safetensors")
    rows = predict_files(load(path), queries).to_json()["predictions"]
    return sum(row["class"] == Path(row["file"]).parent.name for row in rows) / len(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="the folder that holds caltech101/")
    parser.add_argument("--learner", default="prototypical")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
