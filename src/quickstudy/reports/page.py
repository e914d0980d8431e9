"""The report of a run: one self-contained HTML page.

It needs no network and no script, follows the reader's light or dark theme, and can be printed.
Every text from outside (class names are folder names) is escaped, and a content policy in the page
forbids scripts and requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quickstudy.evaluation import wording
from quickstudy.reports import insight_sections, sections, words
from quickstudy.reports.baseline_tables import comparisons
from quickstudy.reports.document import document, header, reproduction
from quickstudy.reports.insights import Insights
from quickstudy.reports.markup import Markup, join, tag
from quickstudy.reports.page_parts import section
from quickstudy.reports.view_types import View

if TYPE_CHECKING:
    from quickstudy.evaluation.result import Result
    from quickstudy.evaluation.results import Evaluation


@dataclass(frozen=True)
class RunFacts:
    """Everything that the report of a run shows.

    ``title``       such as "Prototypical on glyphs".
    ``subtitle``    such as "5-way 1-shot, 15 queries per class".
    ``evaluation``  the result on test tasks.
    ``metrics``     rows of the training log, see :func:`quickstudy.training.log.read_metrics`.
    ``views``       test tasks in the order in which they were sampled, not selected; about 20 are
                    enough to show calibration. Only the first few of each kind have pictures.
    ``chosen``      what was compared before the run, and why its learner was taken; one sentence
                    each, of the learner that was taken first.
    ``insights``    how the learner adapted to the first of these tasks; None to leave it out.
    ``config``      the whole configuration, any JSON.
    ``versions``    versions of programs by name.
    ``command``     the command that started the run.
    ``commit``      the commit of the code, "" where unknown.
    ``created``     date and time as text, "" to leave it out (the page is then a pure function
                    of the results).
    """

    title: str
    evaluation: Evaluation
    metrics: Sequence[Mapping[str, float]] = ()
    views: Sequence[View] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    commit: str = ""
    subtitle: str = ""
    created: str = ""
    insights: Insights | None = None
    chosen: Sequence[str] = ()


def page(facts: RunFacts) -> str:
    """The report as one HTML document; the same facts give the same bytes."""
    return document(
        facts.title,
        _header(facts),
        _chosen(facts.chosen) if facts.chosen else None,
        sections.training(facts.evaluation, facts.metrics),
        *sections.of_tasks(facts.views),
        insight_sections.insights(facts.insights) if facts.insights else None,
        reproduction(facts),
    )


def _header(facts: RunFacts) -> Markup:
    e = facts.evaluation
    protocol = words.TRANSDUCTIVE if e.transductive else words.INDUCTIVE
    return header(
        facts,
        "a run",
        _headline(e.main, e.setting, protocol) if e.of_one_kind else None,
        _rows(e) if len(e.rows) > 1 else None,
        *comparisons(e),
        tag("p", protocol, class_="note protocol"),
        *(tag("p", words.pretrained(each), class_="note protocol") for each in e.weights),
        _key_facts(e),
    )


def _chosen(sentences: Sequence[str]) -> Markup:
    """What was compared before the run, and why its learner was taken."""
    note = "Compared on validation tasks, before the test: scores with their 95% intervals."
    *compared, why = sentences
    found = tag("ol", *(tag("li", each) for each in compared)) if compared else None
    return section(
        "The choice of the learner", "", note if compared else None, found, tag("p", why)
    )


def _headline(row: Result, protocol: str, explanation: str) -> Markup:
    """The headline figure: the first score, where all tasks are of one kind."""
    low, high = row.mean - row.half_width, row.mean + row.half_width
    if row.unit == "%":
        low, high = max(low, 0.0), min(high, 1.0)
    figure = tag(
        "p",
        wording.score(row.mean, row.unit),
        tag("small", f"± {wording.half_width(row.half_width, row.unit)}"),
        class_="score doubtful" if row.better is False else "score",
    )
    interval = f"{wording.score(low, row.unit)} to {wording.score(high, row.unit)}"
    better = "" if row.higher_is_better else "lower is better · "
    over = "pooled" if row.pooled else "the mean"
    details = tag(
        "p",
        f"{row.score}, {over} over {_tasks(row)}",
        tag("br"),
        f"{better}95% interval {interval} · ",
        tag("abbr", protocol, title=explanation),
    )
    failed = [baseline.claim for baseline in row.baselines if baseline.verdict != "better"]
    verdict = tag("p", f"The learner is {'; '.join(failed)}.", class_="not-better")
    return tag("div", figure, tag("div", details, verdict if failed else None), class_="result")


def _rows(e: Evaluation) -> Markup:
    """A table of every score of every kind of task, without averages over kinds."""
    named = any(row.name for row in e.rows)
    heads = (*(("tasks of",) if named else ()), "score", "result, 95% interval", "over", "")
    lines = (
        tag(
            "tr",
            tag("th", row.name, scope="row") if named else None,
            tag("td", row.score),
            tag("td", tag("b", row.figure)),
            tag("td", _tasks(row)),
            tag("td", _about(row)),
        )
        for row in e.rows
    )
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *lines),
        class_="rows",
    )
    note = None
    if not e.of_one_kind:
        text = "Each kind of task has its own result: an average over kinds would mean nothing."
        note = tag("p", text, class_="note")
    return join(tag("div", table, class_="scroll"), note)


def _tasks(row: Result) -> str:
    of = "" if row.scored == row.tasks else f"{row.scored:,} of "
    return f"{of}{row.tasks:,} test tasks"


def _about(row: Result) -> str:
    kinds = ("pooled",) if row.pooled else ()
    return ", ".join((*kinds, *(() if row.higher_is_better else ("lower is better",))))


def _key_facts(e: Evaluation) -> Markup:
    pairs = {
        "Test tasks": f"{e.tasks:,}",
        "Normalisation": e.norm,
        "Time per adaptation": words.duration(e.seconds_per_adaptation),
        "Calibration error": (
            None if e.calibration_error is None else f"{100 * e.calibration_error:.1f}%"
        ),
        "Seed of the tasks": str(e.seed),
        "Fingerprint of the tasks": e.fingerprint,
    }
    cells = (
        tag("div", tag("dt", name), tag("dd", value))
        for name, value in pairs.items()
        if value is not None
    )
    return tag("dl", *cells, class_="facts")
