"""YAML from outside: of bounded size and depth, and without aliases.

An alias (``*name``) repeats a value. A few hundred bytes of aliases to aliases are billions of
values for whatever copies or prints them, so none is taken.
"""

from __future__ import annotations

from typing import Any

import yaml

from quickstudy.base.shown import told

MOST = 2**14  # characters; the parser takes a second for 30,000
DEEPEST = 50  # levels


def parse_yaml(text: str) -> Any:
    """The value of ``text``; ValueError where it is not YAML, or over a limit."""
    if len(text) > MOST:
        raise ValueError(f"it has over {MOST:,} characters")
    try:
        return yaml.load(text, _Loader)
    except Exception as error:  # constructors of numbers and dates raise anything
        raise ValueError(told(error)) from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without aliases, and with few levels."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ValueError(f"line {mark.line + 1}: aliases are not taken: write the value again")
        self._depth += 1
        if self._depth > DEEPEST:
            raise ValueError(f"lists or mappings are inside one another in over {DEEPEST} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node
