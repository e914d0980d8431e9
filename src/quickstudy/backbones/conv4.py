"""Conv4: the convolutional network with four blocks that is usual in few-shot learning."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

from quickstudy.backbones.checks import check_widths
from quickstudy.backbones.kernels.convolution import Conv3x3
from quickstudy.backbones.kernels.pooling import MaxPool2x2
from quickstudy.backbones.norms import make_norm
from quickstudy.base.arguments import typed
from quickstudy.base.modules import fast_on_cpu


class Conv4(nn.Module):
    """Images (n, in_channels, image_size, image_size) -> features (n, features).

    Four blocks of 3x3 convolution, norm, 2x2 max-pooling and ReLU, then flattened: 64 features for
    28x28 images, 1600 for 84x84. With ``outputs`` a linear head follows, as gradient learners need.

    ``channels``    filters per block: 64 in most papers, 32 in MAML's at 84x84.
    ``norm``        "group" | "batch" | "support" | "running": see
                    :mod:`quickstudy.backbones.norms`.
    ``outputs``     size of the linear head; None for features.
    ``pools``       number of blocks that pool, the first ones; with 2, 28x28 images give 7x7 maps.
    ``flat``        whether features are vectors; False for maps (n, channels, side, side), which
                    Relation can compare.

    Reference: Vinyals et al. (2016), Matching Networks for One Shot Learning, section 4.1.
    Differs from the paper in the norm: group by default, so that predictions for queries do not
    depend on other queries.
    """

    @typed
    def __init__(
        self,
        channels: int = 64,
        norm: str = "group",
        *,
        in_channels: int = 1,
        image_size: int = 28,
        outputs: int | None = None,
        pools: int = 4,
        flat: bool = True,
    ) -> None:
        super().__init__()
        check_widths("Conv4", channels=channels, in_channels=in_channels, image_size=image_size)
        check_widths("Conv4", fewest=0, outputs=outputs)
        if not 0 <= pools <= 4:
            raise ValueError(f"Conv4: of its 4 blocks 0 to 4 can pool; found pools={pools}.")
        side = image_size // 2**pools
        if side < 1:
            raise ValueError(
                f"Conv4: {pools} poolings by 2 need images of {2**pools} pixels or more; "
                f"found {image_size}."
            )
        if outputs and not flat:
            raise ValueError("Conv4: a linear head (outputs) needs vectors: leave flat=True.")
        self.channels, self.norm, self.outputs = channels, norm, outputs
        self.in_channels, self.image_size = in_channels, image_size
        self.pools, self.flat = pools, flat
        self.input_shape = (in_channels, image_size, image_size)
        self.features = channels * side * side
        self.feature_shape = (self.features,) if flat else (channels, side, side)
        widths = [in_channels] + [channels] * 4
        self.blocks = nn.Sequential(
            *(self._block(a, b, i < pools) for i, (a, b) in enumerate(pairwise(widths)))
        )
        self.head = nn.Linear(self.features, outputs) if outputs else nn.Identity()

    def _block(self, inputs: int, outputs: int, pool: bool) -> nn.Module:
        return nn.Sequential(
            OrderedDict(
                # The other norms subtract each channel's mean, which would cancel a bias.
                conv=Conv3x3(inputs, outputs, bias=self.norm == "group"),
                norm=make_norm(self.norm, outputs),
                pool=MaxPool2x2() if pool else nn.Identity(),
                relu=nn.ReLU(),  # after pooling: same result, a quarter of the positions
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, features), predictions (n, outputs), or maps."""
        maps: Tensor = self.blocks(fast_on_cpu(images))
        result: Tensor = self.head(maps.flatten(1) if self.flat else maps)
        return result
