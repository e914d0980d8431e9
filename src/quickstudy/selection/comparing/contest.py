"""Training contenders, and testing them on the same tasks until every pair is decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from quickstudy.base.errors import first_line
from quickstudy.core import Learner, TaskSource
from quickstudy.evaluation.baselines import NEAREST_MEAN
from quickstudy.evaluation.growing import Growing, GrowingBaselines
from quickstudy.evaluation.looks import looks, undecided
from quickstudy.evaluation.result import Result
from quickstudy.evaluation.results import Evaluation
from quickstudy.evaluation.timing import timed_on
from quickstudy.selection.comparing.compared import Comparisons, compared
from quickstudy.selection.comparing.comparison import BASELINE, Entry
from quickstudy.selection.comparing.contenders import Contender, Trained
from quickstudy.selection.comparing.display import Display

MOST_OVER_SHOTS = 200
"""Tasks for each other number of shots, at most."""

Keep = Callable[[str, int, Evaluation], object]
"""Called with name, seed and evaluation."""


def not_kept(name: str, seed: int, evaluation: Evaluation) -> None:
    """Keeps nothing."""


@dataclass(frozen=True)
class Contest:
    """What is compared, and how.

    ``contenders``  learners and baselines with a network.
    ``source``      test tasks with their inputs, for the baselines without a network.
    ``seeds``       number of trainings of each contender, from the seeds 0, 1, …
    ``tasks``       test tasks at most.
    ``matters``     the difference that matters, in the score's unit.
    ``test_seed``   of the test tasks.
    ``settings``    to be kept with the result.
    ``left_out``    why a baseline is not among the contenders, by its name.
    """

    contenders: Sequence[Contender]
    source: TaskSource
    seeds: int
    tasks: int
    matters: float
    test_seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def decide(contest: Contest, display: Display, keep: Keep = not_kept) -> Comparisons:
    """Train every contender, and test all on the same tasks, as many as are needed.

    Tasks are added in looks (:mod:`quickstudy.evaluation.looks`) until every pair is decided. A
    contender that raises an error, in training or in testing, becomes a row with this reason;
    errors of the system, such as a full disk, are raised.

    ``keep``  called with each evaluation after the last look.
    """
    runs = [_Run(contender, contest) for contender in contest.contenders]
    display.expect(sum(run.trainings for run in runs))
    for run in runs:
        run.guarded(run.train, display)
    guesses = GrowingBaselines(contest.source, contest.test_seed)
    looked = looks(contest.tasks)
    for look in looked:
        display.expect(sum(run.trainings for run in runs if not run.failure))
        for run in runs:
            run.guarded(run.test, look.tasks, display)
        found = _compared(contest, runs, guesses, look.tasks, look.level)
        if look is looked[-1] or not any(undecided(table.pairs) for table in found.tables):
            break
    for run in runs:
        run.keep(keep)
        run.guarded(run.test_over_shots, look.tasks)
    return _compared(contest, runs, guesses, look.tasks, look.level, as_in_file)


def as_in_file(entry: Entry) -> Entry:
    """The entry as a file keeps it, with 8 digits, so that what is read equals what was written."""
    return Entry.from_json(entry.to_json(), entry.times())


def _compared(
    contest: Contest,
    runs: Sequence[_Run],
    guesses: GrowingBaselines,
    tasks: int,
    level: float,
    rounded: Callable[[Entry], Entry] = lambda entry: entry,
) -> Comparisons:
    guessed = [
        Entry(short_name(name), name, BASELINE, (evaluation,))
        for name, evaluation in guesses.to(tasks).items()
    ]
    left_out = {**contest.left_out, **guesses.left_out}
    entries = [rounded(entry) for entry in [*(run.entry() for run in runs), *guessed]]
    return compared(entries, contest.matters, level, contest.settings, left_out)


def short_name(name: str) -> str:
    """A baseline's name as a name of an entry."""
    return {NEAREST_MEAN: "nearest_mean"}.get(name, name.replace(" ", "_"))


@dataclass
class _Run:
    """A contender with its trained learners, one for each seed, and their evaluations."""

    contender: Contender
    contest: Contest
    trained: list[Trained] = field(default_factory=list)
    growing: list[Growing] = field(default_factory=list)
    evaluations: tuple[Evaluation, ...] = ()
    over_shots: dict[int, Result] = field(default_factory=dict)
    failure: str = ""
    seed: int = 0  # of the training that is trained or tested now

    @property
    def trainings(self) -> int:
        """The number of seeds."""
        return self.contest.seeds if self.contender.seeded else 1

    def guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do ``work`` unless it failed before; an error of the learner becomes its failure."""
        if self.failure:
            return
        try:
            work(*arguments)
        except OSError:  # of the system, not of the learner
            raise
        except Exception as error:
            self.failure = f"seed {self.seed}: {first_line(error)}"
            self.trained, self.growing, self.evaluations = [], [], ()

    def train(self, display: Display) -> None:
        """Train from every seed."""
        for seed in range(self.trainings):
            self.seed = seed
            text = f"{self.contender.title}, seed {seed}"
            display.begin(text)
            found = self.contender.train(seed, partial(display.step, text))
            self.trained.append(found)
            self.growing.append(
                Growing(
                    found.learner, found.source, seed=self.contest.test_seed, raw=found.raw,
                    of=found.of,
                )
            )  # fmt: skip
            display.done()

    def test(self, tasks: int, display: Display) -> None:
        """Test every training on the first ``tasks`` tasks."""
        evaluations = []
        for seed, growing in enumerate(self.growing):
            self.seed = seed
            display.begin(f"{self.contender.title}, seed {seed}: {tasks:,} test tasks")
            evaluations.append(growing.to(tasks))
            refuse_undefined(evaluations[-1])
            display.done()
        self.evaluations = tuple(evaluations)

    def test_over_shots(self, tasks: int) -> None:
        """Test the first training with other numbers of shots."""
        trained, most = self.trained[0], min(tasks, MOST_OVER_SHOTS)
        for shots, (source, raw) in trained.over_shots.items():
            growing = Growing(
                trained.learner, source, seed=self.contest.test_seed, raw=raw, of=trained.of
            )
            self.over_shots[shots] = replace(growing.to(most).main, baselines=())

    def keep(self, keep: Keep) -> None:
        """Keep the evaluations, with the time of an adaptation to inputs as they come."""
        self.evaluations = tuple(
            _timed(trained, evaluation, self.contest.test_seed)
            for trained, evaluation in zip(self.trained, self.evaluations, strict=True)
        )
        for seed, evaluation in enumerate(self.evaluations):
            keep(self.contender.name, seed, evaluation)

    def entry(self) -> Entry:
        """As a row of the comparison."""
        facts = self.contender.name, self.contender.title, self.contender.kind
        if self.failure:
            return Entry(*facts, failure=self.failure)
        first = self.trained[0]
        return Entry(
            *facts,
            self.evaluations,
            tuple(each.seconds for each in self.trained),
            tuple(each.cpu_seconds for each in self.trained),
            *size_of(first.whole),
            first.steps,
            over_shots=self.over_shots,
        )


def _timed(trained: Trained, evaluation: Evaluation, seed: int) -> Evaluation:
    if trained.timed_on is None:
        return evaluation
    return timed_on(trained.timed_on, seed, trained.whole, evaluation)


def refuse_undefined(evaluation: Evaluation) -> None:
    """ValueError where a task has no score, so that pairs of scores would not be of one task."""
    for number, value in enumerate(evaluation.scores.tolist()):
        if value != value:
            raise ValueError(f"no {evaluation.metric} on test task {number}, which has no score")


def size_of(learner: Learner) -> tuple[int, int]:
    """How many numbers are in the parameters, and bytes in parameters and buffers."""
    held = [*learner.parameters(), *learner.buffers()]
    return (
        sum(parameter.numel() for parameter in learner.parameters()),
        sum(tensor.numel() * tensor.element_size() for tensor in held),
    )
