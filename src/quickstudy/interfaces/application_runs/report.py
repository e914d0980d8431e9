"""The report of an application's run: pages that draw queries as the answer asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from quickstudy.applications.application import Prepared
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Learner, Task
from quickstudy.evaluation.results import Evaluation
from quickstudy.interfaces.application_runs.folder import ApplicationRun
from quickstudy.reports.insights import insights
from quickstudy.reports.page import RunFacts, page
from quickstudy.reports.views import view
from quickstudy.tasks.numbering import Stream, draw, generator, task_seed
from quickstudy.training.log import read_metrics

REPORTED_TASKS = 3
"""Test tasks that the report shows, the first ones: as many as have pictures."""


def write_report(
    run: ApplicationRun,
    evaluation: Evaluation,
    made: Prepared | None,
    learner: Learner | None,
    path: Path | None = None,
) -> Path:
    """Write the report of ``run`` to ``path``, ``report.html`` in its folder by default.

    ``made``, ``learner``  for pictures of test tasks; None leaves the pictures out.
    """
    recipe, origin, views, first = run.recipe, run.origin, [], None
    if made is not None and learner is not None:
        learner = learner.cpu()  # as the tasks are; a few tasks take little time
        tasks = test_tasks(made, evaluation)
        first = insights(learner, *next(tasks))
        views = [first.view, *(view(learner, *task) for task in tasks)]
    facts = RunFacts(
        title=run.title,
        subtitle=_subtitle(run, made),
        evaluation=evaluation,
        metrics=read_metrics(run.path / "metrics.jsonl") if run.steps else [],
        views=views,
        insights=first,
        config=recipe.to_json(),
        versions=origin.versions,
        command=origin.command,
        commit=origin.commit,
        created=origin.created,
    )
    return write_atomically(path or run.path / "report.html", page(facts).encode())


def test_tasks(
    made: Prepared, evaluation: Evaluation
) -> Iterator[tuple[Task, Sequence[str] | None]]:
    """The first test tasks of an evaluation, with the names of their classes."""
    for index in range(min(REPORTED_TASKS, evaluation.tasks)):
        names = None
        if made.names is not None:
            names = made.names(generator(task_seed(evaluation.seed, index, Stream.TEST)))
        yield draw(made.test, evaluation.seed, index, Stream.TEST), names


def _subtitle(run: ApplicationRun, made: Prepared | None) -> str:
    recipe = run.recipe
    asked = made.about if made is not None else recipe.data_card.asks if recipe.data_card else ""
    shots = "" if recipe.shots is None else f"{recipe.shots} shots. "
    trained = "" if run.steps else " Nothing was trained over tasks."
    ends = [str(end) for end in run.origin.ends if end < run.steps]
    if ends:
        trained = (
            f" Training was to end at {', '.join(ends)} steps, then at {run.steps}, so this is not "
            f"the result of {run.steps} steps from the start."
        )
    return f"{shots}{asked}{trained}"
