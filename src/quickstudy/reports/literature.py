"""A result on published test tasks beside the errors that were published for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from quickstudy.base.words import count

if TYPE_CHECKING:
    from rich.table import Table

    from quickstudy.datasets.registry import PublishedError
    from quickstudy.evaluation.results import Evaluation


def beside_published(
    evaluation: Evaluation, published: Sequence[PublishedError], name: str
) -> list[dict[str, object]]:
    """Rows of a table of errors in %, the largest first; ``name`` is that of the evaluated method.

    For answers whose first score is accuracy. They fit :func:`~.tables.markdown_table`.
    """
    error = 100 * (1 - evaluation.mean)
    here = f"{count(evaluation.tasks, 'task')}, {evaluation.setting}"
    figure = f"{error:.1f} ± {100 * evaluation.half_width:.1f}"
    rows = [(error, name, figure, here)]
    rows += [(each.percent, each.method, f"{each.percent:.1f}", each.reference)
             for each in published]  # fmt: skip
    return [
        {"method": method, "error in %": figure, "source": source}
        for _, method, figure, source in sorted(rows, key=lambda row: -row[0])
    ]


def literature_table(
    evaluation: Evaluation, published: Sequence[PublishedError], name: str
) -> Table:
    """:func:`beside_published` for the terminal; the evaluated method is bold."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    table.add_column("error in %", justify="right")
    table.add_column("source", style="dim")
    for row in beside_published(evaluation, published, name):
        style = "bold" if row["method"] == name else ""
        table.add_row(*(Text(str(cell), style=style) for cell in row.values()))
    return table
