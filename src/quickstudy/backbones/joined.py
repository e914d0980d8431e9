"""Networks of several parts: a head or another network on top of a backbone; features as given."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from quickstudy.backbones.features import feature_size, like


class Features(nn.Identity):
    """Features (n, ``features``) as they are: the backbone of learners on computed features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.input_shape = (features,)


class Flat(nn.Flatten):
    """Inputs (n, ...) as vectors (n, ``features``), for heads on raw inputs."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


class WithHead(nn.Module):
    """Inputs -> predictions (n, outputs): a linear head on the features of ``backbone``.

    For learners that adapt a network which predicts. They adapt the head, and the backbone as far
    as it is not frozen.

    ``backbone``  inputs (n, ...) -> features (n, d); it declares d as its ``features``.
    ``outputs``   size of the head.

    Raises ValueError for a backbone without ``features`` or with a head.

    >>> import quickstudy as qs
    >>> backbone = qs.pretrained("efficientnet-lite0", size=64)
    >>> learner = qs.MAML(qs.backbones.WithHead(backbone, outputs=5))
    >>> learner.adapted
    ('head.weight', 'head.bias')
    """

    def __init__(self, backbone: nn.Module, outputs: int) -> None:
        super().__init__()
        self.backbone, self.outputs = backbone, outputs
        self.features = feature_size(backbone, "WithHead")
        _declare_inputs(self, backbone)
        self.head = like(backbone, nn.Linear(self.features, outputs))

    def forward(self, inputs: Any) -> Tensor:
        """Predictions (n, outputs)."""
        result: Tensor = self.head(self.backbone(inputs))
        return result


class Chain(nn.Module):
    """Inputs -> ``second(first(inputs))``: a network on the features of a backbone.

    ``second``  features (n, d) -> features or predictions; what it declares of these, the chain
                declares too.

    >>> import torch, quickstudy as qs
    >>> backbone = qs.pretrained("efficientnet-lite0", size=64)
    >>> chain = qs.backbones.Chain(backbone, qs.backbones.MLP(backbone.features, (64,)))
    >>> chain.features
    64
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        for name in ("features", "feature_shape", "outputs"):
            if hasattr(second, name):
                setattr(self, name, getattr(second, name))
        _declare_inputs(self, first)

    def forward(self, inputs: Any) -> Any:
        """What ``second`` gives."""
        return self.second(self.first(inputs))


def _declare_inputs(module: nn.Module, first: nn.Module) -> None:
    if hasattr(first, "input_shape"):
        module.input_shape = first.input_shape
