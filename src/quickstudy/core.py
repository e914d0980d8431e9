"""The four types that everything else is made of.

A *learner* maps a *support set* to a *predictor*. What is learnt over many tasks lives in the
learner's parameters; what is learnt from one support set is data, the predictor's *state*.

    Examples    a mapping known at n points
    TaskSpec    what a predictor must answer
    Task        support and query examples under one spec
    Learner     adapt(support) -> state,  predict(state, inputs) -> predictions
    Predictor   a learner together with one state: a function of inputs
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

State = Any
"""What one support set taught: nested dicts, tuples and lists of tensors."""


class Examples(NamedTuple):
    """A mapping known at n points; tensors only, so ``torch.vmap`` takes it as it is.

    ``inputs``   (n, ...): a tensor, or a tree of tensors.
    ``targets``  (n,) class ids or (n, d) reals; -1 or NaN where unknown (unlabelled rows).
    ``weights``  (n,): how often a row counts; 0 is "not there" (padding), 2 is "twice".
    """

    inputs: Any
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True)
class TaskSpec:
    """What a predictor must answer; holds no tensors, so the tasks of one batch share it.

    ``outputs``  number of classes, regression targets or actions.
    ``loss``     (predictions (n, outputs), targets) -> one loss per row, (n,).
    ``name``     which task this is, for learners that keep a part per task.
    """

    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    name: str = ""


class Task(NamedTuple):
    """One task: adapt on ``support``, be judged on ``query``.

    Either is given rows, or a function that makes rows by acting with a predictor
    (reinforcement learning).
    """

    support: Any  # Examples | Callable[[Predictor], Examples]
    query: Any  # Examples | Callable[[Predictor], Examples]
    spec: TaskSpec


TaskSource = Callable[[torch.Generator], Task]
"""Where tasks come from: the same generator seed gives the same task."""


class Learner(nn.Module, ABC):
    """Maps a support set to a predictor; its parameters are what training over many tasks learns.

    Write ``adapt`` and ``predict`` for ONE task, in the paper's own equations; the engine maps
    them over batches of tasks. ``adapt`` changes nothing in the module and never sees a query.
    """

    exceptions: ClassVar[Mapping[str, str]] = {}
    """Laws of :mod:`quickstudy.contract.check` that this learner cannot keep, each with the reason."""

    differentiates: ClassVar[bool] = False
    """Whether ``adapt`` takes gradients itself, so that training differentiates twice."""

    objective: Callable[[Learner, Task], Any] | None = None
    """What training minimises, where the learner's paper does not minimise the query loss."""

    @abstractmethod
    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """What ``support`` teaches, as a tree of tensors."""

    @abstractmethod
    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Predictions (n, outputs) for ``inputs`` (n, ...)."""

    def over_tasks(self, support: Examples, inputs: Any, spec: TaskSpec) -> Tensor | None:
        """Predictions (tasks, n, outputs) after adapting to each of many support sets, all at once.

        ``support`` and ``inputs`` have a first axis of tasks: (tasks, rows, ...). None where there
        is no faster way than to map ``adapt`` and ``predict``, whose results these are.
        """
        return None

    def embed(self, state: State, inputs: Any) -> Tensor | None:
        """Features (n, d) in which the predictor sees ``inputs``, for plots; None without such."""
        return None

    def attention(self, state: State, inputs: Any) -> Tensor | None:
        """Share (n, support rows) of each support row in each prediction; None without such.

        Rows sum to one, or to 0 where no support row is there; rows of weight 0 have share 0.
        """
        return None

    def uncertainty(self, state: State, inputs: Any) -> Tensor | None:
        """Standard deviation (n, outputs) of a regression's targets; None where it is not told."""
        return None

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State] | None:
        """States from before the first to after the last inner step; None without such steps."""
        return None

    def learnt_rates(self) -> Mapping[str, Tensor]:
        """Learnt learning rates by the name of what they move; empty where none are learnt."""
        return {}

    def forward(self, support: Examples, spec: TaskSpec) -> Predictor:
        """The predictor that ``support`` teaches.

        Raises ValueError for a support set without rows, for targets whose shape or kind the spec
        does not ask for, and for class ids that it has no output for.
        """
        from quickstudy.tasks.targets import check_support

        check_support(support, spec)
        _check_class_ids(support, spec)
        return Predictor(self, self.adapt(support, spec), spec)

    @property
    def transductive(self) -> bool:
        """Whether one query's prediction depends on the other queries (batch statistics)."""
        return any(sees_other_rows(module) for module in self.modules())


def _check_class_ids(support: Examples, spec: TaskSpec) -> None:
    targets = support.targets
    if targets.is_floating_point() or targets.is_cuda:  # a look at a GPU's tensor would stall it
        return
    try:
        largest = int(targets.max())
    except RuntimeError:  # no rows, or inside vmap, where no single value can be looked at
        return
    if largest >= spec.outputs:
        raise ValueError(
            f"support: class ids must lie in 0 … {spec.outputs - 1} for a task of {spec.outputs} "
            f"outputs; found {largest}. Renumber the classes, or raise the spec's ways."
        )


def sees_other_rows(module: nn.Module) -> bool:
    """Whether what this layer gives for a row depends on the rows beside it."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module.training or module.running_mean is None
    return bool(getattr(module, "sees_other_rows", False))


@dataclass(frozen=True)
class Predictor:
    """A learner with what one support set taught it: a function of inputs, and plain data.

    ``info`` travels with the predictor when it is saved: class names, image size, anything JSON.
    """

    learner: Learner
    state: State
    spec: TaskSpec
    info: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, inputs: Any) -> Tensor:
        """Predictions (n, outputs) for ``inputs`` (n, ...): logits, or regression values."""
        return self.learner.predict(self.state, inputs, self.spec)

    def save(self, path: str | Path) -> Path:
        """Write learner, state and spec to one safetensors file (see :func:`load_predictor`)."""
        from quickstudy.files.storage import save_predictor

        return save_predictor(self, Path(path))

    def export(self, path: str | Path, inputs: Tensor) -> Path:
        """Write an ONNX model that maps any number of rows such as ``inputs`` to predictions.

        Needs the extra ``quickstudy[onnx]``.
        """
        from quickstudy.files.export import export_onnx

        return export_onnx(self, Path(path), inputs)
