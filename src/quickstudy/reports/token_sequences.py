"""True and predicted token sequences, with wrong tokens marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import islice
from typing import NamedTuple

from quickstudy.base.words import count
from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.view_types import TokensView

TASKS_DRAWN = 3
ROWS_DRAWN = 8
TOKENS_DRAWN = 80


def task_pictures(views: Sequence[TokensView]) -> Iterator[Markup]:
    """The first rows of the first tasks."""
    missed = tag("span", tag("i", class_="k-missed"), "true, but not predicted")
    wrong = tag("span", tag("i", class_="k-wrong"), "✗ predicted, but not true")
    yield tag("p", wrong, None if views[0].by_position else missed, class_="note key")
    for index, view in enumerate(views[:TASKS_DRAWN]):
        pairs = [_pair(view, row) for row in range(len(view.query_targets))]
        right = sum(pair.all_right for pair in pairs)
        note = f"Right throughout: {right} of {count(len(pairs), 'row')}."
        if len(pairs) > ROWS_DRAWN:
            note += f" Not shown: {count(len(pairs) - ROWS_DRAWN, 'more row')}."
        content = (
            _places(view, p) if view.by_position else _lines(view, p) for p in pairs[:ROWS_DRAWN]
        )
        yield tag(
            "section",
            tag("h3", f"Task {index + 1}"),
            tag("p", note, class_="note"),
            tag("ol", *content, class_="sequences"),
            class_="episode",
        )


class _Pair(NamedTuple):
    """True and predicted tokens, -1 where unknown, and which of each do not match."""

    true: list[int]
    predicted: list[int]
    missed: list[bool]
    wrong: list[bool]

    @property
    def all_right(self) -> bool:
        return not any(self.missed) and not any(self.wrong)


def _pair(view: TokensView, row: int) -> _Pair:
    """Compare one row: tags position by position, generated rows after alignment.

    Alignment keeps one additional token from making all tokens after it wrong.
    """
    true, predicted = (
        [int(token) for token in tokens]
        for tokens in (view.query_targets[row], view.predicted[row])
    )
    if view.by_position:
        pairs = list(zip(true, predicted, strict=True))
        length = 1 + max((i for i, pair in enumerate(pairs) if max(pair) >= 0), default=-1)
        true, predicted = true[:length], predicted[:length]
        wrong = [t != p for t, p in pairs[:length]]
        return _Pair(true, predicted, wrong, wrong)
    true, predicted = ([t for t in tokens if t >= 0] for tokens in (true, predicted))
    blocks = SequenceMatcher(None, true, predicted, autojunk=False).get_matching_blocks()
    kept = {(b.a + i, b.b + i) for b in blocks for i in range(b.size)}
    of_true, of_predicted = ({pair[side] for pair in kept} for side in (0, 1))
    return _Pair(
        true,
        predicted,
        [i not in of_true for i in range(len(true))],
        [i not in of_predicted for i in range(len(predicted))],
    )


def _places(view: TokensView, pair: _Pair) -> Markup:
    """A column for each position: the true tag above, the predicted one below."""
    places = zip(pair.true, pair.predicted, pair.wrong, strict=True)
    columns = (
        tag("span", _token(view, true), _token(view, predicted, "wrong" if wrong else None))
        for true, predicted, wrong in islice(places, TOKENS_DRAWN)
    )
    more = tag("span", "…") if len(pair.true) > TOKENS_DRAWN else None
    return tag("li", tag("div", *columns, more, class_="places"))


def _lines(view: TokensView, pair: _Pair) -> Markup:
    """The true row, and the predicted one below it."""
    return tag(
        "li",
        _line("true", view, pair.true, pair.missed, "missed"),
        _line("predicted", view, pair.predicted, pair.wrong, "wrong"),
    )


def _line(
    what: str, view: TokensView, tokens: Sequence[int], marked: Sequence[bool], kind: str
) -> Markup:
    shown = [
        _token(view, token, kind if mark else None)
        for token, mark in islice(zip(tokens, marked, strict=True), TOKENS_DRAWN)
    ]
    more = tag("span", "…") if len(tokens) > TOKENS_DRAWN else None
    return tag("div", tag("b", what), tag("p", *shown, more), class_="line")


def _token(view: TokensView, token: int, kind: str | None = None) -> Markup:
    if token < 0:
        return tag("span", "✗ –" if kind == "wrong" else "·", class_=kind, title="none")
    return tag("span", f"{'✗ ' if kind == 'wrong' else ''}{view.names[token]}", class_=kind)
