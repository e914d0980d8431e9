"""The command that holds the others: it suggests names, and shows errors without a traceback."""

from __future__ import annotations

import warnings
from typing import Any

import click

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
