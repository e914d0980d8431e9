"""The laws that every learner keeps, one function each: (learner, task) -> None, or BrokenLaw.

What a learner that breaks one gets wrong without any error is told in ``docs/contract.md``.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from quickstudy.base.trees import leaves, map_tree
from quickstudy.compute.engine import accumulate, map_tasks, miscounts_rows
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.core import Examples, Learner, Task
from quickstudy.objectives import Objective, answers, objective_of, query_loss
from quickstudy.tasks.stacks import stack, unstack

Law = Callable[[Learner, Task], None]


class BrokenLaw(AssertionError):
    """A learner broke a law of the contract; the message says which, how far, and the remedy."""


def answer(learner: Learner, support: Examples, task: Task) -> Tensor:
    """The queries' predictions after adapting to ``support``."""
    with torch.no_grad():
        predictions: Tensor = learner(support, task.spec)(task.query.inputs)
    return predictions


def shape_is_right_and_finite(learner: Learner, task: Task) -> None:
    """Predictions are (queries, outputs) finite numbers."""
    predictions = answer(learner, task.support, task)
    expected = (len(task.query.weights), task.spec.outputs)
    if predictions.shape != expected:
        raise BrokenLaw(f"predict must give shape {expected}; found {tuple(predictions.shape)}.")
    if not predictions.isfinite().all():
        raise BrokenLaw("predict must give finite numbers; found NaN or infinity.")


def adapt_is_pure(learner: Learner, task: Task) -> None:
    """Adapting twice gives what adapting once gives; nothing in the module changes by it."""
    before = {name: value.clone() for name, value in _tensors(learner)}
    with torch.no_grad():
        predictor = learner(task.support, task.spec)
        first = predictor(task.query.inputs)
        again = answer(learner, task.support, task)
        learner(_turned(task.query), task.spec)(task.support.inputs)
        later = predictor(task.query.inputs)
    changed = [name for name, value in _tensors(learner) if not _same(value, before.get(name))]
    if changed:
        raise BrokenLaw(
            f"adapt and predict must change nothing in the module, but {', '.join(changed[:3])} "
            "changed. Running statistics updated in forward do this: use norm='group', or "
            "BatchNorm with track_running_stats=False, or put those layers in eval mode."
        )
    if not _same(first, again):
        random = [n for n, m in learner.named_modules() if "Dropout" in type(m).__name__]
        raise BrokenLaw(
            "adapting twice must give the same predictor, but predictions differ by "
            f"{float((first - again).abs().max()):.2g}. Randomness does this"
            + (f": set p=0 in, or eval(), the dropout layers {', '.join(random)}." if random
               else ": remove it from forward, or make it a function of the inputs.")
        )  # fmt: skip
    if not _same(first, later):
        raise BrokenLaw(
            "two predictors of one learner must not disturb each other, but a later adapt changed "
            "what an earlier predictor answers. Keep what adapt learns in the state it returns."
        )


def _tensors(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    """Parameters, their gradients, and buffers, those that are not saved included."""
    for name, parameter in learner.named_parameters():
        yield name, parameter.detach()
        if parameter.grad is not None:
            yield f"{name}.grad", parameter.grad
    yield from learner.named_buffers()


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and torch.equal(a.nan_to_num(), b.nan_to_num())


def _turned(examples: Examples) -> Examples:
    """The rows in reverse order, which no permutation of two rows or more leaves as they are."""
    turned: Examples = map_tree(lambda leaf: leaf.flip(0), examples)
    return turned


def queries_are_independent(learner: Learner, task: Task) -> None:
    """A query's prediction does not depend on the other queries."""
    with torch.no_grad():
        predictor = learner(task.support, task.spec)
        together = predictor(task.query.inputs)
        # First and last: a layer that takes rows for a sequence lets a row see only its past.
        ends = [map_tree(lambda leaf, i=i: leaf[i:][:1], task.query.inputs) for i in (0, -1)]
        alone = torch.cat([predictor(one) for one in ends])
    _compare(
        together[[0, -1]], alone, "a query's prediction must not depend on the other queries",
        "Batch statistics do this: use norm='group' or 'support'; where it is meant, say so with "
        "`sees_other_rows = True` on the layer, and reports will call the result transductive.",
    )  # fmt: skip


def weight_zero_is_absent(learner: Learner, task: Task) -> None:
    """A support row of weight 0 counts as if it were not there."""
    support, query = task.support, task.query
    absent = query._replace(weights=torch.zeros_like(query.weights))
    # Rows unlike the support's own: copies of those would leave a class mean where it is.
    padded: Examples = map_tree(
        lambda rows, more: torch.cat([more[:1], rows, more[-2:]]), support, absent
    )
    _compare(
        answer(learner, support, task), answer(learner, padded, task),
        "a support row of weight 0 must count as absent",
        "Weigh every sum over support rows; where that is impossible, declare the law in "
        "`exceptions`, and tasks of different sizes will be refused.",
    )  # fmt: skip


def weight_two_is_twice(learner: Learner, task: Task) -> None:
    """A support row of weight 2 counts as two equal rows of weight 1."""
    one: Examples = map_tree(lambda leaf: leaf[:1], task.query)  # new to its class, even at 1 shot
    two = one._replace(weights=2 * one.weights)
    weighted: Examples = map_tree(lambda *rows: torch.cat(rows), task.support, two)
    repeated: Examples = map_tree(lambda *rows: torch.cat(rows), task.support, one, one)
    _compare(
        answer(learner, repeated, task), answer(learner, weighted, task),
        "a support row of weight 2 must count as two rows", "Weigh every sum over support rows.",
    )  # fmt: skip


def support_order_is_irrelevant(learner: Learner, task: Task) -> None:
    """Reversing the support rows changes nothing."""
    _compare(
        answer(learner, task.support, task), answer(learner, _turned(task.support), task),
        "the order of the support rows must not matter",
        "A sequential learner declares this law in `exceptions`.",
    )  # fmt: skip


def vmap_equals_loop(learner: Learner, task: Task) -> None:
    """Values and meta-gradients of a batch are those of its tasks one by one."""
    batches = [[task, task._replace(support=_turned(task.support), query=_turned(task.query))]]
    if not miscounts_rows(learner):
        batches.append([task, task._replace(support=task.query, query=task.support)])
    for tasks in batches:
        _mapped_is_looped(learner, stack(tasks))


def _mapped_is_looped(learner: Learner, batch: Task) -> None:
    mapping = Mapping.VMAP_GRAD if learner.differentiates else Mapping.VMAP
    try:
        values = map_tasks(answers, batch, learner, Plan(Mapping.VMAP, "", 2))
        gradient = meta_gradient(learner, batch, mapping)
    except Exception as error:  # whatever vmap cannot map, under any name
        raise BrokenLaw(
            f"vmap must map adapt and predict, but says: {str(error).strip().splitlines()[0]} "
            "Avoid in-place operations and data-dependent shapes, or declare the law in "
            "`exceptions`: the learner is then looped."
        ) from error
    with torch.no_grad():  # called as a user would, without the engine
        expected = torch.stack([answers(learner, task) for task in unstack(batch)])
    _compare(
        expected, values, "vmapped predictions must equal a loop's",
        "Give weights that adapt makes itself to the norms with norms.counting_exactly.",
    )  # fmt: skip
    _compare(
        meta_gradient(learner, batch, Mapping.LOOP), gradient,
        "vmapped meta-gradients must equal a loop's",
        "Set `differentiates = True` on a learner whose adapt takes gradients.",
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
    # A turn by one place moves every class, whatever their number.
    targets = task.support.targets
    order = (torch.arange(task.spec.outputs, device=targets.device) + 1) % task.spec.outputs
    renamed = task.support._replace(targets=torch.where(targets < 0, targets, order[targets]))
    _compare(
        answer(learner, task.support, task), answer(learner, renamed, task)[:, order],
        "renaming the classes must permute the outputs",
        "A learnt head or one-hot label inputs break this: declare the law in `exceptions`.",
    )  # fmt: skip


def every_parameter_gets_a_gradient(learner: Learner, task: Task) -> None:
    """The meta-gradient reaches every trainable parameter."""
    learner.zero_grad()
    accumulate(learner, stack([task]), objective_of(learner), Plan(Mapping.LOOP, "asked for", 1))
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
    """A predictor saved and loaded predicts the same."""
    from quickstudy.files.storage import load_predictor

    blank = copy.deepcopy(learner)  # before adapt, which might hide something in the module
    with torch.no_grad():
        predictor = learner(task.support, task.spec)
        with tempfile.TemporaryDirectory() as folder:
            path = predictor.save(Path(folder) / "predictor.safetensors")
            loaded = load_predictor(path, learner=blank)
        _compare(
            predictor(task.query.inputs), loaded(task.query.inputs),
            "a saved and loaded predictor must predict the same",
            "Keep everything that adapt learns in the state, and nothing of it in the module.",
        )  # fmt: skip


def _compare(expected: Tensor, found: Tensor, rule: str, remedy: str) -> None:
    """Sums in another order agree far below the tolerance; broken laws are off by far more."""
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-3
    expected, found = expected.detach(), found.detach()
    if expected.shape != found.shape:
        raise BrokenLaw(f"{rule}; found {tuple(found.shape)} for {tuple(expected.shape)}. {remedy}")
    # The huge logits of absent classes must agree too, but are no scale to judge others by.
    size = expected.abs()
    ordinary = size.where(size < _HUGE, 0.0).max().clamp_min(1e-12)
    scale = size.where(size >= _HUGE, ordinary)
    error = float(((expected - found).abs() / scale).max())
    if not error <= tolerance:
        raise BrokenLaw(f"{rule}; found a relative difference of {error:.2g}. {remedy}".strip())


_HUGE = 1e20


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
