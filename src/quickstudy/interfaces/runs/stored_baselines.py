"""The baselines of a comparison of finished runs, on the tasks on which the runs were tested."""

from __future__ import annotations

from dataclasses import replace

from quickstudy.base.errors import first_line
from quickstudy.evaluation.baselines import UNTRAINED_FEATURES
from quickstudy.evaluation.compared import Compared
from quickstudy.evaluation.growing import Growing, GrowingBaselines
from quickstudy.evaluation.results import Evaluation
from quickstudy.interfaces.runs.compared_runs import baselines_of
from quickstudy.interfaces.runs.fitted import keep_split
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.loaded import Loaded
from quickstudy.selection.comparing.comparison import BASELINE, Entry
from quickstudy.selection.comparing.contest import short_name
from quickstudy.selection.comparing.simple import TARGET_ONLY, UNTRAINED


def stored_baselines(run: Run, evaluation: Evaluation) -> tuple[list[Entry], dict[str, str]]:
    """Baselines on the same tasks: computed where the data can be read, and as the run stored them.

    Untrained features take long, so that they are never computed here.
    """
    left_out = dict(evaluation.left_out)
    stored = {_key(each.name): stored_entry(each, evaluation) for each in evaluation.main.baselines}
    try:
        computed, reasons = _computed(run, evaluation)
        left_out |= reasons
    except Exception as error:  # a baseline never stops a comparison
        computed, left_out[TARGET_ONLY] = [], first_line(error)
    found = {**stored, **{entry.name: entry for entry in computed}}
    if UNTRAINED not in found:
        left_out.setdefault(UNTRAINED, "the runs do not keep it; --test-again tests it")
    return list(found.values()), left_out


def _computed(run: Run, evaluation: Evaluation) -> tuple[list[Entry], dict[str, str]]:
    """A guess, the nearest mean of the inputs, and a head on them; on the tasks of ``evaluation``.

    Raises ValueError where the data are no longer those of the run.
    """
    loaded = Loaded(run.recipe)
    keep_split(run.path, loaded.data)
    source, contenders, left_out = baselines_of({"": run.recipe}, loaded)
    guesses = GrowingBaselines(source, evaluation.seed)
    found = [
        Entry(_key(name), name, BASELINE, (each,))
        for name, each in guesses.to(evaluation.tasks).items()
    ]
    for contender in contenders:
        if contender.name == TARGET_ONLY:
            tested = contender.train(0, lambda *_: None)
            own = Growing(tested.learner, tested.source, seed=evaluation.seed)
            each = own.to(evaluation.tasks)
            found.append(Entry(contender.name, contender.title, BASELINE, (each,)))
    if guesses.fingerprint.value != evaluation.fingerprint:
        raise ValueError("the data are no longer those of the runs")
    return found, {name: why for name, why in left_out.items() if name == TARGET_ONLY}


def _key(baseline: str) -> str:
    return UNTRAINED if baseline == UNTRAINED_FEATURES else short_name(baseline)


def stored_entry(baseline: Compared, evaluation: Evaluation) -> Entry:
    """A baseline that a run stored, as an entry of a comparison."""
    stored = (_evaluation_of(baseline, evaluation),)
    return Entry(_key(baseline.name), baseline.name, BASELINE, stored)


def _evaluation_of(baseline: Compared, evaluation: Evaluation) -> Evaluation:
    """A stored baseline as an evaluation of its own; its statistics are its scores alone."""
    of = evaluation.main
    row = replace(
        of, values=baseline.values, mean=baseline.mean, baselines=(), classes=None,
        statistics=tuple({"score": value} for value in baseline.values),
    )  # fmt: skip
    return replace(
        evaluation, rows=(row,), calibration_error=None, seconds_per_adaptation=float("nan"),
        transductive=False, norm="", left_out={}, seen={},
    )  # fmt: skip
