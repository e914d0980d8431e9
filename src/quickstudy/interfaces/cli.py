"""The command line. Every command is a thin layer over public functions.

Nothing here imports torch before a command needs it: importing it takes seconds.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from quickstudy.base.version import __version__


def _is_user_error(error: Exception) -> bool:
    """Whether the user can correct the error. Any other error is a bug and shows its traceback."""
    if isinstance(error, (ValueError, OSError)):
        return True
    from quickstudy.base.errors import BrokenLaw
    from quickstudy.compute.memory import TaskTooLarge
    from quickstudy.training.fit import NonFiniteLoss

    return isinstance(error, (BrokenLaw, NonFiniteLoss, TaskTooLarge))


class _Group(click.Group):
    """Suggests the nearest command, and shows errors that users can correct without a traceback."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from quickstudy.base.names import unknown_name

            ctx.fail(str(unknown_name("command", name, self.commands)))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug") or not _is_user_error(error):
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="quickstudy")
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
def main(debug: bool) -> None:
    """Meta-learning, transfer learning and multi-task learning.

    Start with `quickstudy run`: it trains a few-shot learner on printed characters, tests it on
    scripts it was not trained on, and writes a report, within two minutes.
    """
    warnings.showwarning = _show_warning


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


@main.command()
@click.option("--learner", help="Which learner; see `quickstudy learners`.  [prototypical]")
@click.option("--data", help="Which data set; see `quickstudy datasets`.  [glyphs]")
@click.option("--root", help="Folder of the data sets; for --data folder, of the images.")
@click.option("--split", help="Name of one of the data set's published splits.")
@click.option("--size", type=int, help="Side of the images in pixels.")
@click.option("--rotations/--no-rotations", help="Rotated images as further classes.  [no]")
@click.option("--strict/--no-strict", help="Fail on the first unreadable image.  [no]")
@click.option("--ways", type=int, help="Classes of a test task.  [5]")
@click.option("--shots", type=int, help="Examples of each class.  [1]")
@click.option("--queries", type=int, help="Test images of each class.  [15]")
@click.option("--train-ways", type=int, help="Classes of a training task.")
@click.option("--train-queries", type=int, help="Query images of each class in training.  [5]")
@click.option("--backbone", help="conv4, resnet12 or mlp.  [conv4]")
@click.option("--channels", type=int, help="Width of conv4.  [64]")
@click.option("--norm", help="group, batch, support or running.  [group]")
@click.option("--steps", type=int, help="Optimiser steps.")
@click.option("--tasks-per-step", type=int, help="Tasks per optimiser step.")
@click.option("--rate", type=float, help="Learning rate.")
@click.option("--optimiser", help="adam or sgd.")
@click.option("--validate-every", type=int, help="Steps between validations.")
@click.option("--patience", type=int, help="Stop after this many validations without improvement.")
@click.option("--test-tasks", type=int, help="Number of test tasks.  [600]")
@click.option("--seed", type=int, help="Seed of weights and tasks.  [0]")
@click.option("--threads", type=int, help="CPU threads.")
@click.option("--device", help="cpu, cuda or cuda:NUMBER.  [a GPU where there is one]")
@click.option("--workers", type=int, help="Tasks in parallel, one CPU thread each.  [1]")
@click.option("--compile/--no-compile", help="Compile training steps; helps small networks.  [no]")
@click.option("-o", "--option", "options", multiple=True, metavar="NAME=VALUE",
              help="An argument of the learner, such as steps=5; may be repeated.")  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=Path), help="A recipe (YAML), which options override."
)
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue this run.")
@click.option("--explain", is_flag=True, help="Only explain how steps would be computed.")
@click.pass_context
def run(
    ctx: click.Context, /, options: tuple[str, ...], config: Path | None, out: Path | None,
    resume: Path | None, explain: bool, **choices: Any,
) -> None:  # fmt: skip
    """Train a learner, evaluate it on classes it was not trained on, and write a report."""
    given = {n: v for n, v in choices.items() if _given(ctx, n)}
    if resume is not None and (given or options or config or out or explain):
        raise ValueError("run: --resume continues with the run's recipe; give no other options.")
    if resume is not None:
        from quickstudy.interfaces.runs.folder import Run

        opened, parts = Run.open(resume), None
    else:
        from quickstudy.interfaces.runs.recipe import (
            merge,
            read_options,
            read_recipe,
            read_recipe_file,
        )

        values = read_recipe_file(config) if config else {}
        recipe = read_recipe(merge(values, given, read_options(options)))
        from quickstudy.interfaces.runs import (
            execute as runs,  # imports torch: only once the recipe is valid
        )

        if explain:
            click.echo(runs.explain(recipe))
            return
        opened, parts = runs.begin(recipe, out, command=shlex.join(["quickstudy", *sys.argv[1:]]))
    from quickstudy.interfaces.runs.execute import Interrupted, execute
    from quickstudy.reports.tables import evaluation_table

    _print_path("run folder", opened.path)
    evaluation = execute(opened, parts, resume=resume is not None)
    if isinstance(evaluation, Interrupted):
        click.echo(
            f"Interrupted. Continue with: quickstudy run --resume {shlex.quote(str(opened.path))}"
        )
        ctx.exit(evaluation.exit_code)
    _print(evaluation_table(evaluation, f"{opened.recipe.learner} on {opened.recipe.data}"))
    _print_path("report", opened.path / "report.html")


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _print(thing: Any) -> None:
    from rich.console import Console

    Console(soft_wrap=True).print(thing)


def _print_path(label: str, path: Path) -> None:
    click.echo(f"{click.style(label, dim=True)} {path}")  # rich would read markup in the path


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--ways", type=int, help="Classes of a task; as in the run by default.")
@click.option("--shots", type=int, help="Examples of each class.")
@click.option("--tasks", type=int, default=600, show_default=True)
@click.option("--seed", type=int, help="Seed of the tasks; the run's own by default.")
@click.option("--device", help="cpu, cuda or cuda:NUMBER.  [a GPU where there is one]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(
    run: Path, ways: int | None, shots: int | None, tasks: int, seed: int | None,
    device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate the learner of a RUN again, also with other ways, shots or tasks."""
    from dataclasses import replace

    from quickstudy.evaluation.evaluate import evaluate as evaluate_learner
    from quickstudy.interfaces.runs.assemble import load_data, make_test_source
    from quickstudy.interfaces.runs.folder import Run
    from quickstudy.interfaces.runs.provenance import choose_device
    from quickstudy.reports.tables import evaluation_table

    opened = Run.open(run)
    changes: dict[str, Any] = {"ways": ways, "shots": shots}
    changes = {name: value for name, value in changes.items() if value is not None}
    recipe = replace(opened.recipe, test_tasks=tasks, device=device, **changes)
    learner, _ = opened.learner()
    learner.to(choose_device(recipe.device))
    source = make_test_source(recipe, load_data(recipe), learner)
    seed = recipe.seed if seed is None else seed
    evaluation = evaluate_learner(learner, source, tasks, seed=seed)
    if as_json:
        click.echo(json.dumps(evaluation.to_json()))
    else:
        title = f"{recipe.learner} on {recipe.data}, {recipe.ways}-way {recipe.shots}-shot"
        _print(evaluation_table(evaluation, title))


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to save it.",
              default=Path("predictor.safetensors"), show_default=True)  # fmt: skip
@click.option("--strict", is_flag=True, help="Fail on the first unreadable image.")
def adapt(run: Path, folder: Path, output: Path, strict: bool) -> None:
    """Adapt the learner of a RUN to the classes of FOLDER (one folder of images per class)."""
    from quickstudy.files.storage import save
    from quickstudy.interfaces.runs.folder import Run
    from quickstudy.interfaces.runs.use import adapt_folder

    if output.exists():
        raise FileExistsError(f"{output}: exists already. Give another name with -o.")
    predictor = adapt_folder(Run.open(run), folder, strict=strict)
    save(predictor, output)
    names = predictor.info["names"]
    click.echo(f"{output}: distinguishes {len(names)} classes: {', '.join(names)}")


@main.command()
@click.argument("predictor", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--strict", is_flag=True, help="Fail on the first unreadable image.")
def predict(predictor: Path, images: tuple[Path, ...], as_json: bool, strict: bool) -> None:
    """Classify IMAGES (files or folders) with a PREDICTOR that `quickstudy adapt` made."""
    from quickstudy.files.storage import load
    from quickstudy.interfaces.runs.use import predict_files
    from quickstudy.reports.tables import predictions_table

    result = predict_files(load(predictor), images, strict=strict)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1, ensure_ascii=False))
        return
    _print(predictions_table(result.files, result.names, result.probabilities.tolist()))
    click.echo(f"{click.style('protocol', dim=True)} {result.protocol}")
    if result.unreadable:
        click.echo(f"{len(result.unreadable)} files were left out.", err=True)


@main.command()
@click.argument("name", required=False)
def datasets(name: str | None) -> None:
    """List the data sets, or show all facts of NAME: licence, citation, source, size."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from quickstudy.datasets.registry import CARDS, card

    table = Table(box=box.SIMPLE_HEAD, show_header=name is None)
    if name is not None:
        for _ in range(2):
            table.add_column(overflow="fold")
        for field, value in vars(card(name)).items():
            if field != "loader":
                table.add_row(field, escape(_cell_text(value)))
        _print(table)
        return
    for column in ("name", "content", "classes", "image", "download", "licence"):
        table.add_column(column, overflow="fold")
    for entry in CARDS.values():
        counts = "/".join(map(str, entry.classes)) if entry.classes else "–"
        shape = "×".join(map(str, entry.shape)) if entry.shape else "–"
        size = f"{entry.size_bytes / 1e6:.0f} MB" if entry.size_bytes else "–"
        table.add_row(entry.name, entry.summary, counts, shape, size, entry.licence)
    _print(table)


def _cell_text(value: Any) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(value))
    return "\n".join(map(str, value)) if isinstance(value, tuple) else str(value)


@main.command()
def learners() -> None:
    """List the learners."""
    from rich import box
    from rich.table import Table

    from quickstudy.files.registry import LEARNERS

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "title", "family", "paper", "learns"):
        table.add_column(column, overflow="fold")
    for card in LEARNERS.values():
        table.add_row(
            card.name, card.title, card.family, f"{card.authors} ({card.year})", card.learns
        )
    _print(table)


if __name__ == "__main__":
    main()
