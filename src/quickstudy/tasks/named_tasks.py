"""Tasks that have names: their rows and specs, splits of them, and task sources made of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from quickstudy.answers.labels import Labels
from quickstudy.answers.reals import Reals
from quickstudy.base.arguments import typed
from quickstudy.base.names import unknown_name
from quickstudy.base.words import count, first_few
from quickstudy.core import Examples, Task, TaskSpec
from quickstudy.tasks.fixed import FixedTasks, fixed
from quickstudy.tasks.named_batches import NamedBatches, named_batches
from quickstudy.tasks.named_rows import (
    NamedRows,
    in_first_part,
    mean_and_deviation,
    of_examples,
    one_class_only,
    some_of,
    warn_of_memory,
    with_labels,
)
from quickstudy.tasks.numbering import generator


@dataclass(frozen=True, eq=False)  # tensors have no single truth value to compare by
class NamedTasks(Mapping[str, Examples]):
    """Tasks by name, in a fixed order: a mapping from the name of each task to all its rows.

    ``rows``    of each task. Tasks of one table share its inputs.
    ``specs``   of each task; ``specs[name].name`` is the name.
    ``scales``  shift and scale (d,) of each task whose real targets are standardised: the original
                targets are ``scale * targets + shift``.

    :func:`quickstudy.tasks.domains`, :func:`quickstudy.tasks.columns` and
    :func:`quickstudy.datasets.load_named_tasks` make them.

    >>> import torch
    >>> import quickstudy as qs
    >>> inputs, targets = torch.rand(40, 3), torch.rand(40, 1)
    >>> schools = qs.tasks.domains({"north": (inputs, targets, qs.regression()),
    ...                             "south": (inputs + 1, 2 * targets, qs.regression())})
    >>> train, test = schools.split_rows(0.75)
    >>> train
    NamedTasks(2 tasks, 60 rows: north 30, south 30)
    >>> train = train.standardised()
    >>> source = train.batches(rows=8)  # for qs.fit
    >>> train.tested_on(test.standardised(train))  # for qs.evaluate
    fixed(2 tasks)
    """

    rows: NamedRows
    specs: Mapping[str, TaskSpec]
    scales: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.rows, NamedRows):
            object.__setattr__(self, "rows", of_examples(self.rows))
        wrong = [name for name in self.rows if self.specs.get(name, TaskSpec).name != name]
        if wrong or len(self.rows) != len(self.specs):
            raise ValueError(
                "NamedTasks: every task needs rows and a spec of its name; found others for "
                f"{first_few(wrong or list(self.specs))}. Make them by qs.tasks.domains."
            )

    def __getitem__(self, name: str) -> Examples:
        """All rows of task ``name``; ValueError for a name that is not one of them."""
        return self.rows[name]

    def __iter__(self) -> Iterator[str]:
        """The names of the tasks."""
        return iter(self.rows)

    def __contains__(self, name: object) -> bool:
        """Whether a task has this name."""
        return name in self.rows

    def __len__(self) -> int:
        """The number of tasks."""
        return len(self.rows)

    def __repr__(self) -> str:
        counts = self.counts
        told = first_few([f"{name} {rows:,}" for name, rows in counts.items()])
        return (
            f"NamedTasks({count(len(self), 'task')}, {count(sum(counts.values()), 'row')}: {told})"
        )

    @property
    def counts(self) -> dict[str, int]:
        """The number of rows of each task."""
        return {name: self.rows.count(name) for name in self}

    @property
    def outputs(self) -> dict[str, int]:
        """The number of outputs of each task: the ``tasks`` of a multi-task learner."""
        return {name: spec.outputs for name, spec in self.specs.items()}

    def one_class(self) -> tuple[str, ...]:
        """The tasks whose known targets are all of one class, so that they have no ROC-AUC."""
        return tuple(
            name for name in self
            if one_class_only(self.rows.targets[name], self.specs[name].answer)
        )  # fmt: skip

    @typed
    def only(self, names: Iterable[str]) -> NamedTasks:
        """The tasks of these names, or of one, in the order given."""
        asked = dict.fromkeys([names] if isinstance(names, str) else names)
        if not asked:
            raise ValueError("only: at least 1 task must stay; found no name. Name some.")
        for name in asked:
            if name not in self:
                raise unknown_name("tasks", name, self.rows.index)
        return self._select({name: torch.arange(self.rows.count(name)) for name in asked})

    @typed
    def split_rows(self, train: float = 0.75, seed: int = 0) -> tuple[NamedTasks, NamedTasks]:
        """Every task's rows at random in two parts, the first with a share ``train`` of them.

        Tasks of one table (:func:`quickstudy.tasks.columns`) are split by its rows: what is tested
        in one task is trained on in none.

        Raises ValueError for a share that is not between 0 and 1, and where a part of a task would
        have no rows with a known target.
        """
        first: dict[str, Tensor] = {}
        for place, names in enumerate(self.rows.tables()):
            of_table = {name: self.rows.index[name] for name in names}
            first |= in_first_part("split_rows", of_table, train, seed + 1_000_003 * place)
        return self._parted("split_rows", {name: first[name] for name in self})

    @typed
    def split_groups(self, train: float = 0.75, seed: int = 0) -> tuple[NamedTasks, NamedTasks]:
        """As :meth:`split_rows`, but rows of one group (pupil, speaker, scaffold) stay together.

        Groups are the ``groups`` of the rows. A group that occurs in several tasks is in the same
        part of all of them. ``train`` is the share of the groups.
        """
        first = in_first_part("split_groups", self.rows.groups, train, seed)
        return self._parted("split_groups", first)

    @typed
    def split_tasks(
        self, held_out: int | Iterable[str], seed: int = 0
    ) -> tuple[NamedTasks, NamedTasks]:
        """The tasks in two parts: those to learn from, and ``held_out`` ones to adapt to.

        ``held_out``  how many, chosen at random by ``seed``, or their names.

        Raises ValueError where one part would have no task, and for an unknown name.
        """
        if isinstance(held_out, int):
            if not 0 < held_out < len(self):
                raise ValueError(
                    "split_tasks: at least 1 task must be held out, and 1 left to learn from; "
                    f"found {held_out} to hold out of {count(len(self), 'task')}."
                )
            order = torch.randperm(len(self), generator=generator(seed))[:held_out]
            names = [tuple(self)[place] for place in sorted(order.tolist())]
        else:
            asked = [held_out] if isinstance(held_out, str) else list(held_out)
            names = list(self.only(asked)) if asked else []
        rest = [name for name in self if name not in names]
        if not names or not rest:
            raise ValueError(
                "split_tasks: at least 1 task must be held out, and 1 left to learn from; found "
                f"{len(names)} of {len(self)} held out. Name some of the tasks."
            )
        return self.only(rest), self.only(names)

    @typed
    def standardised(self, like: NamedTasks | None = None) -> NamedTasks:
        """Real targets with mean 0 and variance 1 in each task; other tasks as they are.

        Means and deviations (of n rows, not n - 1) are over known targets, by weight. A target that
        never changes is shifted only.

        ``like``  the training tasks, from which, or from whose ``scales``, they are taken; by
                  default from these rows. Standardise test rows like training rows.

        Raises ValueError where a task is standardised already, and where ``like`` lacks one.
        """
        real = [n for n in self if isinstance(self.specs[n].answer, Reals)]
        done = [name for name in real if name in self.scales]
        if done:
            raise ValueError(
                f"standardised: targets of {first_few(done)} are standardised already. Use them as "
                "they are."
            )
        given = self if like is None else like
        missing = [name for name in real if name not in given]
        if missing:
            raise ValueError(
                f"standardised: like has no rows of {first_few(missing)}. Give training rows of "
                "the same tasks."
            )
        scales = {
            name: given.scales.get(name) or mean_and_deviation(given.rows, name) for name in real
        }
        targets = dict(self.rows.targets)
        for name, (shift, scale) in scales.items():
            targets[name] = (targets[name] - shift) / scale
        return NamedTasks(replace(self.rows, targets=targets), self.specs, scales)

    def original(self, name: str, values: Tensor) -> Tensor:
        """``values`` (n, ..., d) of task ``name``, such as predictions, in the original unit."""
        if name not in self.scales:
            return values
        shift, scale = (each.to(values) for each in self.scales[name])
        return scale * values + shift

    @typed
    def batches(
        self, rows: int = 32, support: int | None = None, temperature: float = 1.0
    ) -> NamedBatches:
        """A source of tasks for training: a random name, then disjoint support and query rows.

        ``rows``         query rows of a drawn task.
        ``support``      support rows; as many as ``rows`` by default. Learners that know the task
                         read none of them. A task with too few rows for both shares them.
        ``temperature``  T of p ∝ n^(1/T), how often a task of n rows is drawn: 1 in proportion to
                         its rows, ``math.inf`` as often as any other.

        Raises ValueError for a task of 1 row, and for numbers that are not positive.
        """
        return named_batches(self.rows, self.specs, rows, support, temperature)

    @typed
    def tested_on(self, test: NamedTasks, support: int | None = None, seed: int = 0) -> FixedTasks:
        """One task for each name of ``test``: these rows as support, and its rows as query.

        ``support``  at most so many support rows of each task, chosen at random by ``seed``; by
                     default all.

        Labels that are all yes or all no have no ROC-AUC: a warning counts and names their tasks.
        Another one says how much memory the rows take where it is much. Real targets that are
        standardised are scored in their original unit by :func:`quickstudy.evaluate`.

        Raises ValueError for a name that is not one of these tasks, and where the targets of a task
        are standardised in one part and not, or otherwise, in the other.
        """
        if support is not None and (isinstance(support, float) or support < 1):
            raise ValueError(
                "tested_on: support must be a whole number of rows, at least 1; found "
                f"{support}. Leave it out for all rows."
            )
        for name in test:
            if name not in self:
                raise unknown_name("tested_on", name, self.rows.index)
        other = [name for name in test if not _same_scale(self.scales, test.scales, name)]
        if other:
            raise ValueError(
                "tested_on: training and test targets of a task must be standardised alike; found "
                f"{count(len(other), 'task')} of others: {first_few(other)}. Write "
                "train.tested_on(test.standardised(train))."
            )
        warn_of_memory(self.rows, test.rows, support)
        undefined = [n for n in test.one_class() if isinstance(self.specs[n].answer, Labels)]
        if undefined:
            warnings.warn(
                f"tested_on: {count(len(undefined), 'task')} of {len(test)} "
                f"{'has' if len(undefined) == 1 else 'have'} one class only among the query rows, "
                f"so no ROC-AUC: {first_few(undefined)}. Leave them out, or use another split.",
                stacklevel=3,
            )
        chosen = {
            name: some_of(self.rows.count(name), support, seed + place)
            for place, name in enumerate(test)
        }
        tasks = fixed(
            Task(self.rows.take(name, chosen[name]), test.rows[name], self.specs[name])
            for name in test
        )
        return FixedTasks(tasks.tasks, test.scales)

    def _select(self, chosen: Mapping[str, Tensor]) -> NamedTasks:
        return NamedTasks(
            self.rows.select(chosen),
            {name: self.specs[name] for name in chosen},
            {name: scale for name, scale in self.scales.items() if name in chosen},
        )

    def _parted(self, who: str, first: Mapping[str, Tensor]) -> tuple[NamedTasks, NamedTasks]:
        """The rows marked in ``first`` and the others; ValueError for a part without labels."""
        parts = tuple(
            self._select({name: mask.eq(side).nonzero()[:, 0] for name, mask in first.items()})
            for side in (True, False)
        )
        for part, which in zip(parts, ("first", "second"), strict=True):
            empty = [
                name for name in part if not with_labels(part.rows, part.specs[name]).any()
            ]  # fmt: skip
            if empty:
                raise ValueError(
                    f"{who}: both parts of a task need rows with a known target; found none in the "
                    f"{which} part of {count(len(empty), 'task')}: {first_few(empty)}. Leave such "
                    "tasks out, by only(names), or use another share or seed."
                )
        return parts[0], parts[1]


def _same_scale(
    one: Mapping[str, tuple[Tensor, Tensor]], other: Mapping[str, tuple[Tensor, Tensor]], name: str
) -> bool:
    if name not in one or name not in other:
        return (name in one) == (name in other)
    return all(map(torch.equal, one[name], other[name]))
