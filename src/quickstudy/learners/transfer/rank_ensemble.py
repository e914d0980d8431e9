"""An ensemble of learners whose predictions are compared by rank alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.core import Examples, Learner, State, Task, TaskSpec, check_answer
from quickstudy.learners.metric.prototypical_mahalanobis import PrototypicalMahalanobis
from quickstudy.learners.outputs import present_entry
from quickstudy.learners.transfer.random_forest import RandomForest
from quickstudy.objectives import objective_of
from quickstudy.tasks.examples import labelled, without_absent


def sum_of_objectives(learner: Any, task: Task) -> Any:
    """The sum () of the learners' own objectives, over those that training changes.

    Raises TypeError for a learner other than :class:`RankEnsemble`.
    """
    if not isinstance(learner, RankEnsemble):
        raise TypeError(f"sum_of_objectives: needs a RankEnsemble; found {type(learner).__name__}.")
    found = []
    for each in learner.of(task.spec):
        if "every_parameter_gets_a_gradient" not in each.exceptions and any(
            parameter.requires_grad for parameter in each.parameters()
        ):
            outcome = objective_of(each)(each, task)
            found.append(outcome if isinstance(outcome, Tensor) else outcome.loss)
    return torch.stack(found).sum() if found else torch.zeros(())


class RankEnsemble(Learner):
    """Maps a support set to the mean, over several learners, of how high each ranks a query.

        o_lk(x) = logit_k - log sum over other classes of exp(logit)     of learner l, for class k
        r_lk(x) = the share of queries z with o_lk(z) < o_lk(x), ties counting half
        logits  = log mean_l r_lk(x)

    Ranks need no common scale: a forest's shares and distances in a feature space differ in every
    way but their order, and what one learner finds beside another adds up. It suits tasks that are
    scored by order (``qs.ranking``). It is *transductive*: queries are ranked among the queries
    asked together, such as the molecules of a library, and a single one has no rank.

    ``learners``  of classes; or a backbone: then :class:`PrototypicalMahalanobis` and
                  :class:`RandomForest` on it.

    Training sums the learners' own objectives: each is trained as it would be alone. Tasks of
    :class:`Labels` are for training too, where a learner such as :class:`MultitaskFeatures` gives
    them; their predictions are means, since they are not ranked.

    State: ``states``, one for each learner; ``present`` (ways,).

    Raises ValueError for fewer than 2 learners, and for learners of other answers than classes.

    Reference: Dwork, Kumar, Naor and Sivakumar (2001), Rank aggregation methods for the web: the
    mean rank among queries is Borda's count.

    >>> import torch, quickstudy as qs
    >>> pair = [qs.LinearProbe(torch.nn.Identity()), qs.RandomForest(torch.nn.Identity(), trees=5)]
    >>> support = qs.examples([[0.0], [1.0], [8.0], [9.0]], [0, 0, 1, 1])
    >>> predictor = qs.RankEnsemble(pair)(support, qs.ranking())
    >>> predictor(torch.tensor([[0.5], [8.5]])).argmax(-1).tolist()
    [0, 1]
    """

    answers = (Classes,)
    objective = staticmethod(sum_of_objectives)
    transductive = True

    def __init__(self, learners: nn.Module | Sequence[Learner]) -> None:
        super().__init__()
        given: list[Any] = (
            [PrototypicalMahalanobis(learners), RandomForest(learners)]
            if isinstance(learners, nn.Module)
            else list(learners)
        )
        if len(given) < 2 or not all(isinstance(each, Learner) for each in given):
            raise ValueError(
                f"RankEnsemble: needs 2 learners or more; found {len(given)}. Give a list of them, "
                "or a backbone."
            )
        self.parts = nn.ModuleList(given)
        for each in self.learners:
            check_answer(each, Classes(2))
        self.differentiates = any(each.differentiates for each in self.learners)  # type: ignore[misc]
        self.reads_name = any(each.reads_name for each in self.learners)  # type: ignore[misc]
        self.exceptions = _exceptions(self.learners)  # type: ignore[misc]
        if any(issubclass(Labels, each.answers) for each in self.learners):
            self.answers = (Classes, Labels)  # type: ignore[assignment, misc]

    @property
    def learners(self) -> tuple[Learner, ...]:
        """The learners whose ranks are averaged."""
        return tuple(self.parts)  # type: ignore[arg-type]

    def of(self, spec: TaskSpec) -> list[Learner]:
        """The learners of this task: all for classes, and for labels those that give them."""
        return [each for each in self.learners if isinstance(spec.answer, each.answers)]

    def name_key(self, spec: TaskSpec) -> Hashable:
        """That of each learner."""
        return tuple(each.name_key(spec) for each in self.of(spec))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The learners adapted to ``support``."""
        support = labelled(support, spec.answer)
        states = [each.adapt(support, spec) for each in self.of(spec)]
        return {"states": states, **present_entry(support, spec)}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways); of labels the mean logits."""
        logits = [
            each.predict(own, inputs, spec)
            for each, own in zip(self.of(spec), state["states"], strict=True)
        ]
        if not isinstance(spec.answer, Classes):
            return torch.stack(logits).mean(0)
        return without_absent(mean_of_ranks(logits), state["present"])


def mean_of_ranks(logits: Sequence[Tensor]) -> Tensor:
    """Logits (n, ways) of the ensemble, from those of its learners for the same queries."""
    ranks = [_share_below(_log_odds(each)).to(each.dtype) for each in logits]
    return torch.stack(ranks).mean(0).log()


def _log_odds(logits: Tensor) -> Tensor:
    """(n, ways): of each class against all others."""
    rest = [
        torch.cat([logits[:, :k], logits[:, k + 1 :]], 1).logsumexp(1)
        for k in range(logits.shape[1])
    ]
    return logits - torch.stack(rest, 1)


def _share_below(values: Tensor) -> Tensor:
    """(n, k): for each value of a column the share of its column below it, between 0 and 1."""
    columns = values.detach().mT.contiguous()
    ranked = columns.sort(-1).values
    below, upto = (torch.searchsorted(ranked, columns, right=right) for right in (False, True))
    # Half a row more on either side, so that no share is 0 or 1, whose logits are infinite.
    return (((below + upto) / 2 + 0.5) / (len(values) + 1)).mT


def _exceptions(learners: Sequence[Learner]) -> Mapping[str, str]:
    """The laws that some learner cannot keep; gradients reach those that training changes."""
    found = {law: why for each in learners for law, why in each.exceptions.items()}
    found.pop("every_parameter_gets_a_gradient", None)
    return found
