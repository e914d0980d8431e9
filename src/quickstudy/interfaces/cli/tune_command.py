"""The command that tries settings of a recipe and writes the best."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quickstudy.interfaces.cli.group import INTERRUPTED
from quickstudy.interfaces.cli.printing import json_option, print_json, print_path, print_rich

if TYPE_CHECKING:
    from quickstudy.selection.tuning.trial import Row
    from quickstudy.selection.tuning.tuned import Tuned


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--trials", type=int, default=20, show_default=True,
              help="How many there are to be in the storage.")  # fmt: skip
@click.option("--storage", metavar="FILE_OR_URL", help="Where trials are kept; a file, or the URL "
              "of a database.  [RECIPE's name with .trials]")  # fmt: skip
@click.option("--name", default="quickstudy", help="Of the tuning, in a database that has several.")
@click.option("--minutes", type=float, help="Begin no trial after so many minutes.")
@click.option("--keep", multiple=True, metavar="SETTING",
              help="Keep the recipe's value, as of options.steps; may be repeated.")  # fmt: skip
@click.option("--tasks", type=int, default=300, show_default=True,
              help="New validation tasks that compare the best with the recipe.")  # fmt: skip
@click.option("--seed", type=int, help="Seed of settings, trainings and tasks.  [the recipe's]")
@click.option("-o", "--out", type=click.Path(path_type=Path),
              help="Where to write the best recipe.  [RECIPE's name with .best.yaml]")  # fmt: skip
@click.option("--explain", is_flag=True, help="Only explain what would be tried, and how.")
@json_option
@click.pass_context
def tune(
    ctx: click.Context, /, recipe: Path, trials: int, storage: str | None, name: str,
    minutes: float | None, keep: tuple[str, ...], tasks: int, seed: int | None, out: Path | None,
    explain: bool, as_json: bool,
) -> None:  # fmt: skip
    """Try settings of a RECIPE (YAML), and write the best as a recipe.

    What is tried stands on the learner's card. Trials are scored on validation tasks; the first has
    the recipe as it is. Give the same command in another terminal, or on a machine that shares the
    storage, to join; give it again after an interruption to go on.
    """
    from quickstudy.base.extras import optional
    from quickstudy.interfaces.runs.recipe import read_recipe_file

    if trials < 1:
        raise ValueError(f"tune: --trials must be at least 1; found {trials}.")
    optional("optuna", "tune", "tune")
    values = read_recipe_file(recipe)
    storage = storage or f"{recipe.stem}.trials"
    out = out or Path(f"{recipe.stem}.best.yaml")

    from quickstudy.interfaces.runs.tuning import begin_tuning, refuse_other_file, write_best

    refuse_other_file(out)
    tuning = begin_tuning(values, keep=keep, seed=seed, tasks=tasks, progress=not as_json)
    if explain:
        text = tuning.explanation(trials, storage)
        print_json({"explanation": text}) if as_json else click.echo(text)
        return
    try:
        tuned = tuning.run(
            trials, storage, name=name, minutes=minutes,
            on_trial=lambda row: click.echo(_line(row, trials), err=True),
        )  # fmt: skip
    except KeyboardInterrupt:
        again = shlex.join(["quickstudy", *sys.argv[1:]])
        click.echo(f"Interrupted. The trials are kept in {storage}. Go on with: {again}", err=True)
        ctx.exit(INTERRUPTED)
    _print(tuned, as_json, write_best(out, tuning, tuned, recipe.name) if tuned.complete else None)
    _ = tuned.best  # the error where there is none


def _line(row: Row, trials: int) -> str:
    from quickstudy.selection.tuning.space import in_words

    ended = {"complete": "", "pruned": ", cut short"}
    score = f"{row.score:.4f}{ended[row.state]}" if row.score is not None else row.reason
    settings = in_words(row.settings) or "the recipe as it is"
    return f"trial {row.place} of {trials}: {score} ({settings})"


def _print(tuned: Tuned, as_json: bool, best: Path | None) -> None:
    if as_json:
        print_json({**tuned.to_json(), "recipe": best and str(best)})
        return
    from rich.table import Table

    table = Table(*("trial", f"{tuned.score}, validation", "new tasks", "settings"))
    for row in tuned.table():
        table.add_row(*row)
    print_rich(table)
    for sentence in tuned.sentences:
        click.echo(sentence)
    if best is not None:
        print_path("best recipe", best)
