"""The report of a comparison: which learner is best, how sure that is, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quickstudy.base.words import count, first_few
from quickstudy.reports import comparison_plots, words
from quickstudy.reports.comparison_costs import COSTS, against_cost
from quickstudy.reports.comparison_matrix import matrix
from quickstudy.reports.comparison_rows import (
    OTHERS,
    THESE,
    UNKNOWN,
    labels_of,
    rows_of,
    score_of,
)
from quickstudy.reports.comparison_tables import (
    pairs_table,
    ranking_table,
    shots_table,
)
from quickstudy.reports.comparison_words import answer
from quickstudy.reports.document import document, header, reproduction
from quickstudy.reports.markup import Markup, join, tag
from quickstudy.reports.page_parts import figure, html_table, section

if TYPE_CHECKING:
    from quickstudy.evaluation.result import Result
    from quickstudy.selection.comparing.comparison import Comparison


MOST_CURVES = 8
"""Most learners whose score over shots is drawn; a table has all."""


@dataclass(frozen=True)
class ComparisonFacts:
    """What the page shows.

    ``tables``  one comparison for each protocol, see
                :attr:`quickstudy.selection.comparing.compared.Comparisons.tables`: learners of two
                protocols are never ranked together.

    Otherwise as :class:`~quickstudy.reports.page.RunFacts`.
    """

    title: str
    tables: Sequence[Comparison]
    subtitle: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    commit: str = ""
    created: str = ""


def comparison_page(facts: ComparisonFacts) -> str:
    """The report as one HTML document; the same facts give the same bytes.

    Without the extra ``compare`` it has no critical-difference diagram, and says so.

    Raises ValueError without a table.
    """
    if not facts.tables:
        raise ValueError(
            "comparison_page: needs at least 1 comparison; found none. Make one by qs.compare."
        )
    first, *others = facts.tables
    top = header(
        facts,
        "a comparison",
        _headline(first),
        tag("p", _protocol(first), class_="note protocol"),
        *(tag("p", _elsewhere(other), class_="note") for other in others),
        _key_facts(first),
    )
    further = [
        section(
            f"{other.protocol.capitalize()} learners", "", None,
            tag("p", _protocol(other), class_="note"), _headline(other),
        )
        for other in others
    ]  # fmt: skip
    return document(
        facts.title,
        top,
        *_sections(first, ""),
        *(part for opening, other in zip(further, others, strict=True)
          for part in (opening, *_sections(other, f"{other.protocol}-"))),
        reproduction(facts),
    )  # fmt: skip


def _protocol(comparison: Comparison) -> str:
    return words.TRANSDUCTIVE if comparison.protocol == "transductive" else words.INDUCTIVE


def _elsewhere(comparison: Comparison) -> str:
    """Which learners have a ranking of their own."""
    labels = labels_of(comparison.entries)
    names = first_few([labels[entry.name] for entry in comparison.learners])
    return f"With {comparison.protocol} results, in a ranking of their own below: {names}."


def _headline(comparison: Comparison) -> Markup:
    """The best score and the answer in a few sentences."""
    best, *sentences = answer(comparison)
    rows, score = rows_of(comparison), score_of(comparison)
    said = tag("div", tag("p", tag("b", best)), *(tag("p", each) for each in sentences),
               class_="answer")  # fmt: skip
    if not rows or math.isnan(rows[0].mean):
        return tag("div", said, class_="result")
    top = rows[0]
    doubtful = top.baseline or any(row.verdict == UNKNOWN for row in rows)
    number = tag("p", score.text(top.mean), class_="score doubtful" if doubtful else "score")
    return tag("div", number, said, class_="result")


def _key_facts(comparison: Comparison) -> Markup:
    settings, score = comparison.settings, score_of(comparison)
    pairs = {
        "Compared": f"{count(len(comparison.learners), 'learner')}, "
        f"{count(len(comparison.baselines), 'baseline')}",
        "Trainings of each": f"{comparison.trainings}",
        "Budget of a training": _budget(settings.get("budget")),
        "Not validated, last weights kept": _not_validated(comparison),
        "Test tasks": f"{comparison.tasks:,}",
        "Difference that matters": score.points(comparison.matters),
        "Fingerprint of the tasks": comparison.fingerprint,
    }
    cells = (tag("div", tag("dt", k), tag("dd", v)) for k, v in pairs.items() if v)
    return tag("dl", *cells, class_="facts")


def _not_validated(comparison: Comparison) -> str:
    """The learners for which validation would take too much of the minutes."""
    names = comparison.settings.get("not_validated")
    if not isinstance(names, list):
        return ""
    if {entry.name for entry in comparison.learners} <= set(names):
        return "all learners"
    labels = labels_of(comparison.entries)
    return ", ".join(labels.get(str(name), str(name)) for name in names)


def _budget(budget: Any) -> str:
    """Steps or minutes, as the settings of a comparison have them."""
    if not isinstance(budget, Mapping):
        return ""
    said = {"minutes": " min of CPU time", "steps": " steps"}
    return ", ".join(f"{value:,g}{said.get(unit, f' {unit}')}" for unit, value in budget.items())


def _sections(comparison: Comparison, prefix: str) -> Iterator[Markup | None]:
    """The sections of one comparison; ``prefix`` of the ids of its figures."""
    which = comparison.protocol if prefix else ""
    yield _ranking(comparison, prefix, which)
    if comparison.pairs:
        yield _pairs(comparison, prefix, which)
    yield _costs(comparison, prefix, which)
    yield _shots(comparison, prefix, which)
    if comparison.failures:
        yield _failures(comparison, which)


def _ranking(comparison: Comparison, prefix: str, which: str) -> Markup:
    rows = rows_of(comparison)
    note = (
        f"95% intervals. “{THESE}”: other test tasks of the same classes, for these trainings. "
        f"“{OTHERS}”: what another training, tested on other classes, would score. "
        "Mean ranks are over tasks, the best is 1. CPU time counts all cores."
    )
    why = dict.fromkeys(
        found.others_over for row in rows
        if row.others is None and (found := comparison.figures[row.name]).others_over
    )  # fmt: skip
    table = tag("div", html_table(ranking_table(comparison), "rows dense"), class_="scroll")
    reasons = [tag("p", f"“{OTHERS}” is not known: {each}.", class_="note remark") for each in why]
    left = [
        tag("p", f"No {name}: {reason}.", class_="note remark")
        for name, reason in comparison.left_out.items()
    ]
    return section("Ranking", which, note, table, *reasons, *left,
                   _score_figures(comparison, prefix))  # fmt: skip


def _score_figures(comparison: Comparison, prefix: str) -> Markup | None:
    """Scores with both intervals, and mean ranks."""
    rows, score = rows_of(comparison), score_of(comparison)
    found, missing = [], None
    if any(math.isfinite(row.mean) for row in rows):
        note = f"95% intervals: thick for {THESE}, thin for {OTHERS}, where that is known."
        found.append(figure(comparison_plots.scores(rows, score), f"{prefix}scores",
                            "Scores with both intervals", note))  # fmt: skip
    if sum(math.isfinite(row.rank) for row in rows) > 1 and comparison.pairs:
        p = {frozenset((pair.first, pair.second)): pair.p_holm for pair in comparison.pairs}
        try:
            drawing = comparison_plots.critical_difference(rows, p)
        except ImportError as error:
            missing = tag("p", f"No critical-difference diagram: {error}", class_="note remark")
        else:
            note = (
                "Mean rank over tasks, the best at the left. A bar joins those that Wilcoxon's "
                f"tests do not tell apart (p after Holm's correction above "
                f"{comparison_plots.SIGNIFICANT:g}); that is no proof that they are equivalent."
            )
            if comparison.failures:
                note += " Learners that failed are not drawn; they share the last places."
            found.append(figure(drawing, f"{prefix}ranks", "Critical differences of ranks", note))
    drawn = tag("div", *found, class_="figures") if found else None
    return join(drawn, missing)


def _pairs(comparison: Comparison, prefix: str, which: str) -> Markup:
    score = score_of(comparison)
    margin = score.points(comparison.matters)
    note = (
        "The row against the column: how much better the row is, on the same tasks. “better” and "
        f"“worse” are differences of at least {margin} which both intervals and Wilcoxon's test "
        "(Holm's correction for all pairs) show. “equivalent”: the intervals lie within "
        f"{margin}. “not known”: more tasks, trainings or classes are needed to tell."
    )
    table = tag("div", html_table(pairs_table(comparison)), class_="scroll")
    details = tag("details", tag("summary", f"All {count(len(comparison.pairs), 'pair')} with "
                                 "both intervals"), table)  # fmt: skip
    return section("Every pair", which, note, matrix(comparison), details)


def _costs(comparison: Comparison, prefix: str, which: str) -> Markup | None:
    rows, score = rows_of(comparison), score_of(comparison)
    found = []
    for place, cost in enumerate(COSTS):
        try:
            drawing = against_cost(rows, score, cost)
        except ValueError:  # fewer than two rows have it, or none costs anything
            continue
        title = f"Score against {cost.name}"
        found.append(figure(drawing, f"{prefix}cost-{place}", title, cost.note))
    if not found:
        return None
    note = (
        "Numbers are those of the ranking; dots are learners, squares are baselines. The line "
        "joins those that no other beats: none is as good at a lower cost, or better at the same. "
        "Baselines off the line are left out."
    )
    return section("Score against cost", which, note, tag("div", *found, class_="figures"))


def _shots(comparison: Comparison, prefix: str, which: str) -> Markup | None:
    rows, score = rows_of(comparison), score_of(comparison)
    curves: dict[str, Mapping[int, Result]] = {
        f"{row.number}  {row.label}": of
        for row in rows
        if len(of := comparison.entry(row.name).over_shots) > 1
    }
    if not curves:
        return None
    note = (
        "The learner of the first training, as it was trained, with other numbers of shots. 95% "
        "intervals over tasks."
    )
    if len(curves) > MOST_CURVES:
        note += f" The first {MOST_CURVES} are drawn."
    try:
        drawing = comparison_plots.over_shots(dict(list(curves.items())[:MOST_CURVES]), score)
    except ValueError:  # no two finite scores
        return None
    drawn = figure(drawing, f"{prefix}shots", "Score over shots", note)
    table = tag("div", html_table(shots_table(curves)), class_="scroll")
    return section("More or fewer shots", which, None, tag("div", drawn, class_="figures"), table)


def _failures(comparison: Comparison, which: str) -> Markup:
    labels = labels_of(comparison.entries)
    note = "They have no score. In mean ranks they count last on every task."
    lines = [
        {"learner": labels[entry.name], "reason": entry.failure} for entry in comparison.failures
    ]
    return section("Failed", which, note, tag("div", html_table(lines), class_="scroll"))
