"""What must be read beside a result: baselines on the same tasks, other classes, single tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from quickstudy.evaluation import wording
from quickstudy.reports.markup import Markup, tag

if TYPE_CHECKING:
    from quickstudy.evaluation.compared import Compared
    from quickstudy.evaluation.results import Evaluation


def comparisons(e: Evaluation) -> Iterator[Markup]:
    """For the first score of each kind of task, a table of baselines and what to know of it."""
    rows = [row for row in e.rows if row.first]
    for row in rows:
        of_which = f"{row.name}: " if len(rows) > 1 and row.name else ""
        yield from baselines_table(f"{of_which}{row.score}", row.baselines)
        for remark in row.remarks[len(row.baselines) :]:
            yield tag("p", f"{of_which}{remark[:1].upper()}{remark[1:]}.", class_="note remark")
    for name, why in e.left_out.items():
        yield tag("p", f"Not computed: {name}, because {why}.", class_="note remark")


def baselines_table(score: str, baselines: Sequence[Compared]) -> Iterator[Markup]:
    """A title, and a table of the baselines' scores beside the learner's; nothing for none."""
    if not baselines:
        return
    title = f"{score} beside baselines, on the same tasks"
    heads = ("baseline", score, "the learner is", "by (95% interval)")
    yield tag("h3", f"{title[:1].upper()}{title[1:]}", class_="beside")
    table = tag(
        "table",
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *(_line(baseline) for baseline in baselines)),
        class_="rows baselines",
    )
    yield tag("div", table, class_="scroll")


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
