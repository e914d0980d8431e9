"""The command that says which learner to use for data, with evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from quickstudy.interfaces.cli.printing import json_option, print_json


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--data", help="A data set in place of PATH; see `quickstudy datasets`.")
@click.option("--root", help="Folder of the data sets, for --data.")
@click.option("--minutes", type=float, help="How long to race.  [10]")
@click.option("--steps", type=int, help="In place of minutes: steps of a finalist.")
@click.option("--target", help="Of a table, the column to predict; of domains, the target's name.")
@click.option("--size", type=int, help="Side of the images in pixels.")
@click.option("--ways", type=int, default=5, show_default=True, help="Classes of a task.")
@click.option("--shots", type=int, default=1, show_default=True, help="Examples of each class.")
@click.option("--queries", type=int, default=15, show_default=True,
              help="Test examples of each class.")  # fmt: skip
@click.option("--labelled", type=int, default=10, show_default=True,
              help="Of domains: labelled target rows, of each class.")  # fmt: skip
@click.option("--tasks", type=int, default=600, show_default=True, help="Test tasks, at most.")
@click.option("--seeds", type=int, default=3, show_default=True, help="Trainings of a finalist.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and tasks.")
@click.option("--explain", "explain_only", is_flag=True,
              help="Only say what would be raced, and how long: nothing is trained.")  # fmt: skip
@click.option("--out", "-o", type=click.Path(path_type=Path),
              help="A folder to keep; the same command goes on there after a kill.")  # fmt: skip
@json_option
def recommend(
    path: Path | None, data: str | None, root: str | None, size: int | None, target: str | None,
    explain_only: bool, as_json: bool, out: Path | None, **asked: Any,
) -> None:  # fmt: skip
    """Race learners on your data, and say which to use, what to expect, and why.

    PATH is a folder with a folder of pictures for each class, or a table (.csv) with --target.
    Transfer, multi-task and meta-learners are raced on classes or rows that no training sees.
    """
    if (path is None) == (data is None):
        raise ValueError(
            f"recommend: give a folder or a table, or --data; found "
            f"{'neither' if path is None else 'both'}. See `quickstudy datasets` for names."
        )
    from quickstudy.selection.recommending.recommend import explain
    from quickstudy.selection.recommending.recommend import recommend as race

    given = _given(path, data, root, size)
    if explain_only:
        plan = explain(given, target=target, **asked)
        print_json({"explanation": plan}) if as_json else click.echo(plan)
        return
    found = race(
        given, target=target, **asked, run=out, say=lambda text: click.echo(f"  {text}", err=True)
    )
    print_json(found.to_json()) if as_json else click.echo(str(found))


def _given(path: Path | None, data: str | None, root: str | None, size: int | None) -> Any:
    """What is at a path, or the data set of a name."""
    from quickstudy import datasets

    if path is not None:
        if path.suffix.lower() == ".csv":
            return _table(path)
        return path if size is None else datasets.folder(path, size=size)
    assert data is not None
    function = datasets.card(data).load_with[1]
    if function == "load":
        return datasets.load(data, root, size=size)
    if function == "load_domains":
        return datasets.load_domains(data, root)
    if function == "load_named_tasks":
        return datasets.load_named_tasks(data, root)
    return datasets.load_tasks(data, root).source


def _table(path: Path) -> Any:
    """The table of a file, as a DataFrame."""
    from quickstudy.base.extras import optional

    pandas: Any = optional("pandas", "compare", "recommend")
    try:
        return pandas.read_csv(path)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeError) as error:
        raise ValueError(
            f"{path}: must be a table of comma-separated values with a line of names ({error}). "
            "Write it with DataFrame.to_csv(path, index=False)."
        ) from error
