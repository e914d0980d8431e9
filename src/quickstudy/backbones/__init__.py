"""Networks that map inputs to features or, with ``outputs``, to predictions."""

from quickstudy.backbones.conv4 import Conv4
from quickstudy.backbones.mlp import MLP
from quickstudy.backbones.resnet12 import ResNet12

__all__ = ["MLP", "Conv4", "ResNet12"]
