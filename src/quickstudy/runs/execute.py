"""Running a recipe: train, evaluate, report, each from what the run folder holds."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from quickstudy.core import Learner
from quickstudy.datasets.dataset import Dataset
from quickstudy.evaluation.evaluate import Evaluation, evaluate
from quickstudy.registry import LEARNERS
from quickstudy.reports.page import RunFacts, page
from quickstudy.reports.views import view
from quickstudy.runs.assemble import Sources, load_data, make_learner, make_sources
from quickstudy.runs.recipe import Recipe, read_recipe
from quickstudy.storage import load_learner, save_learner, write_atomically
from quickstudy.tasks.sampling import draw, generator, task_seed
from quickstudy.training.log import read_metrics
from quickstudy.training.trainer import Validation, adam, cosine, fit
from quickstudy.version import __version__

TEST_SEED = 1 << 22  # test tasks: a stream that neither training nor validation draws from
DRAWN_TASKS = 20


@dataclass(frozen=True)
class Run:
    """A run folder: ``recipe.json``, ``metrics.jsonl``, ``checkpoint.safetensors`` while training,
    then ``learner.safetensors``, ``evaluation.json`` and ``report.html``."""

    path: Path
    recipe: Recipe

    @staticmethod
    def create(recipe: Recipe, path: Path | None = None) -> Run:
        """A new folder for ``recipe``; FileExistsError where ``path`` is taken."""
        recipe = recipe.complete()
        if path is None:
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            base = Path("runs") / f"{stamp}-{recipe.learner}-{recipe.data}"
            path, copies = base, 1
            while path.exists():
                copies += 1
                path = base.with_name(f"{base.name}-{copies}")
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FileExistsError(
                f"{path}: is not empty, and a run overwrites nothing. "
                f"Give another folder, or go on with `quickstudy run --resume {path}`."
            )
        content = json.dumps(recipe.to_json(), indent=2) + "\n"
        write_atomically(path / "recipe.json", content.encode())
        return Run(path, recipe)

    @staticmethod
    def open(path: str | Path) -> Run:
        """The run in an existing folder; FileNotFoundError where there is none."""
        file = Path(path) / "recipe.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{path}: holds no run (no recipe.json). Give one that `quickstudy run` made."
            )
        try:
            return Run(Path(path), read_recipe(json.loads(file.read_text())))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def learner(self) -> tuple[Learner, dict[str, Any]]:
        """The trained learner, and what its inputs look like (``channels``, ``size``)."""
        file = self.path / "learner.safetensors"
        if not file.exists():
            raise FileNotFoundError(
                f"{self.path}: training has not finished. "
                f"Go on with `quickstudy run --resume {self.path}`."
            )
        return load_learner(file)


def execute(
    run: Run, *, resume: bool = False, command: str = "", progress: bool = True
) -> Evaluation | None:
    """Train, evaluate and report; None where Ctrl-C ended training early (it can be resumed)."""
    recipe = run.recipe
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    data = load_data(recipe)
    sources = make_sources(recipe, data)
    learner = make_learner(recipe, tuple(data.train.inputs.shape[1:]))
    if not _train(run, learner, sources, resume, progress):
        return None
    shape = tuple(data.train.inputs.shape[1:])
    save_learner(learner, run.path / "learner.safetensors", {"shape": shape, "data": recipe.data})
    evaluation = evaluate(learner, sources.test, recipe.test_tasks, seed=TEST_SEED + recipe.seed)
    content = json.dumps(evaluation.to_json(), indent=1) + "\n"
    write_atomically(run.path / "evaluation.json", content.encode())
    report(run, learner, data, sources, evaluation, command)
    return evaluation


def _train(run: Run, learner: Learner, sources: Sources, resume: bool, progress: bool) -> bool:
    recipe = run.recipe
    # A run's recipe is complete.
    assert recipe.steps is not None
    assert recipe.tasks_per_step is not None
    assert recipe.validate_every is not None
    validation = Validation(
        sources.val, every=recipe.validate_every, tasks=100, patience=recipe.patience
    )
    training = fit(
        learner, sources.train, recipe.steps, recipe.tasks_per_step,
        optimiser=adam(recipe.rate), schedule=cosine, validation=validation, seed=recipe.seed,
        run=run.path, resume=resume, progress=progress,
        checkpoint_every=max(10, min(200, recipe.steps // 10)),
    )  # fmt: skip
    return training.finished


def report(
    run: Run, learner: Learner, data: Dataset, sources: Sources, evaluation: Evaluation,
    command: str = "",
) -> Path:  # fmt: skip
    """Write ``report.html`` from the run's log and the first of its test tasks."""
    recipe = run.recipe
    views = []
    for index in range(min(DRAWN_TASKS, recipe.test_tasks)):
        names = sources.test.names(generator(task_seed(evaluation.seed, index)))
        views.append(view(learner, draw(sources.test, evaluation.seed, index), names))
    facts = RunFacts(
        title=f"{LEARNERS[recipe.learner].title} on {data.card.title}",
        subtitle=f"{recipe.ways}-way {recipe.shots}-shot, {recipe.queries} queries per class; "
        "test classes were never seen in training",
        evaluation=evaluation,
        metrics=read_metrics(run.path / "metrics.jsonl"),
        views=views,
        config=recipe.to_json(),
        versions=versions(),
        command=command,
        commit=commit(),
        created=datetime.now().strftime("%Y-%m-%d %H:%M"),
    )
    return write_atomically(run.path / "report.html", page(facts).encode())


def versions() -> dict[str, str]:
    """What a result depends on."""
    return {
        "quickstudy": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }


def commit() -> str:
    """The commit of quickstudy's own source, if it is a git checkout; "" otherwise."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
