"""Token sequences, true and answered, with what is wrong marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from quickstudy.reports.markup import Markup, tag
from quickstudy.reports.view_types import Array, TokensView

TASKS_DRAWN = 3
ROWS_DRAWN = 8
TOKENS_DRAWN = 80


def drawn_tasks(views: Sequence[TokensView]) -> Iterator[Markup]:
    """The first rows of the first tasks."""
    key = (
        tag("span", tag("i", class_="k-wrong"), "✗ wrong"),
        tag(
            "span", tag("i", class_="k-missed"), "missed" if not views[0].by_place else "to be said"
        ),
    )
    yield tag("p", *key, class_="note key")
    for index, view in enumerate(views[:TASKS_DRAWN]):
        shown = min(ROWS_DRAWN, len(view.query_targets))
        right = sum(_all_right(view, row) for row in range(len(view.query_targets)))
        note = f"{right} of {len(view.query_targets)} rows are right throughout."
        if shown < len(view.query_targets):
            note += f" Not shown: {len(view.query_targets) - shown} more rows."
        rows = (_pair(view, row) for row in range(shown))
        yield tag(
            "section",
            tag("h3", f"Task {index + 1}"),
            tag("p", note, class_="note"),
            tag("ol", *rows, class_="sequences"),
            class_="episode",
        )


def _all_right(view: TokensView, row: int) -> bool:
    true, answered = _wrong(view, row)
    return not any(true) and not any(answered)


def _pair(view: TokensView, row: int) -> Markup:
    wrong_true, wrong_answered = _wrong(view, row)
    true = _shown(view, view.query_targets[row])
    answered = _shown(view, view.predicted[row])
    return tag(
        "li",
        _line("true", view, true, wrong_true, "missed"),
        _line("answered", view, answered, wrong_answered, "wrong"),
    )


def _line(what: str, view: TokensView, tokens: list[int], marked: list[bool], kind: str) -> Markup:
    def one(token: int, mark: bool) -> Markup:
        if token < 0:
            return tag("span", "·", title="unknown")
        name = view.names[token]
        cross = "✗ " if mark and kind == "wrong" else ""
        return tag("span", f"{cross}{name}", class_=kind if mark else None)

    said = [one(*each) for each in list(zip(tokens, marked, strict=True))[:TOKENS_DRAWN]]
    more = tag("span", "…") if len(tokens) > TOKENS_DRAWN else None
    return tag("div", tag("b", what), tag("p", *said, more))


def _shown(view: TokensView, row: Array) -> list[int]:
    """The tokens of a row: places up to the last known one, or the known ones alone."""
    tokens = [int(token) for token in row]
    if not view.by_place:
        return [token for token in tokens if token >= 0]
    while tokens and tokens[-1] < 0:
        tokens.pop()
    return tokens


def _wrong(view: TokensView, row: int) -> tuple[list[bool], list[bool]]:
    """Which true tokens were not answered, and which answered ones are not true.

    Tags answer for their place. Rows that are written are aligned first: one token too many must
    not make all after it wrong.
    """
    true = _shown(view, view.query_targets[row])
    answered = _shown(view, view.predicted[row])
    if view.by_place:
        pairs = dict(enumerate(true))
        wrong = [pairs.get(i, -1) not in (-1, token) for i, token in enumerate(answered)]
        missed = [
            token >= 0 and (i >= len(answered) or answered[i] != token)
            for i, token in enumerate(true)
        ]
        return missed, wrong
    kept = SequenceMatcher(None, true, answered, autojunk=False).get_matching_blocks()
    of_true = {block.a + i for block in kept for i in range(block.size)}
    of_answered = {block.b + i for block in kept for i in range(block.size)}
    return (
        [i not in of_true for i in range(len(true))],
        [i not in of_answered for i in range(len(answered))],
    )
