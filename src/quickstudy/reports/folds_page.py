"""The report of a cross-validation over classes: its result, and a line for each fold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from quickstudy.base.words import count
from quickstudy.evaluation import wording
from quickstudy.reports.baseline_tables import baselines_table
from quickstudy.reports.document import document, header, reproduction
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.page_parts import section
from quickstudy.reports.words import pretrained

if TYPE_CHECKING:
    from quickstudy.evaluation.folds import CrossValidation


@dataclass(frozen=True)
class FoldsFacts:
    """What the page shows; ``result``, and otherwise as :class:`~quickstudy.reports.page.RunFacts`.

    ``folder``  of the run, as seen from the page, which has links to ``fold-1/report.html`` and so
                on in it.
    """

    title: str
    result: CrossValidation
    subtitle: str = ""
    folder: str = "."
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    commit: str = ""
    created: str = ""


def folds_page(facts: FoldsFacts) -> str:
    """The report as one HTML document; the same facts give the same bytes."""
    result = facts.result
    top = header(
        facts,
        "a cross-validation",
        _headline(result),
        *baselines_table(result.score, result.baselines),
        tag("p", result.explanation, class_="note protocol"),
        *(
            tag("p", pretrained(each), class_="note protocol")
            for each in result.folds[0].evaluation.weights
        ),
    )
    note = "Each interval is over the test tasks of its fold, drawn from the same few classes."
    folds = section("Folds", "", note, tag("div", _table(result, facts.folder), class_="scroll"))
    return document(facts.title, top, folds, reproduction(facts))


def _headline(result: CrossValidation) -> Markup:
    figure = tag(
        "p",
        wording.score(result.mean, result.unit),
        tag("small", f"± {wording.half_width(result.half_width, result.unit)}"),
        class_="score doubtful" if result.better is False else "score",
    )
    details = tag(
        "p",
        f"{result.score}, the mean over {count(len(result.folds), 'fold')}, with its 95% interval",
        tag("br"),
        f"the folds: {result.range}",
    )
    return tag("div", figure, tag("div", details), class_="result")


def _table(result: CrossValidation, folder: str) -> Markup:
    heads = ("fold", "test classes", result.score, "over", "protocol")
    top = "" if folder == "." else f"{quote(folder)}/"
    lines = (
        tag(
            "tr",
            tag("th", tag("a", f"{index}", href=f"{top}fold-{index}/report.html"), scope="row"),
            tag("td", ", ".join(fold.classes)),
            tag("td", tag("b", fold.evaluation.main.figure)),
            tag("td", fold.evaluation.main.counted),
            tag("td", fold.evaluation.setting),
        )
        for index, fold in enumerate(result.folds, 1)
    )
    return tag(
        "table",
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *lines),
        class_="rows",
    )
