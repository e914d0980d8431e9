"""Networks of several parts: a head or another network on top of a backbone; features as given."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from quickstudy.base.frozen import AnyModule


class Features(nn.Identity):
    """Features (n, ``features``) as they are: the backbone of learners on computed features."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.input_shape = (features,)


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
        self.features = declared_features(backbone, "WithHead")
        _declare_inputs(self, backbone)
        self.head = _like(backbone, nn.Linear(self.features, outputs))

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


def declared_features(backbone: nn.Module, who: str) -> int:
    """The number of features that ``backbone`` declares.

    Raises ValueError, prefixed by ``who``, where it declares none and where it ends in a head.
    """
    features, outputs = (getattr(backbone, name, None) for name in ("features", "outputs"))
    if not isinstance(features, int) or outputs:
        found = f"outputs={outputs}" if outputs else f"features={features!r}"
        raise ValueError(
            f"{who}: needs a backbone that gives features (n, d) and declares d; found {found} of "
            f"{type(backbone).__name__}. Set its attribute `features`, and leave a head out."
        )
    return features


def _declare_inputs(module: nn.Module, first: nn.Module) -> None:
    if hasattr(first, "input_shape"):
        module.input_shape = first.input_shape


def _like(backbone: nn.Module, layer: AnyModule) -> AnyModule:
    """``layer`` in the dtype and on the device of ``backbone``."""
    for parameter in backbone.parameters():
        if parameter.is_floating_point():
            return layer.to(parameter.device, parameter.dtype)
    return layer
