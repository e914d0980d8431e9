"""ResNet-12: the residual network with twelve layers that is usual in few-shot learning."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from quickstudy.backbones.checks import check_widths
from quickstudy.backbones.kernels.pooling import MaxPool2x2
from quickstudy.backbones.norms import make_norm
from quickstudy.base.arguments import typed
from quickstudy.base.modules import fast_on_cpu


class ResNet12(nn.Module):
    """Images (n, in_channels, height, width) -> features (n, channels[-1]).

    Four residual blocks of three 3x3 convolutions with leaky ReLU (negative slope 0.1), each
    followed by 2x2 max-pooling, then the mean over positions. Images need a side of at least 16
    pixels. With ``outputs`` a linear head follows.

    ``channels``  width of the four blocks.
    ``norm``      "group" | "batch" | "support" | "running": see :mod:`quickstudy.backbones.norms`.

    Reference: Oreshkin, Rodríguez and Lacoste (2018), TADAM; widths as in Lee et al. (2019),
    MetaOptNet.
    Differs from MetaOptNet in having no DropBlock, which would make ``adapt`` random,
    and in the norm: group by default.
    """

    @typed
    def __init__(
        self,
        channels: tuple[int, int, int, int] = (64, 160, 320, 640),
        norm: str = "group",
        *,
        in_channels: int = 3,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        channels = tuple(channels)  # type: ignore[assignment]  # a list when read from JSON
        if len(channels) != 4:
            raise ValueError(f"ResNet12: needs the widths of 4 blocks; found {channels}.")
        check_widths("ResNet12", channels=channels, in_channels=in_channels)
        check_widths("ResNet12", fewest=0, outputs=outputs)
        self.channels, self.norm, self.outputs = channels, norm, outputs
        self.in_channels = in_channels
        self.input_shape = (in_channels, 16, 16)  # the smallest that it takes
        self.features = channels[-1]
        widths = (in_channels, *channels)
        self.blocks = nn.Sequential(*(_Block(a, b, norm) for a, b in pairwise(widths)))
        self.head = nn.Linear(self.features, outputs) if outputs else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, channels[-1]), or predictions (n, outputs)."""
        result: Tensor = self.head(self.blocks(fast_on_cpu(images)).mean((-2, -1)))
        return result


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        widths = (inputs, outputs, outputs, outputs)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(make_norm(norm, outputs) for _ in range(3))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.shortcut_norm = make_norm(norm, outputs)
        self.pool = MaxPool2x2()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut_norm(self.shortcut(x))
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            x = leaky_relu(x + shortcut if i == 2 else x, 0.1)
        pooled: Tensor = self.pool(x)
        return pooled
