"""The laws of the contract, one function each: (learner, task) -> None; raises BrokenLaw.

``docs/contract.md`` says which silent errors a broken law causes.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.base.door import inspected
from quickstudy.base.errors import BrokenLaw
from quickstudy.base.trees import concatenate, has_shape, leaves, map_tree, shapes
from quickstudy.compute.engine import accumulate, map_tasks, miscounts_rows
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_stack, prepare_tasks
from quickstudy.contract.compare import (
    compare,
    largest_difference,
    predicted,
    rows_at,
    same,
)
from quickstudy.core import Examples, Learner, Predictor, Task
from quickstudy.files.storage import load, save
from quickstudy.objectives import Objective, objective_of, predict_queries, query_loss
from quickstudy.tasks.stacks import as_stack, count, map_task, stack, unstack

Law = Callable[[Learner, Task], None]


def shape_is_right_and_finite(learner: Learner, task: Task) -> None:
    """Predictions have the shape that the answer requires, and are finite."""
    with inspected():  # a call would refuse, with other advice, what is found here
        predictions = predicted(learner, task.support, task)
    expected = task.spec.answer.prediction_shape(task.query.targets)
    if not has_shape(predictions, expected):
        wanted = str(expected).replace("Ellipsis", "...")
        raise BrokenLaw(f"predict must give shape {wanted}; found {shapes(predictions)}.")
    if not all(leaf.isfinite().all() for leaf in leaves(predictions)):
        raise BrokenLaw("predict must give finite numbers; found NaN or infinity.")


def adapt_is_pure(learner: Learner, task: Task) -> None:
    """Adapting twice gives the same predictions, and changes nothing in the module."""
    before = {name: value.clone() for name, value in _tensors(learner)}
    with torch.no_grad():
        predictor = learner(task.support, task.spec)
        first = predictor(task.query.inputs)
        again = predicted(learner, task.support, task)
        learner(_reverse_rows(task.query), task.spec)(task.support.inputs)
        later = predictor(task.query.inputs)
    changed = [
        name
        for name, value in _tensors(learner)
        if name not in before or not same(value, before[name])
    ]
    if changed:
        raise BrokenLaw(
            f"adapt and predict must change nothing in the module, but {', '.join(changed[:3])} "
            "changed. Running statistics updated in forward do this: use norm='group', or "
            "BatchNorm with track_running_stats=False, or freeze those layers: qs.frozen(module)."
        )
    if not same(first, again):
        random = [n for n, m in learner.named_modules() if _drops(m)]
        raise BrokenLaw(
            "adapting twice must give the same predictor, but predictions differ by "
            f"{largest_difference(first, again):.2g}. Randomness does this"
            + (f": set p=0 in, or eval() or qs.frozen(), the dropout layers {', '.join(random)}."
               if random
               else ": remove it from forward, or make it a function of the inputs.")
        )  # fmt: skip
    if not same(first, later):
        raise BrokenLaw(
            "two predictors of one learner must not affect each other, but a later adapt changed "
            "what an earlier predictor predicts. Keep what adapt learns in the state it returns."
        )


def _drops(module: nn.Module) -> bool:
    """Whether this is dropout, or a layer such as attention with dropout inside, in training."""
    p = getattr(module, "dropout", 0.0)
    inside = isinstance(p, float) and p > 0
    return module.training and (inside or "Dropout" in type(module).__name__)


def _tensors(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    """Parameters, their gradients, and all buffers, non-persistent ones too."""
    for name, parameter in learner.named_parameters():
        yield name, parameter.detach()
        if parameter.grad is not None:
            yield f"{name}.grad", parameter.grad
    yield from learner.named_buffers()


def _reverse_rows(examples: Examples) -> Examples:
    """The rows in reverse order."""
    reversed_rows: Examples = map_tree(lambda leaf: leaf.flip(0), examples)
    return reversed_rows


def queries_are_independent(learner: Learner, task: Task) -> None:
    """A query's prediction does not depend on the other queries."""
    with torch.no_grad():
        predictor = learner(task.support, task.spec)
        together = predictor(task.query.inputs)
        # First and last: in a layer that reads rows as a sequence, a row depends on earlier rows
        # only, so the first alone would not reveal it.
        ends = [map_tree(lambda leaf, i=i: leaf[i:][:1], task.query.inputs) for i in (0, -1)]
        alone = concatenate(*(predictor(one) for one in ends))
    compare(
        rows_at(together, 0, -1), alone,
        "a query's prediction must not depend on the other queries",
        "Batch statistics do this: use norm='group' or 'support'; where it is intended, set "
        "`sees_other_rows = True` on the layer, and reports will call the result transductive.",
    )  # fmt: skip


def weight_zero_is_absent(learner: Learner, task: Task) -> None:
    """A support row of weight 0 counts as if it were not there."""
    support, query = task.support, task.query
    absent = query._replace(weights=torch.zeros_like(query.weights))
    # Query rows, since copies of support rows could leave a class mean unchanged.
    padded: Examples = map_tree(
        lambda rows, more: torch.cat([more[:1], rows, more[-2:]]), support, absent
    )
    compare(
        predicted(learner, support, task), predicted(learner, padded, task),
        "a support row of weight 0 must count as absent",
        "Weigh every sum over support rows; where that is impossible, declare the law in "
        "`exceptions`, and tasks of different sizes will be refused.",
    )  # fmt: skip


def weight_two_is_twice(learner: Learner, task: Task) -> None:
    """A support row of weight 2 counts as two equal rows of weight 1."""
    # A query row: with 1 shot, a copy of a support row would not change its class mean.
    one: Examples = map_tree(lambda leaf: leaf[:1], task.query)
    two = one._replace(weights=2 * one.weights)
    weighted: Examples = map_tree(lambda *rows: torch.cat(rows), task.support, two)
    repeated: Examples = map_tree(lambda *rows: torch.cat(rows), task.support, one, one)
    compare(
        predicted(learner, repeated, task), predicted(learner, weighted, task),
        "a support row of weight 2 must count as two rows", "Weigh every sum over support rows.",
    )  # fmt: skip


def support_order_is_irrelevant(learner: Learner, task: Task) -> None:
    """Reversing the support rows changes nothing."""
    compare(
        predicted(learner, task.support, task),
        predicted(learner, _reverse_rows(task.support), task),
        "the order of the support rows must not matter",
        "A sequential learner declares this law in `exceptions`.",
    )  # fmt: skip


def vmap_equals_loop(learner: Learner, task: Task) -> None:
    """vmap over a stack gives the predictions and meta-gradients of a loop over its tasks."""
    support, query = _reverse_rows(task.support), _reverse_rows(task.query)
    groups = [[task, task._replace(support=support, query=query)]]
    if not miscounts_rows(learner):
        groups.append([task, task._replace(support=task.query, query=task.support)])
    for tasks in groups:
        _compare_vmap_with_loop(learner, stack(tasks))


def _compare_vmap_with_loop(learner: Learner, batch: Task) -> None:
    mapping = Mapping.VMAP_GRAD if learner.differentiates else Mapping.VMAP
    try:
        values = map_tasks(predict_queries, batch, learner, Plan(Mapping.VMAP, "", 2))
        gradient = meta_gradient(learner, batch, mapping)
    except Exception as error:  # vmap fails with many types of error
        raise BrokenLaw(
            f"vmap must map adapt and predict, but raised: {str(error).strip().splitlines()[0]} "
            "Avoid in-place operations and data-dependent shapes, or declare the law in "
            "`exceptions`: the learner is then looped."
        ) from error
    with torch.no_grad():  # as users call it, without the engine
        each = [predict_queries(learner, task) for task in unstack(batch)]
        expected = map_tree(lambda *parts: torch.stack(parts), *each)
    compare(
        expected, values, "vmapped predictions must equal a loop's",
        "Pass weights that adapt makes itself to the norms with base.weighting.counting_exactly.",
    )  # fmt: skip
    compare(
        meta_gradient(learner, batch, Mapping.LOOP), gradient,
        "vmapped meta-gradients must equal a loop's",
        "Set `differentiates = True` on a learner whose adapt takes gradients.",
    )  # fmt: skip


def meta_gradient(
    learner: Learner, batch: Task, mapping: Mapping, objective: Objective = query_loss
) -> Tensor:
    """The gradient of the stack's mean objective by the engine, flat (parameters,).

    Zeros for a learner whose parameters are all frozen: there is nothing to differentiate.
    """
    if not any(p.requires_grad for p in learner.parameters()):
        return torch.zeros(1)
    learner.zero_grad()
    step = [prepare_stack(learner, as_stack(batch))]
    accumulate(learner, step, objective, Plan(mapping, "asked for", count(batch)))
    flat = [
        torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
        for p in learner.parameters()
    ]
    learner.zero_grad()
    return torch.cat(flat) if flat else torch.zeros(1)


def relabelling_permutes_outputs(learner: Learner, task: Task) -> None:
    """Renaming the classes permutes the outputs in the same way."""
    if not isinstance(task.spec.answer, Classes):
        return  # other answers have no classes to rename
    # Cyclic, so that every class gets another name.
    targets = task.support.targets
    order = (torch.arange(task.spec.outputs, device=targets.device) + 1) % task.spec.outputs
    renamed = task.support._replace(targets=torch.where(targets < 0, targets, order[targets]))
    compare(
        predicted(learner, task.support, task), predicted(learner, renamed, task)[:, order],
        "renaming the classes must permute the outputs",
        "A learnt head or one-hot label inputs break this: declare the law in `exceptions`.",
    )  # fmt: skip


def every_parameter_gets_a_gradient(learner: Learner, task: Task) -> None:
    """The meta-gradient reaches every trainable parameter, if there are any."""
    if not any(p.requires_grad for p in learner.parameters()):
        return
    learner.zero_grad()
    step = prepare_tasks(learner, [task])
    accumulate(learner, step, objective_of(learner), Plan(Mapping.LOOP, "asked for", 1))
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
        converted = map_task(convert, task)
        predictions = predicted(model, converted.support, converted)
        inputs = next(leaves(converted.query.inputs))
        for leaf in leaves(predictions):
            if leaf.dtype != dtype or leaf.device != inputs.device:
                raise BrokenLaw(
                    f"predictions must keep dtype and device; given {dtype} on {inputs.device}, "
                    f"found {leaf.dtype} on {leaf.device}. Make new tensors `like` the inputs."
                )


def _loaded(path: Path, learner: Learner, task: Task) -> Predictor:
    try:
        loaded: Predictor = load(path, learner=learner, spec=task.spec)
    except ValueError as error:
        raise BrokenLaw(
            f"a saved predictor must load into a learner like the one that made it, but: {error}"
        ) from error
    return loaded


def saved_predictor_is_the_same(learner: Learner, task: Task) -> None:
    """A predictor saved and loaded predicts the same."""
    fresh = copy.deepcopy(learner)  # before adapt, which might store something in the module
    with torch.no_grad():
        predictor = learner(task.support, task.spec)
        with tempfile.TemporaryDirectory() as folder:
            path = save(predictor, Path(folder) / "predictor.safetensors")
            loaded = _loaded(path, fresh, task)
        compare(
            predictor(task.query.inputs), loaded(task.query.inputs),
            "a saved and loaded predictor must predict the same",
            "Keep everything that adapt learns in the state, and nothing of it in the module.",
        )  # fmt: skip
