"""Write the list of all applications in ``docs/applications/index.md`` from their cards."""

from __future__ import annotations

from pathlib import Path

from quickstudy.applications.registry import CARDS, Card

COMMAND = "python -m quickstudy.applications.listing"
INDEX = "docs/applications/index.md"

_START, _END = f"<!-- applications, written by `{COMMAND}` -->", "<!-- end of the applications -->"


def main() -> None:
    """Rewrite the list of the checkout in the current directory, and say whether it has changed."""
    path, text = Path.cwd() / INDEX, listed(Path.cwd())
    if path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(f"{path}: rewritten")


def listed(checkout: Path) -> str:
    """The expected content of the page.

    Raises FileNotFoundError for a folder that is not a checkout of quickstudy, and ValueError for a
    page without the two comments around its list.
    """
    path = checkout / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{COMMAND}: must run in a checkout of quickstudy; {checkout} has no {INDEX}. Change "
            "to the folder of the checkout."
        )
    before, found, rest = path.read_text(encoding="utf-8").partition(f"{_START}\n")
    _, ended, after = rest.partition(f"{_END}\n")
    if not found or not ended:
        raise ValueError(
            f"{path}: must have its list between the lines {_START!r} and {_END!r}, which are "
            "missing. Restore them."
        )
    return f"{before}{_START}\n\n{table(list(CARDS.values()))}\n{_END}\n{after}"


def table(known: list[Card]) -> str:
    """The table in Markdown."""
    lines = ["| application | command | you bring | you get |", "|---|---|---|---|"]
    for card in known:
        own = [f"`quickstudy run --data {card.name} --root …`"] if card.own else []
        commands = [*(f"`quickstudy run --data {name}`" for name in card.data), *own]
        lines.append(
            f"| [{card.title}]({card.name}.md) | {'<br>'.join(commands)} | {_phrase(card.brings)} "
            f"| {_phrase(card.gives)} |"
        )
    return "\n".join(lines) + "\n"


def _phrase(sentence: str) -> str:
    """A sentence of a card as the content of a cell."""
    text = sentence.strip().removesuffix(".").replace("|", "\\|")
    return text[:1].lower() + text[1:]


if __name__ == "__main__":
    main()
