"""The contract: laws that every learner keeps, to be run on your own learners too.

>>> import quickstudy as qs
>>> from quickstudy.testing import check_learner
>>> source = qs.Sinusoids(shots=5, queries=5)
>>> check_learner(qs.MAML(qs.backbones.MLP(outputs=1), rate=0.01), source)  # silent: all laws hold

A law is a function ``(learner, task) -> None`` that raises :class:`BrokenLaw`. A learner declares
the laws it cannot keep in ``exceptions``, each with the reason; all others are tested.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from quickstudy.core import Examples, Learner, Task, TaskSource
from quickstudy.tasks.batches import stack
from quickstudy.tasks.examples import pad_rows
from quickstudy.tasks.sampling import draw, generator
from quickstudy.training.engine import Mapping, Plan, accumulate
from quickstudy.training.objectives import Objective, query_loss
from quickstudy.trees import leaves, map_tree

Law = Callable[[Learner, Task], None]


class BrokenLaw(AssertionError):
    """A learner broke a law of the contract; the message says which, how far, and what to change."""


def check_learner(learner: Learner, source: TaskSource, seed: int = 0) -> list[str]:
    """Test every law that ``learner`` does not declare as an exception; returns their names.

    Runs in float64 on two tasks of ``source``, on a copy of the learner in evaluation mode.
    Raises :class:`BrokenLaw` at the first law that fails, ValueError for an exception that names
    no law.
    """
    unknown = set(learner.exceptions) - set(LAWS)
    if unknown:
        raise ValueError(
            f"exceptions: {sorted(unknown)} are no laws. The laws are: {', '.join(LAWS)}."
        )
    learner = copy.deepcopy(learner).double().eval()
    task = doubled(draw(source, seed, 0))
    kept = [name for name in LAWS if name not in learner.exceptions]
    if learner.transductive:
        kept.remove("queries_are_independent")
    for name in kept:
        LAWS[name](learner, task)
    return kept


def doubled(task: Task) -> Task:
    """The task in float64, where a law can be judged without rounding."""

    def double(leaf: Tensor) -> Tensor:
        return leaf.double() if leaf.is_floating_point() else leaf

    return Task(map_tree(double, task.support), map_tree(double, task.query), task.spec)


def answer(learner: Learner, support: Examples, task: Task) -> Tensor:
    """The queries' predictions after adapting to ``support``."""
    with torch.no_grad():
        return learner(support, task.spec)(task.query.inputs)


def shape_is_right_and_finite(learner: Learner, task: Task) -> None:
    """Predictions are (queries, outputs) finite numbers."""
    predictions = answer(learner, task.support, task)
    expected = (len(task.query.weights), task.spec.outputs)
    if predictions.shape != expected:
        raise BrokenLaw(f"predict must give shape {expected}; found {tuple(predictions.shape)}.")
    if not predictions.isfinite().all():
        raise BrokenLaw("predict must give finite numbers; found NaN or infinity.")


def adapt_is_pure(learner: Learner, task: Task) -> None:
    """Adapting twice gives what adapting once gives, and nothing in the module changes."""
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    first, second = (answer(learner, task.support, task) for _ in range(2))
    changed = [n for n, value in learner.state_dict().items() if not value.equal(before[n])]
    if changed:
        raise BrokenLaw(
            f"adapt and predict must change nothing in the module, but {', '.join(changed[:3])} "
            "changed. Running statistics updated in forward do this: use norm='group', or "
            "BatchNorm with track_running_stats=False, or put those layers in eval mode."
        )
    if not first.equal(second):
        random = [n for n, m in learner.named_modules() if "Dropout" in type(m).__name__]
        raise BrokenLaw(
            "adapting twice must give the same predictor, but predictions differ by "
            f"{float((first - second).abs().max()):.2g}. Randomness does this"
            + (f": set p=0 in, or eval(), the dropout layers {', '.join(random)}." if random
               else ": remove it from forward, or make it a function of the inputs.")
        )  # fmt: skip


def queries_are_independent(learner: Learner, task: Task) -> None:
    """A query's prediction does not depend on the other queries."""
    together = answer(learner, task.support, task)
    with torch.no_grad():
        predictor = learner(task.support, task.spec)
        alone = predictor(map_tree(lambda leaf: leaf[:1], task.query.inputs))
    _compare(
        together[:1], alone, "a query's prediction must not depend on the other queries",
        "Batch statistics do this: use norm='group' or 'support'; where it is meant, say so with "
        "`sees_other_rows = True` on the layer, and reports will call the result transductive.",
    )  # fmt: skip


def weight_zero_is_absent(learner: Learner, task: Task) -> None:
    """A support row of weight 0 counts as if it were not there."""
    padded = pad_rows(task.support, len(task.support.weights) + 3)
    _compare(
        answer(learner, task.support, task), answer(learner, padded, task),
        "a support row of weight 0 must count as absent", "Weigh every sum over support rows.",
    )  # fmt: skip


def weight_two_is_twice(learner: Learner, task: Task) -> None:
    """A support row of weight 2 counts as two equal rows of weight 1."""
    support = task.support
    weights = support.weights.clone()
    weights[0] = 2
    weighted = support._replace(weights=weights)
    repeated: Examples = map_tree(lambda leaf: torch.cat([leaf[:1], leaf]), support)
    _compare(
        answer(learner, weighted, task), answer(learner, repeated, task),
        "a support row of weight 2 must count as two rows", "Weigh every sum over support rows.",
    )  # fmt: skip


def support_order_is_irrelevant(learner: Learner, task: Task) -> None:
    """Permuting the support rows changes nothing."""
    order = torch.randperm(len(task.support.weights), generator=generator(0))
    permuted: Examples = map_tree(lambda leaf: leaf[order], task.support)
    _compare(
        answer(learner, task.support, task), answer(learner, permuted, task),
        "the order of the support rows must not matter",
        "A sequential learner declares this law in `exceptions`.",
    )  # fmt: skip


def vmap_equals_loop(learner: Learner, task: Task) -> None:
    """Values and meta-gradients of a batch are those of its tasks one by one."""
    other = task._replace(support=map_tree(lambda leaf: leaf.flip(0), task.query))
    batch = stack([task, other])

    def predictions(support: Examples, inputs: Any) -> Tensor:
        return learner.predict(learner.adapt(support, batch.spec), inputs, batch.spec)

    with torch.no_grad():
        together = vmap(predictions)(batch.support, batch.query.inputs)
        rows = [
            predictions(*(map_tree(lambda leaf, i=i: leaf[i], part) for part in parts))
            for i in range(2)
            for parts in [(batch.support, batch.query.inputs)]
        ]
    _compare(torch.stack(rows), together, "vmapped predictions must equal a loop's", "")
    mapping = Mapping.VMAP_GRAD if learner.differentiates else Mapping.VMAP
    _compare(
        meta_gradient(learner, batch, Mapping.LOOP), meta_gradient(learner, batch, mapping),
        "vmapped meta-gradients must equal a loop's",
        "Avoid in-place operations and data-dependent shapes in adapt and predict.",
    )  # fmt: skip


def meta_gradient(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective = query_loss
) -> Tensor:
    """The gradient of the batch's mean objective, flat (parameters,), as the engine computes it."""
    learner.zero_grad()
    accumulate(learner, batch, objective, Plan(mapping, "asked for", len(batch.support.weights)))
    flat = [
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
        for p in learner.parameters()
    ]
    learner.zero_grad()
    return torch.cat(flat) if flat else torch.zeros(1)


def relabelling_permutes_outputs(learner: Learner, task: Task) -> None:
    """Renaming the classes permutes the outputs in the same way."""
    if task.support.targets.is_floating_point():
        return  # a regression task has no class names
    order = torch.randperm(task.spec.outputs, generator=generator(1))
    renamed = task.support._replace(targets=order[task.support.targets])
    _compare(
        answer(learner, task.support, task), answer(learner, renamed, task)[:, order],
        "renaming the classes must permute the outputs",
        "A learnt head or one-hot label inputs break this: declare the law in `exceptions`.",
    )  # fmt: skip


def every_parameter_gets_a_gradient(learner: Learner, task: Task) -> None:
    """The meta-gradient reaches every trainable parameter."""
    learner.zero_grad()
    accumulate(learner, stack([task]), query_loss, Plan(Mapping.LOOP, "asked for", 1))
    missing = [
        name
        for name, p in learner.named_parameters()
        if p.requires_grad and (p.grad is None or not bool(p.grad.abs().sum() > 0))
    ]
    learner.zero_grad()
    if missing:
        raise BrokenLaw(
            f"every parameter must get a gradient, but {', '.join(missing[:5])} get none. "
            "Remove them, or set requires_grad=False."
        )


def dtype_and_device_are_kept(learner: Learner, task: Task) -> None:
    """Predictions have the dtype and device of the learner and its inputs."""
    single = copy.deepcopy(learner).float()

    def to_float(leaf: Tensor) -> Tensor:
        return leaf.float() if leaf.is_floating_point() else leaf

    for dtype, model, convert in (
        (torch.float64, learner, lambda leaf: leaf),
        (torch.float32, single, to_float),
    ):
        support, query = map_tree(convert, task.support), map_tree(convert, task.query)
        predictions = answer(model, support, Task(support, query, task.spec))
        inputs = next(leaves(query.inputs))
        if predictions.dtype != dtype or predictions.device != inputs.device:
            raise BrokenLaw(
                f"predictions must keep dtype and device; given {dtype} on {inputs.device}, found "
                f"{predictions.dtype} on {predictions.device}. Make new tensors `like` the inputs."
            )


def saved_predictor_is_the_same(learner: Learner, task: Task) -> None:
    """A predictor saved and loaded predicts the same to the last bit."""
    from quickstudy.storage import load_predictor

    with torch.no_grad():
        predictor = learner(task.support, task.spec)
        with tempfile.TemporaryDirectory() as folder:
            path = predictor.save(Path(folder) / "predictor.safetensors")
            loaded = load_predictor(path, learner=copy.deepcopy(learner))
        if not loaded(task.query.inputs).equal(predictor(task.query.inputs)):
            raise BrokenLaw(
                "a saved and loaded predictor must predict the same. "
                "Keep everything that adapt learns in the state, and nothing of it in the module."
            )


def _compare(expected: Tensor, found: Tensor, rule: str, remedy: str) -> None:
    """Sums in another order agree far below the tolerance; broken laws are off by far more."""
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-3
    expected, found = expected.detach(), found.detach()
    error = float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not error <= tolerance:
        raise BrokenLaw(f"{rule}; found a relative difference of {error:.2g}. {remedy}".strip())


LAWS: dict[str, Law] = {
    law.__name__: law
    for law in (
        shape_is_right_and_finite,
        adapt_is_pure,
        queries_are_independent,
        weight_zero_is_absent,
        weight_two_is_twice,
        support_order_is_irrelevant,
        vmap_equals_loop,
        relabelling_permutes_outputs,
        every_parameter_gets_a_gradient,
        dtype_and_device_are_kept,
        saved_predictor_is_the_same,
    )
}


def check_laws(learner: Learner, task: Task, names: Iterable[str]) -> None:
    """Test some laws on one task, with the learner as it is."""
    for name in names:
        LAWS[name](learner, task)
