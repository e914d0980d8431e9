"""What the commands do for the runs and predictors of applications."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quickstudy.base.words import count
from quickstudy.interfaces.cli.printing import print_fact, print_json, print_path, print_rich

if TYPE_CHECKING:
    from quickstudy.core import Predictor
    from quickstudy.interfaces.application_runs.execute import ApplicationParts
    from quickstudy.interfaces.application_runs.folder import ApplicationRun


def start_run(
    ctx: click.Context, values: Mapping[str, Any], out: Path | None, explain: bool, as_json: bool
) -> None:
    """Begin the run of an application with these settings, and carry it out."""
    from quickstudy.interfaces.application_runs import execute as runs
    from quickstudy.interfaces.application_runs.made import recipe_from

    recipe = recipe_from(values)
    if explain:
        explanation = runs.explain(recipe)
        print_json({"explanation": explanation}) if as_json else click.echo(explanation)
        return
    run, parts = runs.begin(recipe, out, command=shlex.join(["quickstudy", *sys.argv[1:]]))
    click.echo(f"{run.title}: {parts.made.about}", err=True)
    _carry_out(ctx, run, parts, resume=False, as_json=as_json)


def resume_run(ctx: click.Context, path: Path, steps: int | None, as_json: bool) -> None:
    """Continue the run of an application, to more ``steps`` where they are given."""
    from quickstudy.interfaces.application_runs.folder import ApplicationRun

    run = ApplicationRun.open(path)
    if steps is not None:
        run = run.further(steps)
    _carry_out(ctx, run, None, resume=True, as_json=as_json)


def _carry_out(
    ctx: click.Context, run: ApplicationRun, parts: ApplicationParts | None, *, resume: bool,
    as_json: bool,
) -> None:  # fmt: skip
    from quickstudy.interfaces.application_runs.execute import execute
    from quickstudy.interfaces.runs.execute import Interrupted
    from quickstudy.reports.tables import result_table

    print_path("run folder", run.path, err=as_json)
    result = execute(run, parts, resume=resume)
    if isinstance(result, Interrupted):
        continue_with = f"quickstudy run --resume {shlex.quote(str(run.path))}"
        click.echo(f"Interrupted. Continue with: {continue_with}", err=as_json)
        ctx.exit(result.exit_code)
    report = run.path / "report.html"
    if as_json:
        print_json({
            "run": str(run.path), "report": str(report), "recipe": run.recipe.to_json(),
            "evaluation": result.to_json(),
        })  # fmt: skip
        return
    print_rich(result_table(result, run.title))
    print_path("report", report)


def evaluate_run(
    path: Path, given: Mapping[str, Any], tasks: int | None, seed: int | None, device: str | None,
    baselines: bool, as_json: bool,
) -> None:  # fmt: skip
    """Evaluate the learner of an application's run again.

    ``given``  further options of the command line that were given.
    """
    from quickstudy.interfaces.application_runs.execute import evaluate_again
    from quickstudy.interfaces.application_runs.folder import ApplicationRun
    from quickstudy.interfaces.application_runs.made import refuse_unknown_settings
    from quickstudy.reports.tables import evaluation_table

    run = ApplicationRun.open(path)
    others = {name: value for name, value in given.items() if name != "shots"}
    refuse_unknown_settings("evaluate", run.recipe.application, others)
    recipe, evaluation = evaluate_again(
        run, shots=given.get("shots"), tasks=tasks, seed=seed, device=device, baselines=baselines
    )
    if as_json:
        print_json(evaluation.to_json())
        return
    shots = "" if recipe.shots is None else f" ({recipe.shots} shots)"
    print_rich(evaluation_table(evaluation, f"{run.title}{shots}"))


def report_run(path: Path, out: Path | None) -> Path:
    """Write the report of an application's run again."""
    from quickstudy.interfaces.application_runs.execute import report_again
    from quickstudy.interfaces.application_runs.folder import ApplicationRun

    return report_again(ApplicationRun.open(path), out)


def adapt_run(
    run: Path, path: Path, output: Path, given: Mapping[str, Any], strict: bool, as_json: bool
) -> None:
    """Adapt the learner of an application's run to a user's labelled files.

    ``given``  further options of the command line that were given.
    """
    from quickstudy.files.storage import save
    from quickstudy.interfaces.application_runs.adapting import KEY, adapt_files
    from quickstudy.interfaces.application_runs.folder import ApplicationRun
    from quickstudy.interfaces.application_runs.made import refuse_unknown_settings

    opened = ApplicationRun.open(run)
    refuse_unknown_settings("adapt", opened.recipe.application, given)
    predictor = adapt_files(opened, path, strict=strict)
    save(predictor, output)
    if as_json:
        print_json({"predictor": str(output), **predictor.info})
        return
    click.echo(f"{output}: {opened.recipe.card.title}")
    print_fact("learner", opened.title)
    print_fact("support", f"{count(predictor.info[KEY]['support'], 'row')} from {path}")
    names = predictor.info.get("names")
    if isinstance(names, list) and names:
        print_fact("names", ", ".join(map(str, names)))


def predict_with(
    predictor: Predictor, paths: tuple[Path, ...], out: Path | None, given: Mapping[str, Any],
    strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print what a predictor of an application says about a user's files.

    ``given``  further options of the command line that were given.
    """
    from quickstudy.interfaces.application_runs.adapting import KEY, predict_for
    from quickstudy.interfaces.application_runs.made import refuse_unknown_settings
    from quickstudy.reports.answer_rows import rows_table

    refuse_unknown_settings("predict", str(predictor.info[KEY].get("name")), given)
    said = predict_for(predictor, paths, out, strict=strict)
    if as_json:
        print_json({**said.to_json(), "out": None if out is None else str(out)})
        return
    print_rich(rows_table(said.rows))
    print_fact("protocol", said.protocol)
    if out is not None:
        print_path("files", out)
