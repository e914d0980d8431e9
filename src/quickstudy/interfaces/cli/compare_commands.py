"""The command that compares learners: by training them, or from finished runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quickstudy.interfaces.cli.options import (
    data_options,
    machine_options,
    network_options,
    task_options,
)
from quickstudy.interfaces.cli.printing import (
    is_given,
    json_option,
    print_json,
    print_path,
    print_rich,
)

if TYPE_CHECKING:
    from quickstudy.selection.comparing.compared import Comparisons


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--learners", help="Names of learners, or recipes (YAML), separated by commas.")
@data_options
@task_options
@network_options
@click.option("--set", "options", multiple=True, metavar="LEARNER.NAME=VALUE",
              help="An argument of a learner, such as maml.steps=3; may be repeated.")  # fmt: skip
@click.option("--steps", type=int, help="Optimiser steps of each training.")
@click.option("--minutes", type=float, help="CPU minutes of each training, in place of --steps.")
@click.option("--tasks-per-step", type=int, help="Tasks per optimiser step.  [4]")
@click.option("--seeds", type=int, help="Trainings of each learner.  [3]")
@click.option("--tasks", type=int, help="Test tasks, at most.  [600]")
@click.option("--matters", type=float, help="Points of accuracy that matter.  [0.5]")
@click.option("--over-shots", metavar="N,N", help="Also test with these numbers of shots.")
@click.option("--test-seed", type=int, help="Seed of the test tasks.  [0]")
@click.option("--test-again", is_flag=True, help="Test finished RUNS again, on the same tasks.")
@machine_options
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The comparison's folder.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Continue this comparison, with its settings.")  # fmt: skip
@json_option
@click.pass_context
def compare(
    ctx: click.Context, /, runs: tuple[Path, ...], out: Path | None, resume: Path | None,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Compare learners on the same tasks, beside baselines: which is better, and by how much?

    With --learners: train each with the same budget from several seeds, and test all. With the
    folders of finished RUNS: compare their stored results; nothing is trained.
    """
    asked = {name: value for name, value in given.items() if is_given(ctx, name)}
    if resume is not None and (asked or runs or out):
        raise ValueError(
            "compare: --resume continues with the comparison's own settings. Give nothing else."
        )
    if runs and resume is None:
        found, folder = _of_runs(runs, asked, out)
    else:
        found, folder = _trained(ctx, asked, out, resume)
    if as_json:
        from quickstudy.selection.comparing.stored import plain_tables

        print_json({"folder": None if folder is None else str(folder), **plain_tables(found)})
        return
    from quickstudy.reports.comparison_tables import comparison_table

    for table in found.tables:
        print_rich(comparison_table(table))
    if folder is not None:
        print_path("report", folder / "comparison.html")


def _trained(
    ctx: click.Context, asked: dict[str, Any], out: Path | None, resume: Path | None
) -> tuple[Comparisons, Path]:
    from quickstudy.interfaces.runs.compared_runs import begun_by, compare_recipes
    from quickstudy.interfaces.runs.comparison_report import PAGE, write_page
    from quickstudy.interfaces.runs.plan import kept_plan, make_plan

    command = shlex.join(["quickstudy", *sys.argv[1:]])
    plan, loaded = make_plan(**_of_plan(asked)) if resume is None else kept_plan(resume)
    folder = resume or out

    def begun(path: Path) -> None:
        nonlocal folder
        folder = path
        print_path("comparison folder", path, err=True)

    try:
        found = compare_recipes(plan, loaded, folder, command=command, begun=begun)
    except KeyboardInterrupt as stopped:
        if folder is not None:
            again = f"quickstudy compare --resume {shlex.quote(str(folder))}"
            click.echo(f"Interrupted. What was trained is kept. Continue with: {again}", err=True)
        ctx.exit(128 + getattr(stopped, "signal", 2))
    assert folder is not None
    write_page(found, folder / PAGE, begun_by(folder) or command)
    return found, folder


_PLAN = ("steps", "minutes", "seeds", "tasks")


def _of_plan(asked: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``make_plan`` for the options that were given."""
    values = dict(asked)
    if "test_again" in values:
        raise ValueError("compare: --test-again is for finished runs. Name their folders.")
    found: dict[str, Any] = {name: values.pop(name) for name in _PLAN if name in values}
    if "matters" in values:
        found["matters"] = points(values.pop("matters"))
    found["over_shots"] = _numbers(values.pop("over_shots", ""))
    found["options"] = values.pop("options", ())
    learners = [each.strip() for each in values.pop("learners", "").split(",")]
    found["learners"] = [each for each in learners if each]
    return {"base": values, **found}


def points(value: float) -> float:
    """Points of accuracy as a share."""
    return round(value / 100, 10)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(
            f"--over-shots must be whole numbers such as 1,5,10; found {text!r}."
        ) from error


def _of_runs(
    runs: tuple[Path, ...], asked: dict[str, Any], out: Path | None
) -> tuple[Comparisons, Path | None]:
    from quickstudy.interfaces.application_runs.comparing import compare_application_runs
    from quickstudy.interfaces.application_runs.folder import is_application_run
    from quickstudy.interfaces.runs.comparison_report import PAGE, write_page
    from quickstudy.interfaces.runs.finished_runs import compare_runs

    allowed = {"matters", "test_again", "tasks", "test_seed", "device"}
    if wrong := sorted(asked.keys() - allowed):
        raise ValueError(
            "compare: finished runs are compared as they are; found "
            f"--{wrong[0].replace('_', '-')}. Leave it out, or give --learners in place of folders "
            "to train."
        )
    if "matters" in asked:
        asked["matters"] = points(asked["matters"])
    if any(map(is_application_run, runs)):
        if wrong := sorted(asked.keys() - {"matters"}):
            raise ValueError(
                f"compare: --{wrong[0].replace('_', '-')} is not for runs of an application, which "
                "are compared by their stored results. Leave it out; `quickstudy evaluate` tests "
                "one again."
            )
        found = compare_application_runs(runs, out, **asked)
    else:
        found = compare_runs(runs, out, **asked)
    if out is not None:
        write_page(found, out / PAGE, shlex.join(["quickstudy", *sys.argv[1:]]))
    return found, out
