"""The four-block convolutional network of few-shot learning."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from quickstudy.backbones.norms import make_norm


class Conv4(nn.Module):
    """Images (n, in_channels, image_size, image_size) -> features (n, features).

    Four blocks of 3x3 convolution, norm, ReLU and 2x2 max-pooling, then flattened: 64 features for
    28x28 images, 1600 for 84x84. With ``outputs`` a linear head follows, as gradient learners need.

    ``channels``    filters per block: 64 in most papers, 32 in MAML's at 84x84.
    ``norm``        "group" | "batch" | "support" | "running": see
                    :mod:`quickstudy.backbones.norms`.
    ``outputs``     size of the linear head; None for features.

    Reference: Vinyals et al. (2016), Matching Networks for One Shot Learning, section 4.1.
    Differs from the paper in the norm: group by default, so that queries do not see one another.
    """

    def __init__(
        self,
        channels: int = 64,
        norm: str = "group",
        *,
        in_channels: int = 1,
        image_size: int = 28,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        side = image_size // 16
        if side < 1:
            raise ValueError(
                f"Conv4: four poolings by 2 need images of 16 pixels or more; found {image_size}."
            )
        self.channels, self.norm, self.outputs = channels, norm, outputs
        self.in_channels, self.image_size = in_channels, image_size
        self.features = channels * side * side
        widths = [in_channels] + [channels] * 4
        self.blocks = nn.Sequential(*(self._block(a, b) for a, b in pairwise(widths)))
        self.head = nn.Linear(self.features, outputs) if outputs else nn.Identity()

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(inputs, outputs, 3, padding=1),
                norm=make_norm(self.norm, outputs),
                relu=nn.ReLU(),
                pool=nn.MaxPool2d(2),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, features), or predictions (n, outputs)."""
        result: Tensor = self.head(self.blocks(images).flatten(1))
        return result
