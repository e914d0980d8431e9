"""Write the lists of all learners from their cards.

These are the table in the README, the index of the learners' pages, and the imports in the package
for type checkers and editors.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from quickstudy.learners.cards import FAMILIES, Card, cards

COMMAND = "python -m quickstudy.learners.listing"

IMPORTS, TABLE, INDEX = "src/quickstudy/__init__.py", "README.md", "docs/learners/README.md"

_START, _END = f"learners, written by `{COMMAND}`", "end of the learners"
_LINE_LENGTH = 100


def main() -> None:
    """Rewrite the lists of the checkout in the current directory, and print which have changed."""
    for path, text in listings(Path.cwd()).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path}: rewritten")


def listings(checkout: Path) -> dict[Path, str]:
    """The expected contents of the three files of a checkout, by path.

    Raises FileNotFoundError for a folder that is not a checkout of quickstudy, and ValueError for a
    file without the two comments around its list.
    """
    for name in (IMPORTS, TABLE):
        if not (checkout / name).is_file():
            raise FileNotFoundError(
                f"{COMMAND}: must run in a checkout of quickstudy; {checkout} has no {name}. "
                "Change to the folder of the checkout."
            )
    known = list(cards().values())
    return {
        checkout / IMPORTS: _between(checkout / IMPORTS, "# {}", imports(known)),
        checkout / TABLE: _between(checkout / TABLE, "<!-- {} -->", table(known)),
        checkout / INDEX: index(known),
    }


def imports(known: list[Card]) -> str:
    """The import of each class for type checkers, formatted as by ruff."""
    lines = ["if TYPE_CHECKING:"]
    by_module = sorted(known, key=lambda card: (card.home, card.class_name))
    for home, group in groupby(by_module, key=lambda card: card.home):
        for name in (card.class_name for card in group):
            line = f"    from {home} import {name} as {name}"
            if len(line) > _LINE_LENGTH:
                line = f"    from {home} import (\n        {name} as {name},\n    )"
            lines.append(line)
    return "\n".join(lines)


def table(known: list[Card]) -> str:
    """The README's table in Markdown."""
    lines = [
        "| name | paper | family | published inductively?¹ | learns |",
        "|---|---|---|---|---|",
    ]
    for card in known:
        inductive = card.published_inductively.replace("-", "–")
        lines.append(
            f"| [`{card.class_name}`](docs/learners/{card.module}.md) | {card.authors}, "
            f"{card.year} | {card.family} | {inductive} | {card.learns} |"
        )
    return "\n" + "\n".join(lines) + "\n"


def index(known: list[Card]) -> str:
    """The index of the learners' pages in Markdown."""
    lines = [f"<!-- {_START} -->", "", "# Learners"]
    for family in FAMILIES:
        lines += ["", f"## {family.capitalize()}", ""]
        lines += [
            f"* [{card.title}]({card.module}.md), `qs.{card.class_name}` ({card.authors}, "
            f"{card.year}): {card.learns}."
            for card in known
            if card.family == family
        ]
    return "\n".join(lines) + "\n"


def _between(path: Path, comment: str, text: str) -> str:
    """The content of the file, with ``text`` between its two comments."""
    start, end = comment.format(_START), comment.format(_END)
    before, found, rest = path.read_text(encoding="utf-8").partition(f"{start}\n")
    _, ended, after = rest.partition(f"{end}\n")
    if not found or not ended:
        raise ValueError(
            f"{path}: must have its list of learners between the lines {start!r} and {end!r}, "
            "which are missing. Restore them."
        )
    return f"{before}{start}\n{text}\n{end}\n{after}"


if __name__ == "__main__":
    main()
