"""A learner of your own: nearest neighbour in feature space, tested against the contract."""

from typing import Any

from torch import Tensor, nn

import quickstudy as qs
from quickstudy.contract.check import check_learner
from quickstudy.learners.metric.distances import squared_euclidean
from quickstudy.tasks.examples import labelled, one_hot


class NearestNeighbour(qs.Learner):
    """Maps a support set to the class of the nearest support example."""

    exceptions = {"weight_two_is_twice": "the nearest example is as near when it stands twice"}  # noqa: RUF012

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def adapt(self, support: qs.Examples, spec: qs.TaskSpec) -> dict[str, Tensor]:
        """The state: features, classes and weights of the support set."""
        support = labelled(support)
        features = self.backbone(support.inputs)
        classes = one_hot(support.targets, spec.outputs, features.dtype)
        return {"features": features, "classes": classes, "weights": support.weights}

    def predict(self, state: dict[str, Tensor], inputs: Any, spec: qs.TaskSpec) -> Tensor:
        """Minus the squared distance to the nearest example of each class, (n, outputs)."""
        distances = squared_euclidean(self.backbone(inputs), state["features"])
        belongs = state["classes"] * (state["weights"] > 0).unsqueeze(-1)  # (support, outputs)
        far = distances.unsqueeze(-1).where(belongs > 0, 1e9)
        return -far.min(1).values


def main() -> list[str]:
    glyphs = qs.datasets.load("glyphs")
    learner = NearestNeighbour(qs.backbones.Conv4())
    kept = check_learner(learner, qs.episodes(glyphs.train, ways=5, shots=2, queries=3))
    print("laws kept:", ", ".join(kept))
    return kept


if __name__ == "__main__":
    main()
