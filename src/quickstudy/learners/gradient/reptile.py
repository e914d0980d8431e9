"""Reptile: move the initialisation towards the weights at which each task's descent ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quickstudy.answers import Classes
from quickstudy.answers.classes import one_hot
from quickstudy.backbones.features import refuse_sizes
from quickstudy.base.trees import concatenate, map_tree
from quickstudy.core import Answer, Examples, Learner, Task
from quickstudy.learners.gradient.descend import (
    Adam,
    Descent,
    Update,
    Weights,
    constant,
    gradients_of,
    last,
)
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.meta_gradients import FirstOrder
from quickstudy.learners.gradient.network import SupportLoss, check_backbone
from quickstudy.tasks.examples import labelled

ADAM_WITHOUT_MOMENTUM = Adam(decay=0.0)
"""The paper's inner optimiser (section 6.1)."""


def displacement(learner: Learner, task: Task) -> Tensor:
    """Half the squared distance between the weights and those after descent on the task.

        φ = θ after ``steps`` inner steps, each on the next ``batch`` rows of the task
        L = ½ |θ - φ|²,     φ taken as a constant:     ∇L = θ - φ

    The gradient of the mean over tasks is the step of algorithm 2. Support and query rows form one
    set, because the paper does not split tasks in training. See :func:`minibatches`.

    Raises TypeError for a learner other than :class:`Reptile`.
    """
    if not isinstance(learner, Reptile):
        raise TypeError(f"displacement: needs a Reptile learner; found {type(learner).__name__}.")
    start = learner.own_weights()
    batches = iter(
        minibatches(concatenate(task.support, task.query), learner.batch, learner.steps,
                    task.spec.answer)
    )  # fmt: skip

    def gradients_on_the_next_batch(weights: Weights) -> Weights:
        loss = SupportLoss(learner.backbone, next(batches), task.spec)
        return constant(gradients_of(loss))(weights)

    descent = Descent(learner.steps, learner.rate, learner.update, learner.clip)
    path = descent.along(gradients_on_the_next_batch, {n: w.detach() for n, w in start.items()})
    end = last(path)
    squares = [(start[name] - end[name].detach()).square().sum() for name in start]
    return torch.stack(squares).sum() / 2


def minibatches(examples: Examples, size: int, count: int, answer: Answer) -> list[Examples]:
    """``count`` batches of ``size`` consecutive rows, starting again after the last row.

    Rows are ordered class by class (the first of each, the second of each, …), so that every
    batch contains the classes about equally often. Nothing is random, so a task always gives the
    same batches. Rows of weight 0 and unlabelled rows are left out; a row of weight 2 occurs once,
    with weight 2. With fewer rows than ``size``, each batch contains all of them.
    """
    examples = labelled(examples, answer)
    n, device = len(examples.weights), examples.weights.device
    order = class_by_class_keys(examples, answer).argsort()
    present = (examples.weights > 0).sum().clamp_min(1)
    # No shape depends on the data, so vmap can batch tasks of different sizes.
    place = torch.arange(min(size, n), device=device)
    batches = []
    for k in range(count):
        chosen = order[(k * size + place) % present]
        batch: Examples = map_tree(lambda leaf, chosen=chosen: leaf[chosen], examples)
        batches.append(batch._replace(weights=batch.weights * (place < present)))
    return batches


def class_by_class_keys(examples: Examples, answer: Answer) -> Tensor:
    """Distinct sort keys (n,) that order the rows class by class, rows of weight 0 last."""
    present = examples.weights > 0
    n, ways = len(present), answer.outputs
    position = torch.arange(n, device=present.device)
    if not isinstance(answer, Classes):
        return position + n * ~present
    of_class = one_hot(examples.targets, ways, torch.long) * present.long().unsqueeze(-1)
    round_ = (of_class.cumsum(0) * of_class).sum(-1)  # 1 for the first row of its class, 2, …
    return torch.where(present, round_ * ways + examples.targets, (n + 1) * ways + position)


class Reptile(GradientLearner):
    """Maps a support set to the backbone after some gradient steps on it.

        θ_{k+1} = update(θ_k, ∇ L_support(θ_k), rate)
        predict = f_{θ_steps}
        train:    θ <- θ + ε mean_tasks(φ - θ)                              (algorithm 2)

    ``adapt`` takes each step on the whole support set. Training minimises :func:`displacement`,
    whose gradient is θ - φ, so there are no second derivatives.

    ``backbone``    inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``steps``       inner steps in training; 5 for Omniglot at 5 ways in the paper, 10 at 20.
    ``rate``        inner learning rate; 1e-3 at 5 ways in the paper, 5e-4 at 20.
    ``update``      inner optimiser: Adam without momentum by default, as in the paper; ``sgd``.
    ``clip``        greatest norm of the gradient of all weights together, before ``update``;
                    None, as in the paper, for no clipping.
    ``batch``       rows of an inner step in training; 10 at 5 ways in the paper, 20 at 20.
    ``test_steps``  steps of ``adapt`` in evaluation mode; 50 in the paper. None: ``steps``.

    The paper's outer step is ``qs.fit(learner, ..., optimiser=qs.optimisers.sgd(1.0),
    schedule=qs.schedules.linear)``.

    State: as :class:`quickstudy.MAML`'s.

    There is no ``adapts``: weights that do not adapt in a task have displacement 0 and would never
    be trained. Freeze parameters to exclude them.

    Raises ValueError for settings that are not positive, for a backbone built without outputs, and
    for norm="running", whose population statistics are not those of adapted weights.

    Reference: Nichol, Achiam and Schulman (2018), On First-Order Meta-Learning Algorithms.
    Differs from the paper in the norm, which is the backbone's choice, in inner batches that are
    consecutive instead of random, in an inner Adam whose state is reset for each task, and in
    adapting to the whole support set at test (as the paper's batches of 5 do at 5 ways and 1 shot).

    >>> import torch, quickstudy as qs
    >>> learner = qs.Reptile(qs.backbones.MLP(outputs=1), rate=0.02)
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> support = qs.examples(x, x)
    >>> learner(support, qs.regression())(support.inputs).shape
    torch.Size([2, 1])
    """

    objective = staticmethod(displacement)

    def __init__(
        self,
        backbone: nn.Module,
        steps: int = 5,
        rate: float = 1e-3,
        update: Update = ADAM_WITHOUT_MOMENTUM,
        clip: float | None = None,
        batch: int = 10,
        test_steps: int | None = 50,
    ) -> None:
        refuse_sizes("Reptile", batch=batch)
        inner = InnerLoop(
            "Reptile", steps, rate, FirstOrder(), update=update, clip=clip, test_steps=test_steps
        )
        check_backbone(backbone, "Reptile")
        super().__init__(backbone, inner)
        self.backbone, self.batch = backbone, batch
