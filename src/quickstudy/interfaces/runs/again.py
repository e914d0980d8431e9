"""Write the report of a finished run again."""

from __future__ import annotations

import warnings
from pathlib import Path

from quickstudy.core import Learner
from quickstudy.datasets.dataset import Dataset
from quickstudy.interfaces.runs.assemble import load_data
from quickstudy.interfaces.runs.execute import write_report
from quickstudy.interfaces.runs.fitted import keep_split
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.folds import RESULT, stored, write_folds_report


def report_again(run: Run, path: Path | None = None) -> Path:
    """Write the report of ``run`` from its files, to ``path`` or in its folder.

    Nothing is trained or evaluated. The pictures of test tasks need the learner and the data: where
    the data are gone or changed, the report has none, with a UserWarning.

    Raises FileNotFoundError for a run that has not been evaluated.
    """
    if (run.path / RESULT).is_file():
        return write_folds_report(run, stored(run), path)
    file = run.path / "evaluation.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"{run.path}: has no result yet. Continue it with `quickstudy run --resume {run.path}`."
        )
    return write_report(run, run.evaluation(), _shown(run), path)


def _shown(run: Run) -> tuple[Learner, Dataset] | None:
    try:
        learner, _ = run.learner()
        data = load_data(run.recipe)
        keep_split(run.path, data)
    except (OSError, ValueError) as error:
        warnings.warn(f"report: has no pictures of test tasks, because {error}", stacklevel=3)
        return None
    return learner, data
