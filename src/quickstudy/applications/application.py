"""What every application gives, so that runs, adapting and predicting are written once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from quickstudy.core import Examples, Learner, Predictor, TaskSource, TaskSpec
from quickstudy.objectives import Objective


@dataclass(frozen=True)
class Prepared:
    """Everything that a run of an application needs, made from its options.

    ``learner``         with initial weights that depend on the seed of the run alone.
    ``train``           tasks to train on; None where nothing is trained over tasks.
    ``validation``      tasks by which the weights to keep are chosen; None keeps the last ones.
    ``test``            tasks of what was not trained on.
    ``about``           what is asked and what is new in the test, in one or two sentences.
    ``steps``, ``tasks_per_step``, ``rate``   of training, by default; ``rate`` is that of Adam, and
                        follows a cosine schedule.
    ``objective``       of training; by default the learner's own, or the query loss.
    ``names``           generator of a test task -> the names of its classes, labels or tokens.
    ``baselines``       learners that are scored on the same test tasks, by name; they are not
                        trained over tasks.
    ``test_tasks``, ``validation_tasks``   how many, by default.
    ``clip``            greatest norm of a step's gradient; None for no clipping.
    """

    learner: Learner
    train: TaskSource | None
    validation: TaskSource | None
    test: TaskSource
    about: str
    steps: int = 0
    tasks_per_step: int = 1
    rate: float = 1e-3
    objective: Objective | None = None
    names: Callable[[torch.Generator], Sequence[str]] | None = None
    baselines: Mapping[str, Learner] = field(default_factory=dict)
    test_tasks: int = 200
    validation_tasks: int = 50
    clip: float | None = None


@dataclass(frozen=True)
class Support:
    """What a user brings to ``quickstudy adapt``, as a learner reads it.

    ``info``  is kept in the predictor's file: names of classes, size of images, and whatever else
              :meth:`Application.inputs` and :meth:`Application.written` need. JSON values only.
    """

    examples: Examples
    spec: TaskSpec
    info: Mapping[str, Any] = field(default_factory=dict)


class Application(ABC):
    """One practical use of the learners: a frozen dataclass of its options, all with defaults.

    The options are the arguments that ``quickstudy run --set NAME=VALUE`` gives. A predictor's file
    names its application and the options, so that ``quickstudy predict`` makes the same one again.
    An option ``strict: bool`` says whether input that cannot be read raises an error; otherwise it
    is left out, and warned of as :class:`quickstudy.base.skipped.SkippedInput`.
    """

    name: ClassVar[str]
    """That of its module, card and docs page."""
    learners: ClassVar[tuple[str, ...]]
    """The names that ``--learner`` may give, the default first."""
    reads_files: ClassVar[bool] = True
    """Whether ``predict`` is given files. Otherwise :meth:`inputs` gets what stands in their place,
    such as the number of drawings to make, and must refuse whatever else it is given."""

    @abstractmethod
    def prepare(
        self, data: str, root: Path | None, learner: str, shots: int | None, seed: int
    ) -> Prepared:
        """The parts of a run.

        ``data``     one of the names in the card's ``data``, or "own" for the user's files.
        ``root``     the folder of data sets, or of the user's files.
        ``learner``  one of :attr:`learners`.
        ``shots``    support rows of each class, or as the application counts them; None for its
                     default.
        ``seed``     of the initial weights, and of whatever else is drawn once for the run.

        Called again with the same arguments it gives parts of the same bits, so that a run which
        was killed can be continued. Raises ValueError or OSError where that cannot be.
        """

    @abstractmethod
    def support(self, path: Path, learner: Learner) -> Support:
        """The user's labelled files at ``path``, in the form that ``learner`` was trained on.

        Raises ValueError or OSError, naming the file and line, where they cannot be read.
        """

    @abstractmethod
    def inputs(self, paths: Sequence[Path], predictor: Predictor) -> tuple[Any, list[str]]:
        """The user's unlabelled files as inputs (n, ...) of ``predictor``, and n names for them.

        For a folder, all files in it; for a file of lines, each line.
        """

    @abstractmethod
    def written(
        self, predictor: Predictor, inputs: Any, names: list[str], out: Path | None
    ) -> list[dict[str, Any]]:
        """What ``predictor`` says about each of the ``inputs``, as JSON values: n rows.

        ``out``  an existing folder for files such as masks and pictures, which the rows then name;
                 None writes none.

        Each row begins with ``name``; its other values are what the command line prints.
        """
