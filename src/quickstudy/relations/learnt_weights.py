"""Task weights that are learnt by a bilevel step: Auto-λ."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from quickstudy.answers.checks import check_count
from quickstudy.base.replica import in_evaluation_mode
from quickstudy.base.words import first_few
from quickstudy.compute.prepare import names_of, prepare_tasks
from quickstudy.core import Learner, TaskSource
from quickstudy.evaluation.evaluate import check_call
from quickstudy.objectives import Objective, objective_of
from quickstudy.relations.gradients import by_name, flat_gradients, write_flat
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.tasks.numbering import Stream, draw


def learn_weights(
    learner: Learner,
    train: NamedTasks,
    validation: NamedTasks | None = None,
    *,
    primary: Iterable[str] | None = None,
    rate: float = 0.001,
    weight_rate: float = 0.001,
    start: float = 0.1,
    every: int = 1,
    rows: int = 32,
    objective: Objective | None = None,
    seed: int = 0,
) -> LearntWeights:
    """Task weights λ that make the next training step good for the primary tasks.

        θ'(λ) = θ - rate sum_i λ_i grad L_i(θ)                a step on training rows
        λ    <- λ - weight_rate Adam(grad_λ sum_p L_p(θ'(λ)))  on validation rows of primary tasks p

    Give it to ``qs.fit(learner, train.batches(...), combine=...)``. The meta-gradient of a single
    plain step is exact without second derivatives, since θ' is linear in λ:

        d L_p(θ') / d λ_i = -rate ⟨grad L_p(θ'), grad L_i(θ)⟩

    ``learner``      that is trained.
    ``train``        the tasks that are weighted, ``validation`` other rows of the primary ones; by
                     default other draws of ``train``, as in the paper.
    ``primary``      the names of the tasks that matter, or one name; all by default. The others are
                     auxiliary: their weight falls where they do not help.
    ``rate``         of the step that is looked ahead: give the learning rate of training.
    ``weight_rate``  of Adam on the weights; ``start``, their first value (0.1 in the paper).
    ``every``        steps of training between those of the weights. One costs about as much as two
                     steps of all tasks.
    ``rows``         of each task in a step of the weights.

    Raises ValueError for numbers out of range, and for names that are not tasks.

    Reference: Liu, James, Davison and Johns (2022), Auto-Lambda: Disentangling Dynamic Task
    Relationships, TMLR. Differs from the paper in the meta-gradient, which is exact instead of by
    finite differences; in the weights' rows, which are drawn anew instead of being those of the
    training step, so that every task is among them; and in a floor: weights do not fall below 0.

    >>> import torch, quickstudy as qs
    >>> x = torch.rand(40, 3)
    >>> tasks = qs.tasks.domains({"a": (x, x[:, :1], qs.regression()),
    ...                           "noise": (x, torch.rand(40, 1), qs.regression())})
    >>> learner = qs.HardSharing(qs.backbones.MLP(3, (8,)), tasks.outputs)
    >>> weights = qs.relations.learn_weights(learner, tasks, primary=["a"])
    >>> _ = qs.fit(learner, tasks.batches(8), 3, 4, combine=weights, progress=False)
    >>> sorted(weights.values)
    ['a', 'noise']
    """
    check_call("learn_weights", learner, seed)
    check_count("learn_weights", "every", every, 1)
    for each in (train, validation):
        if not isinstance(each, NamedTasks | None):
            raise ValueError(
                f"learn_weights: needs named tasks; found {type(each).__name__}. Make them by "
                "qs.tasks.domains or qs.tasks.columns."
            )
    if isinstance(primary, str):
        primary = [primary]
    wrong = {
        name: value
        for name, value in (("rate", rate), ("weight_rate", weight_rate), ("start", start))
        if not (isinstance(value, int | float) and 0 < value < torch.inf)
    }
    if wrong:
        raise ValueError(
            f"learn_weights: rates and the start must be positive numbers; found {wrong}. The "
            "defaults are 0.001, 0.001 and 0.1."
        )
    names = tuple(train) if primary is None else tuple(dict.fromkeys(primary))
    given = train if validation is None else validation
    unknown = [name for name in names if name not in train or name not in given]
    if unknown or not names:
        raise ValueError(
            "learn_weights: primary tasks must be among the training and the validation tasks; "
            f"found {first_few(unknown) or 'none'}. The tasks are {first_few(list(train))}."
        )
    return LearntWeights(
        learner,
        {name: train.only([name]).batches(rows) for name in train},
        {name: given.only([name]).batches(rows) for name in names},
        rate, weight_rate, start, every, rows, objective or objective_of(learner), seed,
    )  # fmt: skip


@final
class LearntWeights:
    """The combiner that :func:`learn_weights` makes.

    ``values``  the weight of each task, by name.
    """

    reads: ClassVar[Literal["losses"]] = "losses"

    def __init__(
        self,
        learner: Learner,
        train: dict[str, TaskSource],
        validation: dict[str, TaskSource],
        rate: float,
        weight_rate: float,
        start: float,
        every: int,
        rows: int,
        objective: Objective,
        seed: int,
    ) -> None:
        self.learner, self.train, self.validation = learner, train, validation
        self._settings = (
            f"primary={sorted(validation)}, rate={rate}, weight_rate={weight_rate}, start={start}, "
            f"every={every}, rows={rows}, seed={seed}"
        )
        self.rate, self.every, self.objective, self.seed = rate, every, objective, seed
        self.steps = 0
        self._names = tuple(train)
        self._lambda = torch.full((len(train),), start, dtype=torch.float64, requires_grad=True)
        self._adam = torch.optim.Adam([self._lambda], lr=weight_rate)

    def __repr__(self) -> str:
        return f"LearntWeights({self._settings})"

    @property
    def values(self) -> dict[str, float]:
        """The weight of each task."""
        return dict(zip(self._names, self._lambda.tolist(), strict=True))

    def weights(self, losses: Tensor, names: Sequence[str]) -> Tensor:
        """(tasks,): λ of each task's name, shared by the tasks of one name.

        Raises ValueError for a task that is not among those weighted.
        """
        if self.steps % self.every == 0:
            self._lambda.grad = self.meta_gradient(self.steps // self.every)
            self._adam.step()
            with torch.no_grad():
                self._lambda.clamp_(min=0.0)
        self.steps += 1
        unknown = sorted(set(names) - set(self._names))
        if unknown:
            raise ValueError(
                f"learn_weights: no weight for a task called {first_few(list(map(repr, unknown)))};"
                f" the tasks are {first_few(self._names)}. Train on these."
            )
        of = self.values
        return losses.new_tensor([of[name] / list(names).count(name) for name in names])

    def meta_gradient(self, number: int) -> Tensor:
        """(tasks,): the gradient for λ of the primary tasks' loss after the step; draw ``number``.

        Of the sum over primary tasks, in float64.
        """
        learner = in_evaluation_mode(self.learner)
        gradients = self._gradients(learner, self.train, number, Stream.TRAINING)
        scratch = copy.deepcopy(learner)
        parameters = [p for p in scratch.parameters() if p.requires_grad]
        start = torch.cat([p.detach().flatten() for p in parameters]).double()
        factors = self._lambda.detach().to(gradients)
        write_flat(parameters, start - self.rate * factors @ gradients)
        after = self._gradients(scratch, self.validation, number, Stream.VALIDATION).sum(0)
        return -self.rate * (gradients @ after).cpu()

    def _gradients(
        self, learner: Learner, sources: dict[str, TaskSource], number: int, stream: Stream
    ) -> Tensor:
        """(tasks, p): the gradient of each task, on new rows."""
        step = prepare_tasks(
            learner, [draw(source, self.seed, number, stream) for source in sources.values()]
        )
        gradients, _ = flat_gradients(learner, step, self.objective)
        return by_name(gradients, names_of(step), tuple(sources))

    def state_dict(self) -> dict[str, Any]:
        """Weights, Adam's moments and the number of steps, for checkpoints."""
        adam = self._adam.state_dict()["state"].get(0, {})
        return {"lambda": self._lambda.detach().clone(), "steps": self.steps, "adam": dict(adam)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        with torch.no_grad():
            self._lambda.copy_(state["lambda"])
        self.steps = int(state["steps"])
        adam = self._adam.state_dict()
        adam["state"] = {0: dict(state["adam"])} if state["adam"] else {}
        self._adam.load_state_dict(adam)
