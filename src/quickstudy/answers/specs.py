"""Functions that make task specs: ``classification(5)``, ``regression()``, …"""

from __future__ import annotations

from quickstudy.answers.boxes import Boxes
from quickstudy.answers.classes import Classes
from quickstudy.answers.custom import Custom, Loss, MeanOf, ScoreFunction
from quickstudy.answers.labels import Labels
from quickstudy.answers.pixels import Pixels
from quickstudy.answers.reals import Reals
from quickstudy.answers.spans import LONGEST, Spans
from quickstudy.answers.tokens import Tokens
from quickstudy.core import Score, TaskSpec


def classification(ways: int, name: str = "") -> TaskSpec:
    """A task that distinguishes ``ways`` classes; predictions are logits (n, ways)."""
    return TaskSpec(Classes(ways), name)


def clustering(clusters: int, name: str = "") -> TaskSpec:
    """A task that finds groups of rows, whose names mean nothing; logits (n, clusters).

    Scored by agreement with the classes of queries; the support set may have no labels.
    """
    return TaskSpec(Classes(clusters, clusters=True), name)


def regression(outputs: int = 1, missing: bool = False, name: str = "") -> TaskSpec:
    """A task that predicts ``outputs`` real numbers under squared error; targets (n, outputs).

    ``missing``  some of them may be unknown (NaN).
    """
    return TaskSpec(Reals(outputs, missing), name)


def multilabel(labels: int, name: str = "") -> TaskSpec:
    """A task that predicts yes or no for each label; predictions are logits (n, labels)."""
    return TaskSpec(Labels(labels), name)


def segmentation(classes: int, name: str = "") -> TaskSpec:
    """A task that classifies every pixel; predictions are logits (n, height, width, classes)."""
    return TaskSpec(Pixels(classes), name)


def detection(classes: int, name: str = "") -> TaskSpec:
    """A task that finds objects of ``classes``: see :class:`quickstudy.answers.Boxes`."""
    return TaskSpec(Boxes(classes), name)


def tokens(vocabulary: int, before: str | None = None, name: str = "") -> TaskSpec:
    """A task that predicts a sequence of tokens: see :class:`quickstudy.answers.Tokens`."""
    return TaskSpec(Tokens(vocabulary, before), name)


def spans(longest: int = LONGEST, name: str = "") -> TaskSpec:
    """A task that finds the words of a text which answer: see :class:`quickstudy.answers.Spans`."""
    return TaskSpec(Spans(longest), name)


def spec(
    outputs: int,
    loss: Loss,
    score: ScoreFunction | Score | None = None,
    higher_is_better: bool = True,
    name: str = "",
) -> TaskSpec:
    """A task under a loss of your own.

    ``outputs``  width of the layer that gives predictions.
    ``loss``     (predictions, targets) -> losses, one for each row (n,) or for each element.
    ``score``    (predictions, targets) -> scores likewise, or a :class:`quickstudy.core.Score`; by
                 default the loss itself, lower is better.

    >>> import quickstudy as qs
    >>> qs.spec(2, lambda predicted, true: (predicted - true).abs()).outputs
    2
    """
    if score is None or isinstance(score, Score):
        return TaskSpec(Custom(outputs, loss, score), name)
    label = getattr(score, "__name__", "score")
    mean_score = MeanOf(score, "score" if label == "<lambda>" else label, higher_is_better)
    return TaskSpec(Custom(outputs, loss, mean_score), name)
