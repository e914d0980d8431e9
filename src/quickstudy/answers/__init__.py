"""The answer types of tasks, one per file, each with its loss and its scores.

Classes   one class per row: cross-entropy, accuracy
Reals     real numbers: squared error
Labels    yes, no or unknown for each of several labels: ROC-AUC, average precision
Pixels    a class per pixel: mean IoU
Tokens    a sequence of tokens: accuracy, exact match, F1, chrF
Spans     which words of a text answer: F1, exact match
Boxes     objects in a picture: AP50
Actions   an action in each step of an environment: return
Custom    a loss and a score of your own
"""

from quickstudy.answers.actions import Actions, World
from quickstudy.answers.boxes import Boxes
from quickstudy.answers.classes import Classes
from quickstudy.answers.custom import Custom, MeanOf
from quickstudy.answers.labels import Labels
from quickstudy.answers.pixels import Pixels
from quickstudy.answers.reals import Reals
from quickstudy.answers.spans import Spans
from quickstudy.answers.tokens import Tokens
from quickstudy.core import Answer, Score

__all__ = [
    "Actions",
    "Answer",
    "Boxes",
    "Classes",
    "Custom",
    "Labels",
    "MeanOf",
    "Pixels",
    "Reals",
    "Score",
    "Spans",
    "Tokens",
    "World",
]
