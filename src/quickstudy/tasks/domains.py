"""Named tasks from tables: one task for each place, or one for each column of labels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from quickstudy.answers.classes import Classes
from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.base.arguments import typed
from quickstudy.base.arrays import one_tensor
from quickstudy.base.trees import named_leaves
from quickstudy.base.words import count, first_few
from quickstudy.core import Answer, Examples, TaskSpec
from quickstudy.tasks.examples import examples
from quickstudy.tasks.named_rows import NamedRows, of_examples, with_labels
from quickstudy.tasks.named_tasks import NamedTasks


@typed
def domains(tasks: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> NamedTasks:
    """One named task for each place that rows come from: school, assay, language, product.

    ``tasks``  a mapping, or pairs, from each name to ``(inputs, targets, spec)`` or
               ``(examples, spec)``; or the domains of a data set, which have one spec. Any mix of
               answers; each task has its own loss. Tasks whose inputs are the same object share
               them, and are split by the same rows.

    Raises ValueError for no tasks, two of one name or one of none, a spec of another name, inputs
    of different columns, targets that do not fit the spec, and a task without known targets. Warns
    where there is one task only, and of tasks with one class only.

    >>> import torch
    >>> import quickstudy as qs
    >>> inputs = torch.rand(20, 3)
    >>> tasks = qs.tasks.domains({"weight": (inputs, torch.rand(20, 1), qs.regression()),
    ...                           "kind": (inputs, torch.arange(20) % 4, qs.classification(4))})
    >>> tasks.outputs
    {'weight': 1, 'kind': 4}
    """
    pairs = _pairs(tasks)
    _refuse_names("domains", [name for name, _ in pairs])
    made: dict[int, Any] = {}
    rows, specs = {}, {}
    for name, given in pairs:
        rows[name], spec = _rows_and_spec(name, given, made)
        if spec.name not in ("", name):
            raise ValueError(
                f"domains: task {name!r} has a spec of the name {spec.name!r}. Leave the name of "
                "the spec out; it gets the task's."
            )
        specs[name] = TaskSpec(spec.answer, name)
        spec.answer.check(rows[name].targets, f"domains: {name}")
        spec.answer.check_values(rows[name].targets, f"domains: {name}")
    return checked("domains", NamedTasks(of_examples(rows), specs))


@typed
def columns(
    inputs: Any,
    table: Any,
    names: Sequence[str] | None = None,
    *,
    answer: Answer | None = None,
    weights: Any = None,
    groups: Any = None,
) -> NamedTasks:
    """One named task for each column of a table of targets, with the rows known in that column.

    ``inputs``   (n, ...), as for :func:`quickstudy.examples`; the tasks share them.
    ``table``    (n, tasks), NaN or -1 where unknown; or a mapping from names to columns (n,).
    ``names``    of the columns; by default "0", "1", …
    ``answer``   what each column is. By default ``Labels(1)`` where it has only 0 and 1,
                 ``Classes`` where it has larger integers, else ``Reals(1)``.
    ``weights``, ``groups``  (n,) of the rows, as for :func:`quickstudy.examples`.

    Raises ValueError for other numbers of rows or names, two columns of one name, values that do
    not fit ``answer``, and columns without known targets. Warns as :func:`domains`.

    >>> import torch
    >>> import quickstudy as qs
    >>> table = torch.tensor([[0.0, 1.5], [1.0, torch.nan], [1.0, 2.0]])
    >>> qs.tasks.columns(torch.rand(3, 8), table, ["toxic", "solubility"])
    NamedTasks(2 tasks, 5 rows: toxic 3, solubility 2)
    """
    if answer is not None and not isinstance(answer, Answer):
        raise ValueError(
            f"columns: answer must be an answer, such as qs.answers.Reals(1); found "
            f"{type(answer).__name__}. Give spec.answer of a spec."
        )
    named = _columns(table, names)
    _refuse_names("columns", list(named))
    shared = examples(inputs, torch.zeros(_length(named), dtype=torch.long), weights, groups)
    index, targets, specs = {}, {}, {}
    for name, column in named.items():
        chosen = answer or _answer_of(column)
        rows = torch.arange(len(column)).where(_known(column, chosen), -1)
        index[name] = rows[rows >= 0]
        targets[name] = _as_targets(column[index[name]], chosen)
        specs[name] = TaskSpec(chosen, name)
        if bool(column.isinf().any()):
            raise ValueError(
                f"columns: {name}: targets must be finite; found infinity. Clip them, or give NaN "
                "where a target is unknown."
            )
        chosen.check(targets[name], f"columns: {name}")
        chosen.check_values(targets[name], f"columns: {name}")
    return checked("columns", NamedTasks(
        NamedRows(
            dict.fromkeys(named, shared.inputs), index, targets,
            {name: shared.weights[rows] for name, rows in index.items()},
            {name: shared.groups[rows] for name, rows in index.items()},
        ),
        specs,
    ))  # fmt: skip


def checked(who: str, tasks: NamedTasks) -> NamedTasks:
    """``tasks``; ValueError where they cannot be learnt together, and warnings as of domains."""
    if not len(tasks):
        raise ValueError(f"{who}: needs at least 1 task; found none.")
    _refuse_other_columns(who, tasks)
    unlabelled = [
        name for name in tasks if not with_labels(tasks.rows, tasks.specs[name]).any()
    ]  # fmt: skip
    if unlabelled:
        raise ValueError(
            f"{who}: every task needs known targets; found none in "
            f"{count(len(unlabelled), 'task')}: {first_few(unlabelled)}. Leave them out."
        )
    single = tasks.one_class()
    if single:
        warnings.warn(
            f"{who}: {count(len(single), 'task')} of {len(tasks)} "
            f"{'has' if len(single) == 1 else 'have'} one class only, so no ROC-AUC: "
            f"{first_few(single)}. Leave such tasks out where they should be scored.",
            stacklevel=4,
        )
    if len(tasks) == 1:
        warnings.warn(
            f"{who}: there is 1 task, {next(iter(tasks))!r}, so nothing is shared: multi-task "
            "learners learn it alone.",
            stacklevel=4,
        )
    return tasks


def _pairs(tasks: Any) -> list[tuple[str, Any]]:
    """Name and what was given for it; a spec that all share is added to each."""
    if isinstance(tasks, NamedTasks):
        return [(name, (tasks[name], tasks.specs[name])) for name in tasks]
    shared = getattr(tasks, "spec", None)
    if not isinstance(tasks, Iterable):
        raise ValueError(
            f"domains: tasks must be a mapping from names to (inputs, targets, spec); found "
            f"{type(tasks).__name__}."
        )
    pairs = list(tasks.items()) if isinstance(tasks, Mapping) else list(tasks)
    if shared is not None:
        pairs = [(name, (rows, shared)) for name, rows in pairs]
    return [(str(name), given) for name, given in pairs]


def _rows_and_spec(name: str, given: Any, made: dict[int, Any]) -> tuple[Examples, TaskSpec]:
    """The examples of one task; ``made`` holds inputs that were converted before, by identity."""
    if isinstance(given, tuple) and len(given) in (2, 3) and isinstance(given[-1], TaskSpec):
        if len(given) == 2 and isinstance(given[0], Examples):
            return given[0], given[1]
        if len(given) == 3:
            inputs, targets, spec = given
            rows = examples(inputs, targets)
            return rows._replace(inputs=made.setdefault(id(inputs), rows.inputs)), spec
    raise ValueError(
        f"domains: task {name!r} must be (inputs, targets, spec) or (examples, spec); found "
        f"{type(given).__name__}. The spec is qs.regression(), qs.classification(ways), …"
    )


def _columns(table: Any, names: Sequence[str] | None) -> dict[str, Tensor]:
    if isinstance(table, Mapping):
        if names is not None:
            raise ValueError("columns: a mapping has the names already. Leave names out.")
        return {str(name): one_tensor(column, f"columns: {name}") for name, column in table.items()}
    whole = one_tensor(table, "columns: table")
    if whole.ndim != 2:
        raise ValueError(
            f"columns: table must have shape (n, tasks); found {tuple(whole.shape)}. Write "
            "table[:, None] for one column."
        )
    names = [str(place) for place in range(whole.shape[1])] if names is None else list(names)
    _refuse_names("columns", names)
    if len(names) != whole.shape[1]:
        raise ValueError(
            f"columns: needs one name for each of {count(whole.shape[1], 'column')}; found "
            f"{len(names)}. Leave names out to number them."
        )
    return dict(zip(map(str, names), whole.unbind(1), strict=True))


def _length(named: Mapping[str, Tensor]) -> int:
    """The number of rows of the columns; ValueError unless they agree."""
    shapes = {tuple(column.shape) for column in named.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(
            f"columns: every column must have shape (n,), with one n; found "
            f"{first_few([str(shape) for shape in shapes]) or 'none'}. Give NaN or -1 where a "
            "target is unknown."
        )
    return int(next(iter(shapes))[0])


def _answer_of(column: Tensor) -> Answer:
    values = column[~column.isnan()] if column.is_floating_point() else column
    if bool(((values == 0) | (values == 1) | (values == -1)).all()):
        return Labels(1)
    if column.is_floating_point():
        return Reals(1)
    return Classes(max(int(values.max()) + 1, 2))


def _known(column: Tensor, answer: Answer) -> Tensor:
    """(n,): which targets are known; -1 is a number where the answer is one."""
    known = column == column  # not NaN, for every dtype
    return known if isinstance(answer, Reals) else known & (column != -1)


def _as_targets(column: Tensor, answer: Answer) -> Tensor:
    """A column (n,) in the form of its answer: ids (n,), else reals (n, 1)."""
    if isinstance(answer, Classes):
        return column.long()
    return column.to(torch.get_default_dtype())[:, None]


def _refuse_names(who: str, names: Sequence[str]) -> None:
    if "" in names:
        raise ValueError(
            f"{who}: every task needs a name, but one is an empty text: that is a task which no "
            "learner can know. Name it."
        )
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"{who}: every task needs a name of its own; found {first_few(repeated)} more than "
            "once. Rename them."
        )


def _refuse_other_columns(who: str, tasks: NamedTasks) -> None:
    """ValueError unless the inputs of all tasks have one structure, type and shape of a row."""
    first: tuple[str, Any] | None = None
    for names in tasks.rows.tables():
        inputs = tasks.rows.inputs[names[0]]
        found = {k: (x.dtype, tuple(x.shape[1:])) for k, x in named_leaves(inputs, "inputs")}
        first = first or (names[0], found)
        if found != first[1]:
            raise ValueError(
                f"{who}: all tasks need inputs of the same columns; found {_told(first[1])} in "
                f"{first[0]!r} and {_told(found)} in {names[0]!r}. Keep the columns that both "
                "have, or put both through one backbone."
            )


def _told(found: Mapping[str, tuple[Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {dtype} (n, *{shape})" for name, (dtype, shape) in found.items())
