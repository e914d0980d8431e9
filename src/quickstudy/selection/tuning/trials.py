"""Trials: settings that are sampled, tried and scored, by one process or by several at once.

A trial has a *place*, 0 for the first. A process that is killed leaves its trial running for ever
in Optuna's eyes; the next process that looks marks it as failed, and gives its place to a new
trial, which comes before all others. Settings and seeds depend on the place and on the results
before it, not on Optuna's number. So one process that is killed and started again, however often,
ends with the trials of one that was left alone.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from quickstudy.base.shown import told
from quickstudy.learners.cards import Space
from quickstudy.selection.tuning.space import suggest
from quickstudy.selection.tuning.storage import Store, fail
from quickstudy.selection.tuning.trial import (
    FACTS,
    PLACE,
    REASON,
    SECONDS,
    Objective,
    Pruned,
    Row,
    Trial,
    row_of,
    seed_of,
)

ABOUT = "about"
HALVING = 2
"""Of the trials that come to 1, 2, 4, ... reports, the better half goes on."""


@dataclass
class Trials:
    """The trials of one tuning in a store.

    ``about``   what the scores depend on; a store that was begun with something else is refused.
    ``usual``   settings of the first trial, as far as the space has them.
    ``higher``  whether high scores are good.
    """

    store: Store
    name: str
    about: Mapping[str, Any]
    space: Mapping[str, Space]
    usual: Mapping[str, Any]
    higher: bool
    seed: int

    def __post_init__(self) -> None:
        import optuna

        self._states = optuna.trial.TrialState
        with self.store.alone(), told_as(self.name), _few_words(optuna):
            self._study = optuna.create_study(
                storage=self.store.storage, study_name=self.name, load_if_exists=True,
                direction="maximize" if self.higher else "minimize", pruner=_halving(optuna),
            )  # fmt: skip
            before = self._study.user_attrs.get(ABOUT)
            if before is None and not self._study.get_trials(deepcopy=False):
                self._study.set_user_attr(ABOUT, dict(self.about))
                before = self.about
        _refuse_another(before, self.about)

    def run(
        self,
        objective: Objective,
        trials: int,
        minutes: float | None = None,
        on_trial: Callable[[Row], object] | None = None,
    ) -> None:
        """Run trials until there are ``trials`` in all, those of other processes included.

        ``minutes``  after which no trial is begun.
        """
        end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            begun = self._begin(trials)
            if begun is None:
                return
            self._try(objective, *begun)
            rows = self.rows()[begun[1] : begun[1] + 1]
            if on_trial is not None and rows and rows[0].state not in ("running", "waiting"):
                on_trial(rows[0])

    def rows(self) -> list[Row]:
        """All trials by place, but for last ones that ended before they had settings."""
        places = self._places()
        while places and all(self._is_lost(t) and not t.params for t in places[-1]):
            places.pop()
        return [row_of(place, tries, self._states) for place, tries in enumerate(places)]

    def importance(self) -> dict[str, float]:
        """How much of the differences each setting explains (PED-ANOVA); {} for few trials.

        It compares the trials that are best with all, so it needs 16 that came to their end.
        """
        import optuna

        done = self._study.get_trials(deepcopy=False, states=(self._states.COMPLETE,))
        if sum(set(self.space) <= set(trial.params) for trial in done) < 16:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                self._study, params=list(self.space),
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
            )  # fmt: skip
        return {name: float(share) for name, share in found.items()}

    def _places(self) -> list[list[Any]]:
        """The trials of each place, all but the last of which were lost."""
        found: list[list[Any]] = []
        for trial in self._study.get_trials(deepcopy=False):
            place = trial.user_attrs.get(PLACE)
            if place is None:
                found.append([trial])
            elif isinstance(place, int) and 0 <= place < len(found):
                found[place].append(trial)
        return found

    def _begin(self, trials: int) -> tuple[Any, int] | None:
        """A trial to run, with its place; None where ``trials`` are done or running."""
        with self.store.alone():
            self.store.fail_lost(self._study)
            places = self._places()
            waiting = sum(t.state == self._states.WAITING for tries in places for t in tries)
            for place, tries in enumerate(places[:trials]):
                if all(self._is_lost(trial) for trial in tries):
                    self._study.enqueue_trial(self._given(place), user_attrs={PLACE: place})
                    waiting += 1
            if not places:  # the usual settings first
                self._study.enqueue_trial(self._given(0))
            if not waiting and len(places) >= trials:
                return None
            trial = self._ask(self._next_place())
            self.store.begin(trial)
            place = next(
                place for place, tries in enumerate(self._places())
                if any(each.number == trial.number for each in tries)
            )  # fmt: skip
            if place >= trials:  # another process took the last one in the same moment
                fail(self._study, trial)
                return None
            return trial, place

    def _next_place(self) -> int:
        """The place of the trial that comes next: the first that waits, else a new one."""
        places = self._places()
        waiting = [(t.number, place) for place, tries in enumerate(places) for t in tries
                   if t.state == self._states.WAITING]  # fmt: skip
        return min(waiting)[1] if waiting else len(places)

    def _ask(self, place: int) -> Any:
        """A new trial of Optuna, or the first that waits."""
        import optuna

        with _few_words(optuna):
            # Its random numbers depend on all that it sampled before, so each place has its own.
            self._study.sampler = optuna.samplers.TPESampler(
                seed=seed_of(self.seed, place, "settings"), multivariate=True, group=True,
                constant_liar=True,
            )  # fmt: skip
            return self._study.ask()

    def _given(self, place: int) -> dict[str, Any]:
        return dict(self.usual) if place == 0 else {}

    def _is_lost(self, trial: Any) -> bool:
        return trial.state == self._states.FAIL and REASON not in trial.user_attrs

    def _try(self, objective: Objective, trial: Any, place: int) -> None:
        """Run one trial, and tell its end; an interrupted one goes to whoever comes next."""
        import optuna

        began = time.monotonic()
        state, score = self._states.FAIL, None
        try:
            score, facts = objective(self._sampled(trial, place))
            if not math.isfinite(score):
                raise ValueError(f"its score is {score}")
            trial.set_user_attr(FACTS, facts)
            state = self._states.COMPLETE
        except Pruned:
            state = self._states.PRUNED
        except optuna.exceptions.UpdateFinishedTrialError:  # taken for lost, and tried elsewhere
            return
        except Exception as error:
            score = None
            trial.set_user_attr(REASON, f"{type(error).__name__}: {told(error)}")
        except BaseException:
            fail(self._study, trial)
            raise
        finally:
            self.store.end()
        trial.set_user_attr(SECONDS, round(time.monotonic() - began, 3))
        self._study.tell(
            trial, score if state == self._states.COMPLETE else None, state=state,
            skip_if_finished=True,
        )  # fmt: skip

    def _sampled(self, trial: Any, place: int) -> Trial:
        """The trial with its settings; the same place after the same results has the same ones."""
        names = self.usual if place == 0 else self.space
        settings = {name: suggest(trial, name, self.space[name]) for name in names}
        done = self._study.get_trials(deepcopy=False, states=(self._states.COMPLETE,))
        sign = 1.0 if self.higher else -1.0
        return Trial(
            place, seed_of(self.seed, place), settings, trial, sign,
            [t.value for t in done if t.value is not None],
        )  # fmt: skip


def _halving(optuna: Any) -> Any:
    """Successive halving that counts each place once: trials that failed or were lost do not."""

    class Halving(optuna.pruners.BasePruner):  # type: ignore[misc]
        def __init__(self) -> None:
            self._halving = optuna.pruners.SuccessiveHalvingPruner(
                min_resource=1, reduction_factor=HALVING
            )

        def prune(self, study: Any, trial: Any) -> bool:
            counted = copy.copy(study)
            counted.get_trials = lambda **how: [
                each for each in study.get_trials(**how)
                if each.state != optuna.trial.TrialState.FAIL
            ]  # fmt: skip
            return bool(self._halving.prune(counted, trial))

    return Halving()


def _refuse_another(before: Any, now: Mapping[str, Any]) -> None:
    """ValueError where the store holds trials of another problem, with the first difference."""
    if not isinstance(before, Mapping):
        raise ValueError(
            "tune: the storage holds a study that tuning did not make. Give another storage, or "
            "another name."
        )
    for key in dict.fromkeys([*now, *before]):
        if before.get(key) != now.get(key):
            raise ValueError(
                f"tune: the storage holds trials of another problem, whose scores mean something "
                f"else: {key} is {told(ValueError(str(before.get(key))))} there, and "
                f"{told(ValueError(str(now.get(key))))} here. Give another storage."
            )


@contextmanager
def told_as(name: str) -> Iterator[None]:
    """Turn what a damaged record raises into a ValueError that says so."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f"tune: the record of the study {name} is damaged ({told(error)}). Restore it, or give "
            "another storage."
        ) from error


@contextmanager
def _few_words(optuna: Any = None) -> Iterator[None]:
    """Without Optuna's remarks on each trial, and on what may change in it."""
    if optuna is None:
        import optuna
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", "Heartbeat of storage")  # we keep it ourselves
            yield
    finally:
        optuna.logging.set_verbosity(before)
