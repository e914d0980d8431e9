"""What must be read beside a result: baselines on the same tasks, other classes, single tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quickstudy.evaluation import wording
from quickstudy.reports.markup import Markup, tag

if TYPE_CHECKING:
    from quickstudy.evaluation.compared import Compared
    from quickstudy.evaluation.result import Result
    from quickstudy.evaluation.results import Evaluation


def comparisons(e: Evaluation) -> Iterator[Markup]:
    """For the first score of each kind of task, a table of baselines and what to know of it."""
    rows = [row for row in e.rows if row.first]
    for row in rows:
        of_which = f"{row.name}: " if len(rows) > 1 and row.name else ""
        if row.baselines:
            title = f"{of_which}{row.score} beside baselines, on the same tasks"
            yield tag("h3", f"{title[:1].upper()}{title[1:]}", class_="beside")
            yield tag("div", _table(row), class_="scroll")
        for remark in row.remarks[len(row.baselines) :]:
            yield tag("p", f"{of_which}{remark[:1].upper()}{remark[1:]}.", class_="note remark")
    for name, why in e.left_out.items():
        yield tag("p", f"Not computed: {name}, because {why}.", class_="note remark")


def _table(row: Result) -> Markup:
    heads = ("baseline", row.score, "the learner is", "by (95% interval)")
    return tag(
        "table",
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *(_line(baseline) for baseline in row.baselines)),
        class_="rows baselines",
    )


def _line(baseline: Compared) -> Markup:
    kind = None if baseline.verdict == "better" else "not-better"
    inside = "; the interval of the result contains it" if baseline.in_interval else ""
    return tag(
        "tr",
        tag("th", baseline.name, scope="row"),
        tag("td", wording.score(baseline.mean, baseline.unit)),
        tag("td", tag("b", baseline.verdict, class_=kind), inside),
        tag("td", baseline.by),
    )
