"""Cross-validation over classes: a run for each fold, and one learner trained on all classes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from quickstudy.base.atomic import write_atomically
from quickstudy.base.json_text import damage_names, read_json
from quickstudy.base.words import count
from quickstudy.evaluation.folds import CrossValidation, Fold
from quickstudy.interfaces.runs.assemble import Parts, prepare
from quickstudy.interfaces.runs.execute import Interrupted, execute, train
from quickstudy.interfaces.runs.fitted import keep_split
from quickstudy.interfaces.runs.folder import Run
from quickstudy.reports.folds_page import FoldsFacts, folds_page

RESULT = "cross_validation.json"


def cross_validate(
    run: Run,
    parts: Parts | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
    on_fold: Callable[[str], None] = lambda text: None,
) -> CrossValidation | Interrupted:
    """Run every fold of ``run``'s recipe, then train a learner on all classes.

    Each fold is a run of its own, in the folder ``fold-1``, ``fold-2`` and so on. The result is in
    ``cross_validation.json`` and ``report.html``. ``learner.safetensors`` is of the learner trained
    on all classes in the same way: the one to use, whose score the folds estimate.

    ``parts``    what :func:`~quickstudy.interfaces.runs.execute.begin` returned.
    ``on_fold``  called with a line of text before each training.
    """
    if resume and run.finished:
        return stored(run)
    parts = parts or prepare(run.recipe)
    keep_split(run.path, parts.data)
    folds = []
    for number in range(1, (run.recipe.folds or 0) + 1):
        fold, continued = _fold(run, number)
        fold_parts = prepare(fold.recipe, parts.data.train)
        names = ", ".join(fold_parts.data.test.names)
        on_fold(f"Fold {number} of {run.recipe.folds}, to test on {names}.")
        evaluation = execute(fold, fold_parts, resume=continued, progress=progress)
        if isinstance(evaluation, Interrupted):
            return evaluation
        folds.append(Fold(fold_parts.data.test.names, evaluation))
    on_fold("The learner to use, trained on all classes.")
    final = train(run, parts, resume=resume, progress=progress)
    if isinstance(final, Interrupted):
        return final
    result = CrossValidation(tuple(folds))
    content = json.dumps(result.to_json(), indent=1) + "\n"
    write_atomically(run.path / RESULT, content.encode())
    write_folds_report(run, result)
    return result


def _fold(run: Run, number: int) -> tuple[Run, bool]:
    """The run of a fold, and whether it was begun before."""
    path = run.path / f"fold-{number}"
    if (path / "recipe.json").is_file():
        return Run.open(path), True
    recipe = replace(run.recipe, fold=number)
    return Run.create(recipe, path, command=run.origin.command), False


def stored(run: Run) -> CrossValidation:
    """The result in the folder of a finished cross-validation."""
    file = run.path / RESULT
    with damage_names(file):
        return CrossValidation.from_json(read_json(file, most=2**28))


def write_folds_report(run: Run, result: CrossValidation, path: Path | None = None) -> Path:
    """Write ``report.html``, with links to the reports of the folds."""
    recipe, origin = run.recipe, run.origin
    path = path or run.path / "report.html"
    facts = FoldsFacts(
        title=run.title,
        subtitle=f"{recipe.ways}-way {recipe.shots}-shot, "
        f"{count(recipe.queries or 0, 'query', 'queries')} per class",
        result=result,
        folder=Path(os.path.relpath(run.path.resolve(), path.resolve().parent)).as_posix(),
        config=recipe.to_json(),
        versions=origin.versions,
        command=origin.command,
        commit=origin.commit,
        created=origin.created,
    )
    return write_atomically(path, folds_page(facts).encode())
