"""Task sources, and how tasks are numbered, split and stacked.

episodes    few-shot classification from labelled rows
Sinusoids   regression: one function per task
Bandits     reinforcement learning: one multi-armed bandit per task
transfer    support sets with rows of other places beside those of the target
mixture     tasks of several sources
Screening   which rows have a label: one column of a table per task
fixed       a given list of tasks
domains     named tasks, one for each place; columns: one for each column of labels
related     named tasks whose relations are known
draw        the task of a source with a given number
stacks      groups of tasks that can be computed at once
"""

from quickstudy.tasks.acting import act
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.domains import columns, domains
from quickstudy.tasks.episodes import Episodes, episodes
from quickstudy.tasks.examples import examples
from quickstudy.tasks.fixed import fixed
from quickstudy.tasks.functions import Sinusoids
from quickstudy.tasks.mixture import mixture
from quickstudy.tasks.named_tasks import NamedTasks
from quickstudy.tasks.numbering import Fingerprint, Stream, draw, task_seed
from quickstudy.tasks.related import Related, related
from quickstudy.tasks.rows import LabelledRows
from quickstudy.tasks.screening import Screening, usable
from quickstudy.tasks.splits import class_folds, split_classes, split_rows
from quickstudy.tasks.stacks import Stack, stack, stacks
from quickstudy.tasks.transfer import TARGET, transfer

__all__ = [
    "TARGET",
    "Bandits",
    "Episodes",
    "Fingerprint",
    "LabelledRows",
    "NamedTasks",
    "Related",
    "Screening",
    "Sinusoids",
    "Stack",
    "Stream",
    "act",
    "class_folds",
    "columns",
    "domains",
    "draw",
    "episodes",
    "examples",
    "fixed",
    "mixture",
    "related",
    "split_classes",
    "split_rows",
    "stack",
    "stacks",
    "task_seed",
    "transfer",
    "usable",
]
