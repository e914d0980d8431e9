"""Networks that map inputs to features or, with ``outputs``, to predictions.

Names are imported at first use, so that facts about pretrained weights can be listed without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quickstudy.backbones.conv4 import Conv4
    from quickstudy.backbones.efficientnet_lite import EfficientNetLite
    from quickstudy.backbones.low_rank import LowRank
    from quickstudy.backbones.mlp import MLP
    from quickstudy.backbones.resnet12 import ResNet12
    from quickstudy.backbones.with_head import WithHead

__all__ = ["MLP", "Conv4", "EfficientNetLite", "LowRank", "ResNet12", "WithHead"]

_MODULES = {
    "MLP": "mlp",
    "Conv4": "conv4",
    "EfficientNetLite": "efficientnet_lite",
    "LowRank": "low_rank",
    "ResNet12": "resnet12",
    "WithHead": "with_head",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"quickstudy.backbones.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
