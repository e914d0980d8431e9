"""How steps are computed: the user's request (Compute) and the choice made for it (Plan)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from quickstudy.base.shown import shown
from quickstudy.base.words import count

if TYPE_CHECKING:  # or the command line would import torch to refuse a wrong option
    from quickstudy.core import Answer

Engine = Literal["auto", "vmap", "loop"]


Kind = tuple["str | Answer", Any]
"""A kind of task, see :func:`quickstudy.compute.prepare.kind_of`."""


class Mapping(Enum):
    """How a stack of tasks is computed; see :mod:`quickstudy.compute.engine`."""

    TASK_AXIS = "task_axis"
    VMAP = "vmap"
    FEATURES = "features"
    VMAP_GRAD = "vmap_grad"
    LOOP = "loop"


@dataclass(frozen=True)
class Compute:
    """How the user wants steps to be computed; results are the same up to rounding.

    ``engine``   "auto" uses the fastest mapping whose gradient, for this learner, was checked to
                 equal the loop's; "vmap" raises an error where vmap's does not; "loop" is always
                 correct.
    ``memory``   bytes for the graphs of the tasks computed at once, 1 or more; by default half of
                 the free memory.
    ``workers``  number of threads of a loop; see :mod:`quickstudy.compute.loop` for what they
                 require of learner and objective.
    ``compile``  compile mapped tasks where the gradient was checked to be the same; see
                 :mod:`quickstudy.compute.compiled` for what it requires of learner and objective.

    Raises ValueError for values out of range, and for a loop that is to be compiled.
    """

    engine: Engine = "auto"
    memory: int | None = None
    workers: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ("auto", "vmap", "loop"):
            raise ValueError(
                f"Compute: engine must be 'auto', 'vmap' or 'loop'; found {shown(self.engine)}. "
                "Leave it out for 'auto'."
            )
        if self.memory is not None and self.memory < 1:
            raise ValueError(
                f"Compute: memory must be 1 or more bytes; found {self.memory}. "
                "Leave it out for half of the free memory."
            )
        if self.workers < 1:
            raise ValueError(
                f"Compute: workers must be 1 or more threads; found {self.workers}. "
                "Leave it out for one."
            )
        if self.compile and self.engine == "loop":
            raise ValueError(
                "Compute: a loop is not compiled; found compile=True with engine='loop'. "
                "Leave one of them out."
            )


@dataclass(frozen=True)
class Plan:
    """How a step is computed: the mapping, why it was chosen, and how many tasks at a time.

    ``chunk``     number of tasks computed at once.
    ``workers``   number of threads of a loop.
    ``compiled``  whether mapped tasks run as compiled code (:mod:`quickstudy.compute.compiled`).
    ``bytes``     upper bound on the graph of a task; 0 if it was not counted.
    ``parts``     in how many parts the tasks' gradients are computed, one of which is in memory;
                  only for a combiner of gradients (:mod:`quickstudy.compute.jacobian`).
    ``kinds``     kinds of task (:func:`quickstudy.compute.prepare.kind_of`) for which the mapping
                  was checked against the loop; others are looped. None for all kinds.
    """

    mapping: Mapping
    why: str
    chunk: int
    workers: int = 1
    compiled: bool = False
    bytes: int = field(default=0, compare=False)
    kinds: tuple[Kind, ...] | None = None
    parts: int = 1

    @property
    def at_once(self) -> int:
        """How many tasks' graphs are in memory at the same time."""
        return self.workers if self.mapping is Mapping.LOOP else self.chunk

    def to_json(self) -> dict[str, str | int]:
        """As JSON, for a checkpoint, without ``kinds``, which may hold functions."""
        names = [field.name for field in fields(self) if field.name != "kinds"]
        return {name: getattr(self, name) for name in names} | {"mapping": self.mapping.value}

    @staticmethod
    def from_json(values: Any, tasks: int) -> Plan:
        """What :meth:`to_json` gave, correct for no kind until ``kinds`` are given again.

        Raises ValueError for values that no plan for steps of ``tasks`` tasks has.
        """
        plan = Plan(**(dict(values) | {"mapping": Mapping(values["mapping"]), "kinds": ()}))
        counts = ((plan.chunk, 1, tasks), (plan.workers, 1, tasks), (plan.bytes, 0, 2**63),
                  (plan.parts, 1, 2**16))  # fmt: skip
        if not (
            all(type(count) is int and least <= count <= most for count, least, most in counts)
            and type(plan.why) is str
            and type(plan.compiled) is bool
        ):
            raise ValueError(f"its plan is {values}")
        return plan

    def __str__(self) -> str:
        how = f"{self.mapping.value}, compiled" if self.compiled else self.mapping.value
        tasks = count(self.at_once, "task")
        return f"{how}, {tasks} at a time ({self.why})"
