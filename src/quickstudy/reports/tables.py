"""Tables for the terminal (rich) and for Markdown files; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from quickstudy.base.words import count
from quickstudy.reports.words import duration, visible

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from quickstudy.evaluation.confusion import Confusion
    from quickstudy.evaluation.folds import CrossValidation
    from quickstudy.evaluation.result import Result
    from quickstudy.evaluation.results import Evaluation


def evaluation_table(evaluation: Evaluation, title: str = "") -> Table:
    """An evaluation with everything that must be reported with it, one fact per line.

    Every score of every kind of task has a line; the first score of each kind is bold.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    e = evaluation
    error = "–" if e.calibration_error is None else f"{e.calibration_error:.3f}"
    facts = [
        *(line for row in e.rows for line in _lines(row)),
        *((name, f"not computed: {why}", False) for name, why in e.left_out.items()),
        ("protocol", e.setting, False),
        *(("pretrained", sentence, False) for sentence in e.weights),
        ("tasks", f"{e.tasks:,}", False),
        ("calibration error", error, False),
        ("time per adaptation", duration(e.seconds_per_adaptation), False),
        ("normalisation", e.norm, False),
        ("seed", str(e.seed), False),
        ("fingerprint of tasks", e.fingerprint, False),
    ]
    table = Table(
        title=Text(visible(title)) if title else None,
        box=box.SIMPLE_HEAD,
        show_header=False,
        title_justify="left",
    )
    table.add_column(style="dim")
    table.add_column()
    for name, value, bold in facts:
        table.add_row(Text(visible(name)), Text(visible(value), style="bold" if bold else ""))
    return table


def result_table(result: Evaluation | CrossValidation, title: str = "") -> Table | Group:
    """The table of an evaluation, or of a cross-validation."""
    from quickstudy.evaluation.folds import CrossValidation

    if isinstance(result, CrossValidation):
        return folds_table(result, title)
    return evaluation_table(result, title)


def folds_table(result: CrossValidation, title: str = "") -> Group:
    """A cross-validation: its result, what was done, and a line for each fold."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("fold", justify="right")
    table.add_column(result.score, justify="right", no_wrap=True)
    table.add_column("test classes")
    for number, fold in enumerate(result.folds, 1):
        names = Text(visible(", ".join(fold.classes)))
        table.add_row(str(number), Text(fold.evaluation.main.figure), names)
    return Group(
        *([Text(visible(title), style="italic")] if title else []),
        Text(f"{result.score} {result.figure}", style="bold"),
        Text(f"(95% interval over {count(len(result.folds), 'fold')}; the folds: {result.range})"),
        *(Text(visible(baseline.sentence)) for baseline in result.baselines),
        *(Text(visible(sentence)) for sentence in result.folds[0].evaluation.weights),
        table,
        Text(result.explanation, style="dim"),
    )


def _lines(row: Result) -> Iterator[tuple[str, str, bool]]:
    """The figure of a result in bold, and what must be known to read it."""
    yield row.label, f"{row.figure} (95% interval, {row.counted})", row.first
    for remark in row.remarks:
        yield "", remark, False


def predictions_table(
    inputs: Sequence[str],
    names: Sequence[str],
    probabilities: Sequence[Sequence[float]],
    shown: int = 3,
    sets: Sequence[Sequence[str]] | None = None,
) -> Table:
    """The ``shown`` most probable classes of each input.

    ``inputs``         n file names, or other texts that identify the inputs.
    ``names``          one name per class.
    ``probabilities``  (n, classes), each row adding up to one.
    ``sets``           for each input the names of the classes that it may be of, none for "not
                       sure".

    Raises ValueError where these do not fit together.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    if len(inputs) != len(probabilities) or any(len(p) != len(names) for p in probabilities):
        raise ValueError(
            f"predictions_table: {count(len(inputs), 'input')} and "
            f"{count(len(names), 'class', 'classes')} need probabilities "
            f"({len(inputs)}, {len(names)}); found {count(len(probabilities), 'row')} of "
            f"{sorted({len(p) for p in probabilities})} numbers. Give one row per input."
        )
    shown = min(shown, len(names))
    table = Table(box=box.SIMPLE_HEAD)
    # As wide as the longest name, so that none is broken.
    table.add_column("input", min_width=max(map(cell_len, map(visible, inputs)), default=0))
    table.add_column("prediction", min_width=max(cell_len(visible(name)) for name in names))
    table.add_column("probability", justify="right")
    if shown > 1:
        table.add_column("then", style="dim")
    if sets is not None:
        table.add_column("set", overflow="fold")
    for place, (name, row) in enumerate(zip(inputs, probabilities, strict=True)):
        best = sorted(range(len(names)), key=lambda way: -row[way])[:shown]
        others = ", ".join(f"{visible(names[way])} {100 * row[way]:.0f}%" for way in best[1:])
        cells = [
            Text(visible(name)),
            Text(visible(names[best[0]]), style="bold"),
            Text(f"{100 * row[best[0]]:.1f}%"),
            *([Text(others)] if shown > 1 else []),
        ]
        if sets is not None:
            cells.append(Text(", ".join(map(visible, sets[place])) or "not sure"))
        table.add_row(*cells)
    return table


def confusion_table(confusion: Confusion, most: int = 12) -> Table:
    """How often each class was taken for which: a row per true class, a column per predicted one.

    Columns have numbers in place of names, which would not fit. Above ``most`` classes the table
    lists the ``most`` commonest mistakes instead.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = [visible(name) for name in confusion.names]
    table = Table(box=box.SIMPLE_HEAD)
    if len(names) > most:
        for column in ("true class", "predicted as"):
            table.add_column(column, overflow="fold")
        table.add_column("files", justify="right")
        for true, predicted, rows in confusion.mistakes[:most]:
            table.add_row(Text(names[true]), Text(names[predicted]), str(rows))
        return table
    table.add_column("true class, predicted as:", overflow="fold")
    for number in range(1, len(names) + 1):
        table.add_column(str(number), justify="right")
    for i, row in enumerate(confusion.counts.tolist()):
        cells = [
            Text(str(n) if n else "·", style="bold" if i == j else "") for j, n in enumerate(row)
        ]
        table.add_row(Text(f"{i + 1} {names[i]}"), *cells)
    return table


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table: a column per key in order of first appearance, a line per row.

    Columns of numbers alone are right-aligned; a missing or None cell is shown as "–". Values are
    written with ``str``: round them first. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("markdown_table: there are no rows. Give at least one.")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    heads = [_cell(column) for column in columns]
    numeric = [
        all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns
    ]
    widths = [max(3, *(len(c) for c in column)) for column in zip(heads, *cells, strict=True)]

    def line(texts: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (w - 1) + ":" if right else "-" * w for w, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join([line(heads), line(rule), *(line(row) for row in cells)]) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return visible(value).replace("\\", "\\\\").replace("|", "\\|")
