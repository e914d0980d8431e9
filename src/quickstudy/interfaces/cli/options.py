"""Options that several commands have: which data, which tasks, which network, where it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def _together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """A decorator that adds the options, in this order."""

    def added(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return added


data_options = _together(
    click.option("--data", help="Which data set; see `quickstudy datasets`.  [glyphs]"),
    click.option("--root", help="Folder of the data sets; for --data folder, of the images."),
    click.option("--split", help="Name of one of the data set's published splits."),
    click.option("--size", type=int, help="Side of the images in pixels."),
    click.option("--rotations/--no-rotations", default=None,
                 help="Rotated images as further classes.  [no]"),
)  # fmt: skip

task_options = _together(
    click.option("--ways", type=int, help="Classes of a test task.  [5, or all there are]"),
    click.option("--shots", type=int, help="Examples of each class.  [1]"),
    click.option("--queries", type=int,
                 help="Test images of each class.  [15, or all there are]"),
    click.option("--train-ways", type=int,
                 help="Classes of a training task.  [of one learner, its usual number]"),
    click.option("--train-queries", type=int,
                 help="Query images of each class in training.  [5]"),
    click.option("--within-superclass/--no-within-superclass", default=None,
                 help="Tasks with classes of one superclass, such as an alphabet.  [no]"),
)  # fmt: skip

network_options = _together(
    click.option("--backbone", help="conv4, resnet12, mlp, or a pretrained one: see `quickstudy "
                 "backbones`.  [conv4; to run a folder, chosen]"),
    click.option("--channels", type=int, help="Width of conv4.  [64]"),
    click.option("--norm", help="group, batch, support or running.  [group]"),
)  # fmt: skip

machine_options = _together(
    click.option("--threads", type=int, help="CPU threads."),
    click.option("--device", help="cpu, cuda or cuda:NUMBER.  [a GPU where there is one]"),
)
