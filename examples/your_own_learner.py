"""A learner of your own: nearest neighbour in feature space, its card, and the contract.

In the library this would be two files, ``learners/metric/nearest_neighbour.py`` and ``.toml``.
"""

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers.classes import one_hot
from quickstudy.learners.cards import Card, read_card
from quickstudy.tasks.examples import labelled, without_absent
from quickstudy.testing import check_learner


class NearestNeighbour(qs.Learner):
    """Maps a support set to the class of the nearest support row.

        logit_k(x) = -min { |f(x) - f(x_i)|^2 : y_i = k, w_i > 0 }

    ``backbone``  inputs (n, ...) -> features (n, d).

    State: ``features`` (m, d) of the support rows; ``rows_of`` (m, ways), one where a row that is
    there belongs to a class; ``present`` (ways,), the classes that have a row.

    Reference: Cover and Hart (1967), Nearest Neighbor Pattern Classification.
    Differs from the paper in that the distance is one of learnt features.
    """

    answers = (qs.answers.Classes,)
    exceptions = {"weight_two_is_twice": "a row that stands twice is no nearer"}  # noqa: RUF012

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def adapt(self, support: qs.Examples, spec: qs.TaskSpec) -> dict[str, Tensor]:
        """Features and classes of the support rows."""
        support = labelled(support, spec.answer)  # a row of unknown class gets weight 0
        features = self.backbone(support.inputs)
        there = (support.weights > 0).to(features.dtype)
        rows_of = one_hot(support.targets, spec.outputs, features.dtype) * there.unsqueeze(-1)
        return {"features": features, "rows_of": rows_of, "present": rows_of.sum(0) > 0}

    def predict(self, state: dict[str, Tensor], inputs: Any, spec: qs.TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        distances = qs.distances.squared_euclidean(self.backbone(inputs), state["features"])
        of_class = distances.unsqueeze(-1).where(state["rows_of"] > 0, 1e9)  # (n, m, ways)
        return without_absent(-of_class.min(1).values, state["present"])


CARD = """
class = "NearestNeighbour"
title = "Nearest neighbour"
year = 1967
authors = "Cover and Hart"
learns = "a feature space in which the nearest row classifies"
published_inductively = "-"

[training]
steps = 800
tasks_per_step = 1
train_ways = 20

[search]
rate = { between = [0.0003, 0.003], log = true }
"""


def card() -> Card:
    """The card, read as the library reads those of its own learners."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metric" / "nearest_neighbour.toml"
        path.parent.mkdir()
        path.write_text(CARD, encoding="utf-8")
        return read_card(path)


def main(steps: int = 50, tasks: int = 100) -> tuple[list[str], qs.Evaluation]:
    glyphs = qs.datasets.load("glyphs")
    learner = NearestNeighbour(qs.backbones.Conv4())

    kept = check_learner(learner, qs.episodes(glyphs.train, ways=5, shots=2, queries=3))
    print(f"{card().title} keeps {len(kept)} laws: {', '.join(kept)}")

    train = qs.episodes(glyphs.train, ways=20, shots=1, queries=5)
    test = qs.episodes(glyphs.test, ways=5, shots=1, queries=15)
    qs.fit(learner, train, steps=steps, tasks_per_step=1)
    result = qs.evaluate(learner, test, tasks=tasks)
    print(result)
    return kept, result


if __name__ == "__main__":
    main()
