"""A predictor from a user's labelled files, and what it says about others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from quickstudy.applications.application import Application
from quickstudy.core import Learner, Predictor
from quickstudy.interfaces.application_runs.folder import ApplicationRun
from quickstudy.interfaces.application_runs.made import make_application
from quickstudy.interfaces.runs.run_files import refuse_not_empty
from quickstudy.tasks.order import in_mixed_order

KEY = "application"
"""In the ``info`` of a predictor: the application's name and options, the run's data and learner,
and the number of support rows. All else in it is the application's own.
"""


def adapt_files(run: ApplicationRun, path: Path, *, strict: bool = False) -> Predictor:
    """A predictor for the labelled files at ``path``, by the learner of ``run``.

    ``strict``  fail on the first input that cannot be read, where the application can leave it out.

    ``info`` of the predictor holds what the application keeps itself, and :data:`KEY`.
    """
    if not path.exists():
        brings = run.recipe.card.brings.removesuffix(".")
        raise FileNotFoundError(f"adapt: {path} does not exist. The application reads: {brings}.")
    learner, _ = run.learner()
    recipe = run.recipe
    application = _strict("adapt", recipe.application, recipe.options, strict)
    found = application.support(path, learner)
    with torch.no_grad():
        made: Predictor = learner(in_mixed_order(learner, found.examples), found.spec)
    about = {
        "name": recipe.application,
        "options": recipe.options,
        "data": recipe.data,
        "learner": recipe.learner,
        "support": len(found.examples.weights),
    }
    return replace(made, info={**found.info, KEY: about})


@dataclass(frozen=True)
class Said:
    """What a predictor said about a user's files: one row each, as JSON values.

    ``transductive``  whether each row depends on the other files.
    """

    application: str
    rows: list[dict[str, Any]]
    transductive: bool

    @property
    def protocol(self) -> str:
        """ "inductive" or "transductive"."""
        return "transductive" if self.transductive else "inductive"

    def to_json(self) -> dict[str, Any]:
        """As strict JSON."""
        return {
            "application": self.application, "protocol": self.protocol, "predictions": self.rows,
        }  # fmt: skip


def is_of_application(predictor: Predictor | Learner) -> bool:
    """Whether ``predictor`` was made by :func:`adapt_files`."""
    return isinstance(predictor, Predictor) and isinstance(predictor.info.get(KEY), dict)


def predict_for(
    predictor: Predictor, paths: Sequence[Path], out: Path | None = None, *, strict: bool = False
) -> Said:
    """What ``predictor`` says about the files at ``paths``, or about the lines in them.

    ``out``     a folder for files such as masks, which is made; it must be new or empty.
    ``strict``  fail on the first input that cannot be read, where the application can leave it out.

    Raises FileNotFoundError for a path that does not exist, FileExistsError for an ``out`` with
    files, and ValueError where no input can be read.
    """
    about = predictor.info[KEY]
    name, options = about.get("name"), about.get("options")
    if not isinstance(name, str) or not isinstance(options, dict):
        raise ValueError(
            "predict: the predictor's file does not name its application with options, so it was "
            "changed. Adapt again."
        )
    application = _strict("predict", name, options, strict)
    for path in paths:
        if application.reads_files and not path.exists():
            raise FileNotFoundError(f"predict: {path} does not exist. Check the path.")
    if out is not None:
        _refuse_files(out)
    inputs, names = application.inputs(paths, predictor)
    if not names:
        raise ValueError(
            f"predict: there is nothing to predict in {', '.join(map(str, paths))}. Give other "
            "files."
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        rows = application.written(predictor, inputs, names, out)
    return Said(name, rows, predictor.learner.transductive)


def _strict(who: str, name: str, options: dict[str, Any], strict: bool) -> Application:
    """The application, with its option ``strict`` set where it is asked for."""
    application = make_application(name, options)
    if not strict:
        return application
    if not hasattr(application, "strict"):
        raise ValueError(
            f"{who}: the application {name} leaves no input out, so --strict means nothing for it. "
            "Leave it out."
        )
    return make_application(name, {**options, "strict": True})


def _refuse_files(out: Path) -> None:
    try:
        refuse_not_empty(out)
    except FileExistsError as error:
        raise FileExistsError(
            f"predict: {out} is not empty, and nothing is overwritten. Give another folder with "
            "--out."
        ) from error
