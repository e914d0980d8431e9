"""A gate before transfer: the candidate that does best on left-out target rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.features import refuse_sizes
from quickstudy.base.modules import in_torch_func
from quickstudy.base.words import count
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.domains.left_out_errors import Candidate, left_out_errors
from quickstudy.learners.domains.target_folds import fewest_rows
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.tasks.transfer import is_target

LEAST_ROWS = 2
"""Different labelled target rows of each class, below which none can be left out."""

TARGET_ONLY, SOURCE_ONLY = "target only", "source only"


class SafeGate(Learner):
    """Maps a support set to the predictor of the candidate that errs least on left-out target rows.

    The candidates, simplest first: ``alone`` on the target rows (*target only*), ``alone`` on the
    source rows (*source only*), each as a plain task, and each of ``learners`` on all rows. A
    support set without source rows has its learners alone as candidates.

        error_c = mean over repeats, folds and rows i of a fold of error(c adapted without fold, i)
        chosen  = the first c over which the best one has no advantage that counts

    The labelled target rows are left out, fold by fold; source rows always stay. The error of a
    class is the log loss, each candidate's logits scaled by the factor that is best for it: with
    few rows, it tells candidates apart that have as many right. For other answers it is the
    answer's loss. An advantage counts where it is more than ``margin`` standard errors of the
    difference over rows, and is still there without the row that speaks for it most.

    ``learners``  the learners to choose from, simplest first, or a backbone: then
                  :class:`LinearProbe` on its features, so that the gate decides whether source rows
                  are pooled with those of the target.
    ``alone``     the learner of target only and source only; default the first of ``learners``.
    ``folds``     parts of the labelled target rows, 10 by default; fewer where classes have fewer
                  rows.
    ``repeats``   how often they are divided anew, against the luck of one division.
    ``margin``    standard errors by which the best must be better than an earlier candidate to be
                  preferred. 0.5 by default; 0 asks for any advantage. See the page for both.

    **Where it cannot judge.** With fewer than 2 different labelled target rows in a class there is
    nothing to leave out. It then warns (RuntimeWarning) and takes the candidate that needs no
    judgement: target only where every class has a labelled target row, since no source can spoil
    it, else source only; among learners of target rows alone, the first.

    State: ``chosen`` (), the number of the candidate, see :meth:`names`; ``state``, its state;
    ``errors`` (candidates,) and ``standard_errors`` of their differences to the best, NaN where it
    could not judge; ``present`` where the candidate has it.

    Raises ValueError for no learners, for learners without a common answer, and where a candidate
    refuses the rows.

    Reference: none. Choosing by cross-validation: Stone (1974), Cross-Validatory Choice and
    Assessment of Statistical Predictions. ``margin=1`` is the rule of one standard error of
    Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees, section 3.4.3,
    with the standard error of the difference.

    >>> import torch, quickstudy as qs
    >>> x = torch.arange(20.0)[:, None]  # rows 0 to 9 are of the target, and 10 to 19 of a source
    >>> y = torch.tensor([0] * 5 + [1] * 5 + [1] * 5 + [0] * 5)  # in which labels are flipped
    >>> rows = qs.examples(x % 10, y, groups=[0] * 10 + [1] * 10)
    >>> gate = qs.SafeGate(torch.nn.Identity())
    >>> gate.choice(gate(rows, qs.classification(2)).state)
    'target only'
    """

    def __init__(
        self,
        learners: nn.Module | Sequence[Learner],
        alone: Learner | None = None,
        folds: int = 10,
        repeats: int = 2,
        margin: float = 0.5,
    ) -> None:
        super().__init__()
        refuse_sizes("SafeGate", repeats=repeats)
        if folds < 2 or not margin >= 0:
            raise ValueError(
                "SafeGate: folds must be at least 2, and margin 0 or more; found "
                f"folds={folds}, margin={margin}. Leave them out for the default ones."
            )
        self.parts = nn.ModuleList(_given_learners(learners))
        self.alone = alone
        self.folds, self.repeats, self.margin = folds, repeats, margin
        every = [*self.learners, *([] if alone is None else [alone])]
        self.answers = _common_answers(every)  # type: ignore[misc]
        self.differentiates = any(each.differentiates for each in every)  # type: ignore[misc]
        self.reads_name = any(each.reads_name for each in every)  # type: ignore[misc]
        self.exceptions = _joint_exceptions(every)  # type: ignore[misc]

    @property
    def learners(self) -> tuple[Learner, ...]:
        """The learners to choose from."""
        return tuple(self.parts)  # type: ignore[arg-type]

    def names(self, transfers: bool = True) -> list[str]:
        """The candidates' names, in the order of ``errors``.

        ``transfers``  whether the support set has source rows.
        """
        return [each.name for each in self._candidates(transfers)]

    def choice(self, state: State) -> str:
        """The name of the candidate that was chosen."""
        return self._of(state).name

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The state of the candidate that errs least on left-out target rows of ``support``."""
        if in_torch_func():
            raise RuntimeError("SafeGate: which candidate is best depends on values, so loop")
        there = support.weights > 0
        transfers = bool((there & ~is_target(support)).any())
        candidates = self._candidates(transfers)
        if fewest_rows(support, spec.answer) < LEAST_ROWS:
            chosen = self._without_judgement(support, spec, transfers)
            errors = spread = support.weights.new_full((len(candidates),), torch.nan)
        elif len(candidates) == 1:
            chosen, errors = 0, support.weights.new_zeros(1)
            spread = errors
        else:
            rows, weights = left_out_errors(candidates, support, spec, self.folds, self.repeats)
            errors, spread = _compared(rows, weights)
            chosen = _first_good_enough(rows, weights, self.margin)
        state = candidates[chosen].adapted(support, spec)
        present = {"present": state["present"]} if _has_present(state) else {}
        return {
            "chosen": torch.tensor(chosen, device=support.weights.device),
            "state": state, "errors": errors, "standard_errors": spread, **present,
        }  # fmt: skip

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        """What the chosen candidate predicts."""
        return self._of(state).predictions(state["state"], inputs, spec)

    def _of(self, state: State) -> Candidate:
        candidates = self._candidates(len(state["errors"]) > len(self._candidates(False)))
        return candidates[int(state["chosen"])]

    def _candidates(self, transfers: bool) -> list[Candidate]:
        alone = self.alone or self.learners[0]
        on_all = [
            Candidate(f"{type(each).__name__} ({k})" if self._twice(each) else type(each).__name__,
                       each, None)
            for k, each in enumerate(self.learners, 1)
        ]  # fmt: skip
        if not transfers:
            own = [] if self.alone is None else [Candidate(TARGET_ONLY, alone, None)]
            return own + on_all
        return [
            Candidate(TARGET_ONLY, alone, is_target),
            Candidate(SOURCE_ONLY, alone, lambda rows: ~is_target(rows)),
            *on_all,
        ]

    def _twice(self, learner: Learner) -> bool:
        return sum(type(each) is type(learner) for each in self.learners) > 1

    def _without_judgement(self, support: Examples, spec: TaskSpec, transfers: bool) -> int:
        """The candidate to take where no row can be left out; it warns."""
        fewest = fewest_rows(support, spec.answer)
        chosen = 0 if fewest or not transfers else 1
        classes = isinstance(spec.answer, Classes)
        each, of_class = (" of each class", " of a class") if classes else ("", "")
        warnings.warn(
            f"SafeGate: needs {LEAST_ROWS} different labelled target rows{each}, to leave "
            f"one out; found {count(fewest, 'row')}{of_class}. It cannot judge, and takes "
            f"{self.names(transfers)[chosen]!r}. Label more rows of the target.",
            RuntimeWarning,
            stacklevel=4,
        )
        return chosen


def _given_learners(learners: nn.Module | Sequence[Learner]) -> list[Learner]:
    if isinstance(learners, nn.Module) and not isinstance(learners, Learner):
        return [LinearProbe(learners)]
    given = [learners] if isinstance(learners, nn.Module) else list(learners)
    wrong = [type(each).__name__ for each in given if not isinstance(each, Learner)]
    if not given or wrong:
        found = wrong[0] if wrong else "none"
        raise ValueError(
            f"SafeGate: needs 1 or more learners to choose from; found {found}. Give a list, "
            "simplest first, or a backbone."
        )
    return given


def _common_answers(learners: Sequence[Learner]) -> tuple[type[Answer], ...]:
    """The kinds of answer that all support."""
    found = tuple(
        kind for kind in dict.fromkeys(k for each in learners for k in each.answers)
        if all(issubclass(kind, each.answers) for each in learners)
    )  # fmt: skip
    if not found:
        kinds = "; ".join(
            f"{type(each).__name__} {', '.join(k.__name__ for k in each.answers)}"
            for each in learners
        )
        raise ValueError(
            f"SafeGate: its learners must have a kind of answer in common; found {kinds}. Leave "
            "one out."
        )
    return found


def _joint_exceptions(learners: Sequence[Learner]) -> Mapping[str, str]:
    own = {"vmap_equals_loop": "which candidate is best depends on values, so tasks are looped"}
    return {law: why for each in learners for law, why in each.exceptions.items()} | own


def _compared(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean errors (candidates,), and the standard errors of their differences to the least."""
    share = weights / weights.sum()
    errors = rows @ share
    differences = rows - rows[errors.argmin()]
    deviations = differences - (differences @ share).unsqueeze(1)
    variance = deviations.square() @ share / (weights.sum() - 1).clamp_min(1)
    return errors, variance.sqrt()


def _first_good_enough(rows: Tensor, weights: Tensor, margin: float) -> int:
    """The first candidate over which the best has no advantage that counts.

    One counts where it is more than ``margin`` standard errors, and is left when the row that
    speaks for it most is taken away: a single row must not decide.
    """
    errors, spread = _compared(rows, weights)
    best = int(errors.argmin())
    for k in range(best):
        differences = rows[k] - rows[best]
        without_one = differences @ weights - differences.max().clamp_min(0)
        enough = errors[k] - errors[best] > margin * spread[k] + 1e-6 * errors.abs().max()
        if not (bool(enough) and float(without_one) > 0):
            return k
    return best


def _has_present(state: State) -> bool:
    return isinstance(state, dict) and "present" in state
