"""Where tasks come from, how they are numbered, split and put in stacks.

episodes    few-shot classification from labelled rows
Sinusoids   regression: one function per task
Bandits     acting: the smallest world in which one must act to learn
fixed       given tasks
draw        task number so-and-so of a source
stacks      the tasks of a step that can be computed at once
"""

from quickstudy.tasks.acting import act
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.episodes import Episodes, episodes
from quickstudy.tasks.examples import examples
from quickstudy.tasks.fixed import fixed
from quickstudy.tasks.functions import Sinusoids
from quickstudy.tasks.numbering import Fingerprint, Stream, draw, task_seed
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.splits import split_classes
from quickstudy.tasks.stacks import Stack, stack, stacks

__all__ = [
    "Bandits",
    "Episodes",
    "Fingerprint",
    "LabelledRows",
    "Sinusoids",
    "Stack",
    "Stream",
    "act",
    "draw",
    "episodes",
    "examples",
    "fixed",
    "split_classes",
    "stack",
    "stacks",
    "task_seed",
]
