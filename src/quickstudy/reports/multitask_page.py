"""The report of multi-task learning: learners, tasks by gain, and the relations of tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quickstudy.base.words import count, first_few
from quickstudy.reports import multitask_plots
from quickstudy.reports.document import document, header, reproduction
from quickstudy.reports.markup import Markup, join, tag
from quickstudy.reports.page_parts import figure, html_table, section
from quickstudy.reports.tables import markdown_table
from quickstudy.reports.words import INDUCTIVE, TRANSDUCTIVE

if TYPE_CHECKING:
    from quickstudy.evaluation.judgement import Judgement
    from quickstudy.relations.affinity import Affinity
    from quickstudy.relations.grouping import Grouping


@dataclass(frozen=True)
class MultiTaskFacts:
    """What the page shows.

    ``judgements``  of one or more learners on the same tasks, that of the page's learner first. One
                    with tuned fixed weights belongs among them.
    ``affinities``  measured relations of the tasks.
    ``grouping``    groups that follow from the first of them.

    Otherwise as :class:`~quickstudy.reports.page.RunFacts`.
    """

    title: str
    judgements: Sequence[Judgement]
    affinities: Sequence[Affinity] = ()
    grouping: Grouping | None = None
    subtitle: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    commit: str = ""
    created: str = ""


def multitask_page(facts: MultiTaskFacts) -> str:
    """The report as one HTML document; the same facts give the same bytes.

    Raises ValueError without a judgement.
    """
    if not facts.judgements:
        raise ValueError(
            "multitask_page: needs at least 1 judgement; found none. Make one by "
            "qs.judge_multitask."
        )
    first = facts.judgements[0]
    top = header(
        facts,
        "multi-task learning",
        _headline(first),
        tag("p", INDUCTIVE if first.protocol == "inductive" else TRANSDUCTIVE,
            class_="note protocol"),
    )  # fmt: skip
    some = len(facts.judgements) > 1 or first.pooled is not None
    several = _learners(facts.judgements) if some else None
    relations = relations_section(facts.affinities, facts.grouping) if facts.affinities else None
    return document(facts.title, top, several, tasks_section(first), relations, reproduction(facts))


def tasks_section(judgement: Judgement) -> Markup:
    """The section about the tasks: a table sorted by gain, and a figure of the gains."""
    note = (
        "Gains are relative to the single task's score; a gain is positive whether high or low "
        "scores are good. Intervals and tests are paired, over the query rows of a task, or over "
        "its tasks where it has several; p is after Holm's correction for all tasks."
    )
    drawn = None
    if any(not math.isnan(row.gain) for row in judgement.table):
        text = (
            f"95% intervals. The dashed line is Δm, the mean gain {judgement.figure}, with its "
            "interval. Intervals wider than the axis are cut off."
        )
        drawn = tag(
            "div",
            figure(multitask_plots.task_gains(judgement), "task-gains", "Gain of each task", text),
            class_="figures",
        )
    table = tag("div", _table(judgement), class_="scroll")
    return section("Tasks, beside learning each alone", "", note, table, drawn)


def relations_section(affinities: Sequence[Affinity], grouping: Grouping | None) -> Markup:
    """The section about relations: a heat map of each affinity, and groups to train together."""
    figures = []
    for place, affinity in enumerate(affinities):
        note = (
            f"Rows give, columns receive; the mean of {count(affinity.measured, 'measurement')}, "
            "in the order of clusters."
        )
        drawing = multitask_plots.affinity_map(affinity)
        title = affinity.what[:1].upper() + affinity.what[1:]
        figures.append(figure(drawing, f"affinity-{place}", title, note))
    groups = None
    if grouping is not None:
        lines = [
            tag("li", ", ".join(n for n in group if grouping.serves[n] == place)
                + _helped([n for n in group if grouping.serves[n] != place]))
            for place, group in enumerate(grouping.groups)
        ]  # fmt: skip
        how = "no other choice is better" if grouping.exact else "the best of the groups compared"
        groups = tag("div", tag("h3", f"Groups to train together ({how})"), tag("ol", *lines))
    note = "An affinity is what a task does for another while both are learnt: a hint, not a gain."
    return section("Relations of the tasks", "", note, tag("div", *figures, class_="figures"),
                   groups)  # fmt: skip


def judgements_table(judgements: Sequence[Judgement]) -> list[dict[str, object]]:
    """A row for each learner and for the pooled one, the greatest Δm first.

    For :func:`markdown_table`.

    Raises ValueError for learners that were judged on different tasks.
    """
    if len({each.fingerprint for each in judgements}) > 1:
        raise ValueError(
            "judgements_table: learners must be judged on the same tasks; found "
            f"{len({each.fingerprint for each in judgements})} fingerprints. Judge all on one "
            "train.tested_on(test)."
        )
    pooled = {each.pooled.delta_m: each.pooled for each in judgements if each.pooled is not None}
    ranked = sorted(
        [*judgements, *pooled.values()],
        key=lambda j: -j.delta_m if j.delta_m == j.delta_m else math.inf,
    )
    return [
        {
            "learner": each.name,
            "Δm": each.figure,
            **{f"mean {mean.score}": mean.figure("multi") for mean in each.means},
            "worst task": "–" if each.worst is None else (
                f"{each.worst.name} {each.worst.figure('gain')}"
            ),
            "gain": f"{len(each.gaining)} of {len(each.table)}",
            "hurt": f"{len(each.hurt)} of {len(each.table)}",
            "tuning": "not stated" if each.tried is None else (
                f"{each.tried[0]} (single {each.tried[1]})"
            ),
        }
        for each in ranked
    ]  # fmt: skip


def tasks_table(judgement: Judgement) -> list[dict[str, object]]:
    """A row for each task, for :func:`markdown_table`, the greatest gain first."""
    return [
        {
            "task": row.name,
            "score": row.score,
            judgement.name: row.figure("multi"),
            "single": row.figure("single"),
            "difference": row.figure("difference"),
            "gain": row.figure("gain"),
            "p (Holm)": "–" if math.isnan(row.p) else f"{row.p:.2g}",
            "over": f"{row.counted:,} {row.over}",
            "verdict": row.undefined or row.verdict,
        }
        for row in judgement.by_gain
    ]


def multitask_markdown(judgements: Sequence[Judgement]) -> str:
    """All learners in a table, the tasks of the first in another, and its advice."""
    first = judgements[0]
    notes = "\n".join(f"* {remark}" for remark in first.remarks)
    learners = markdown_table(judgements_table(judgements))
    tasks = markdown_table(tasks_table(first))
    return f"{learners}\n{first.name}:\n\n{tasks}\n{notes}\n\n**{first.advice}**\n"


def _headline(judgement: Judgement) -> Markup:
    shown = judgement.delta_m - judgement.half_width > 0
    mean, _, width = judgement.figure.partition(" ± ")
    number = tag(
        "p", mean, tag("small", f"± {width}"), class_="score" if shown else "score doubtful"
    )
    good = judgement.advice.startswith("Train together")
    advice = tag("b", judgement.advice, class_=None if good else "not-better")
    details = tag(
        "p",
        f"Δm of {judgement.name}: the mean gain over single tasks, "
        f"{count(len(judgement.table), 'task')}",
        tag("br"),
        advice,
    )
    remarks = tag("ul", *(tag("li", each) for each in judgement.remarks), class_="note")
    return join(tag("div", number, tag("div", details), class_="result"), remarks)


def _learners(judgements: Sequence[Judgement]) -> Markup:
    note = "On the same tasks, beside the same single-task scores."
    return section("Learners", "", note, tag("div", html_table(judgements_table(judgements)),
                                             class_="scroll"))  # fmt: skip


def _table(judgement: Judgement) -> Markup:
    return html_table(tasks_table(judgement))


def _helped(names: Sequence[str]) -> str:
    return f" (helped by {first_few(list(names))})" if names else ""
