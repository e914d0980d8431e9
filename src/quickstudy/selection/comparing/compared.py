"""From entries to comparisons: one table for each protocol, with figures, ranks and pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quickstudy.base.shown import shown
from quickstudy.evaluation.paired import figures, mean_ranks, pairs
from quickstudy.evaluation.same_tasks import same_evaluations
from quickstudy.selection.comparing.comparison import LEARNER, Comparison, Entry


@dataclass(frozen=True)
class Comparisons:
    """The tables of a comparison: one for each protocol that its learners have.

    ``inductive``     learners whose predictions for a query do not depend on other queries; None
                      where there are none.
    ``transductive``  learners for which they do: an easier problem, so never in one ranking.
    """

    inductive: Comparison | None
    transductive: Comparison | None

    @property
    def tables(self) -> tuple[Comparison, ...]:
        """Those that there are, inductive first."""
        return tuple(each for each in (self.inductive, self.transductive) if each is not None)

    @property
    def main(self) -> Comparison:
        """The inductive one, where there is one."""
        return self.tables[0]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.tables))


def compared(
    entries: Sequence[Entry],
    matters: float,
    level: float = 0.05,
    settings: Mapping[str, Any] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Comparisons:
    """The tables of ``entries``: baselines stand in each, learners in that of their protocol.

    Learners that failed stand in the first table, since nothing is known of their protocol.

    ``level``  the part of the level 0.05 that this look at the results may use
               (:mod:`quickstudy.evaluation.looks`).

    A baseline that sees all queries, as with batch statistics, stands in the transductive table
    alone, and the inductive one says so.

    Raises ValueError for two entries of one name, and for results of different tasks, with both
    fingerprints.
    """
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"compare: each learner and baseline needs a name of its own; found {shown(twice[0])} "
            "twice. Rename one."
        )
    done = [entry for entry in entries if not entry.failed]
    tables: dict[bool, list[Entry]] = {
        transductive: [
            e for e in done if e.kind == LEARNER and e.evaluations[0].transductive == transductive
        ]
        for transductive in (False, True)
    }
    failed = [entry for entry in entries if entry.failed]
    if not tables[False] and not tables[True]:
        tables[False] = failed
    else:
        tables[not tables[False]] += failed
    baselines = [entry for entry in done if entry.kind != LEARNER]
    inductive = [entry for entry in baselines if not entry.evaluations[0].transductive]
    _refuse_other_tasks(done)

    def table(transductive: bool) -> Comparison | None:
        chosen = tables[transductive]
        if not chosen:
            return None
        hidden = [] if transductive else [e for e in baselines if e.evaluations[0].transductive]
        reason = "it is transductive, as with batch statistics, so it has no place in this table"
        return _table(
            [*chosen, *(baselines if transductive else inductive)], matters, level,
            "transductive" if transductive else "inductive", settings or {},
            {**(left_out or {}), **{entry.name: reason for entry in hidden}},
        )  # fmt: skip

    return Comparisons(table(False), table(True))


def _refuse_other_tasks(entries: Sequence[Entry]) -> None:
    for transductive in (False, True):
        same_evaluations(
            "compare",
            {
                entry.name: entry.evaluations
                for entry in entries
                if entry.evaluations[0].transductive == transductive
            },
        )
    fingerprints = {entry.evaluations[0].fingerprint: entry.name for entry in entries}
    if len(fingerprints) > 1:
        (one, first), (other, second) = list(fingerprints.items())[:2]
        raise ValueError(
            f"compare: learners are compared on the same tasks; found the fingerprint {one} for "
            f"{first} and {other} for {second}. Evaluate both with the same source and seed."
        )


def _table(
    entries: Sequence[Entry],
    matters: float,
    level: float,
    protocol: str,
    settings: Mapping[str, Any],
    left_out: Mapping[str, str],
) -> Comparison:
    ordered = sorted(entries, key=lambda entry: entry.kind != LEARNER)
    done = [entry for entry in ordered if not entry.failed]
    trainings = max((len(entry.evaluations) for entry in done), default=0)
    results = {entry.name: entry.repeated(trainings) for entry in done}
    ranks = dict(mean_ranks(results)) if done else {}
    failed = [entry for entry in ordered if entry.failed]
    last = len(done) + (len(failed) + 1) / 2  # they share the last places
    ranks |= {entry.name: last for entry in failed}
    return Comparison(
        tuple(ordered),
        pairs(results, matters, level=level) if len(results) > 1 else (),
        matters,
        protocol,
        {name: figures(each) for name, each in results.items()},
        ranks,
        settings,
        left_out,
    )
