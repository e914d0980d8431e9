"""The command that holds the others: it suggests names, and shows errors without a traceback."""

from __future__ import annotations

import warnings
from typing import Any

import click

from quickstudy.base.skipped import SkippedInput
from quickstudy.base.version import __version__

SKIPPED = 3
"""The exit code where a command did its work, but left inputs out."""
INTERRUPTED = 130
"""The exit code after Ctrl-C, as of every program in a shell."""


def _is_user_error(error: Exception) -> bool:
    """Whether the user can correct the error. Any other error is a bug and shows its traceback."""
    if isinstance(error, (ValueError, OSError)):
        return True
    if isinstance(error, ImportError):
        return "pip install" in str(error)  # ours, of a missing extra
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
        skipped = []

        def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            skipped.extend([message] if issubclass(category, SkippedInput) else [])
            click.echo(f"Warning: {message}", err=True)

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", SkippedInput)  # the exit code depends on it
                warnings.showwarning = show
                result = super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # a broken pipe, as of `| head`, ends the command without a word
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            if ctx.params.get("debug") or not _is_user_error(error):
                raise
            raise click.ClickException(str(error)) from error
        if skipped:
            ctx.exit(SKIPPED)
        return result


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="quickstudy")
@click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
def main(debug: bool) -> None:
    """Meta-learning, transfer learning and multi-task learning.

    Start with `quickstudy run`: it trains a few-shot learner on printed characters, tests it on
    scripts it was not trained on, and writes a report, within two minutes.

    Exit codes: 0, all is done; 1, an error; 2, a wrong command line; 3, done, but inputs (such as
    unreadable pictures) were left out; 130, interrupted by Ctrl-C.
    """
