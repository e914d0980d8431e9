"""The command line. Every command is a thin layer over public functions.

Nothing here imports torch before a command needs it: importing it takes seconds.
"""

from quickstudy.interfaces.cli.adapt_commands import adapt, predict
from quickstudy.interfaces.cli.compare_commands import compare
from quickstudy.interfaces.cli.export_commands import export
from quickstudy.interfaces.cli.group import main
from quickstudy.interfaces.cli.list_commands import backbones, datasets, learners
from quickstudy.interfaces.cli.recommend_commands import recommend
from quickstudy.interfaces.cli.run_commands import evaluate, report, run
from quickstudy.interfaces.cli.tune_command import tune

__all__ = ["main"]

for command in (
    run, evaluate, compare, recommend, report, tune, adapt, predict, export, datasets, backbones,
    learners,
):  # fmt: skip
    main.add_command(command)
