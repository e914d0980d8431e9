"""A backbone that gives features, with a linear head on them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class WithHead(nn.Module):
    """Features (n, d) of ``backbone`` -> predictions (n, outputs), by a linear layer ``head``.

    So a network that gives features, such as a pretrained one, can start a gradient learner, which
    adapts a backbone that predicts. Parameters are ``backbone.*`` and ``head.*``:

    >>> import quickstudy as qs
    >>> start = qs.backbones.WithHead(qs.backbones.Conv4(), outputs=5)
    >>> learner = qs.MAML(start, adapts=("backbone.blocks.3.*", "head.*"))

    The head has the dtype and the device of the backbone.

    ``backbone``  inputs (n, ...) -> features (n, d); declares ``features``, the number d.
    ``outputs``   of the tasks: for classification, at least the ways of the largest.

    Raises ValueError for fewer outputs than 1, a backbone that does not declare ``features``, and
    one that ends in a head already.
    """

    def __init__(self, backbone: nn.Module, outputs: int) -> None:
        super().__init__()
        kind = type(backbone).__name__
        if outputs < 1:
            raise ValueError(f"WithHead: outputs must be at least 1; found {outputs}.")
        if getattr(backbone, "outputs", None):
            raise ValueError(
                f"WithHead: needs a backbone that gives features; found {kind}(outputs="
                f"{backbone.outputs}), which ends in a head. Leave its outputs out."
            )
        features = getattr(backbone, "features", None)
        if not isinstance(features, int):
            raise ValueError(
                f"WithHead: needs the number of features, but {kind} does not declare it. Set its "
                "attribute `features`, for example to 512."
            )
        if len(getattr(backbone, "feature_shape", (features,))) != 1:
            raise ValueError(
                f"WithHead: needs features (n, d), but {kind} gives maps of shape "
                f"{tuple(backbone.feature_shape)}. Flatten them: Conv4(flat=True)."  # type: ignore[arg-type]
            )
        self.backbone, self.outputs, self.features = backbone, outputs, features
        if (shape := getattr(backbone, "input_shape", None)) is not None:
            self.input_shape = shape
        like = next((p for p in backbone.parameters() if p.is_floating_point()), None)
        options = {} if like is None else {"dtype": like.dtype, "device": like.device}
        self.head = nn.Linear(features, outputs, **options)  # type: ignore[arg-type]

    def forward(self, inputs: Any) -> Tensor:
        """Predictions (n, outputs)."""
        predictions: Tensor = self.head(self.backbone(inputs))
        return predictions
