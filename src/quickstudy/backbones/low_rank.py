"""Low-rank adaptation: a network to whose weights products of small factors are added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from quickstudy.base.replica import call_with
from quickstudy.base.shown import shown
from quickstudy.base.words import first_few

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Module):
    """``backbone`` under the weights W + (alpha / rank) * up @ down of some of its layers.

    ``up`` (outputs, rank) starts at zero, so that at first nothing changes; ``down`` (rank, inputs)
    starts at random numbers that ``seed`` decides. A convolution's weight (outputs, inputs,
    height, width) counts as a matrix (outputs, inputs * height * width).

    The backbone's own parameters stay where they are and as they are, trainable or frozen; the
    factors are ``factors.<layer>.up`` and ``.down``, with a dash for each dot in the layer's name.

    ``backbone``  inputs (n, ...) -> features (n, d), or predictions.
    ``rank``      of the factors; 4 or 8 are usual.
    ``alpha``     the factors' scale; None for ``rank``, a scale of one.
    ``layers``    name patterns of the layers that get factors; by default all linear layers and
                  convolutions, but for convolutions in groups, whose matrices are small.
    ``seed``      of the random numbers.

    ``keys``      the names of the layers, each with its name among ``factors``.

    Raises ValueError for a rank below 1, an alpha that is not positive, and patterns that match no
    linear layer or convolution.

    Reference: Hu et al. (2022), LoRA: Low-Rank Adaptation of Large Language Models, equation 3.
    Differs from the paper in the start of ``down``: uniform as by ``nn.init.kaiming_uniform_`` with
    a = √5, as in its authors' code, where the paper names a Gaussian; and in adding up @ down to W
    first, where the code multiplies each input by both: the results are the same.

    >>> import torch, quickstudy as qs
    >>> network = qs.backbones.LowRank(qs.backbones.MLP(in_features=2), rank=4)
    >>> x = torch.eye(2)
    >>> bool((network(x) == network.backbone(x)).all())
    True
    """

    def __init__(
        self,
        backbone: nn.Module,
        rank: int = 8,
        alpha: float | None = None,
        layers: str | Sequence[str] = "*",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"LowRank: rank must be at least 1; found {rank}.")
        if alpha is not None and not 0 < alpha < math.inf:
            raise ValueError(f"LowRank: alpha must be a positive number; found {alpha}.")
        self.backbone, self.rank, self.alpha = backbone, rank, alpha
        self.layers, self.seed = layers, seed
        for name in ("features", "feature_shape", "outputs", "input_shape"):
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))
        generator = torch.Generator().manual_seed(seed)
        found = _layers(backbone, layers)
        self.keys = {name: name.replace(".", "-") or "itself" for name in found}
        self.factors = nn.ModuleDict({
            self.keys[name]: _Factors(cast(Tensor, layer.weight), rank, generator)
            for name, layer in found.items()
        })  # fmt: skip

    def forward(self, inputs: Any) -> Any:
        """What the backbone gives for ``inputs`` under the changed weights."""
        return call_with(self.backbone, self.merged(), inputs)

    def merged(self) -> dict[str, Tensor]:
        """The changed weights by their names in the backbone."""
        weights = {}
        for name, key in self.keys.items():
            own = cast(Tensor, self.backbone.get_submodule(name).weight)
            factors = cast(_Factors, self.factors[key])
            change = self.scale * (factors.up @ factors.down)
            weights[f"{name}.weight" if name else "weight"] = own + change.reshape(own.shape)
        return weights

    @property
    def scale(self) -> float:
        """The factor on the changes, alpha / rank."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank


class _Factors(nn.Module):
    """The two factors of a change of ``weight``."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.shape[0], weight[0].numel()
        bound = 1 / math.sqrt(inputs)
        start = torch.rand(rank, inputs, generator=generator, device="cpu") * 2 - 1
        self.down = nn.Parameter((bound * start).to(weight.device, weight.dtype))
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))


def _layers(backbone: nn.Module, patterns: str | Sequence[str]) -> dict[str, nn.Module]:
    """The layers that get factors, by name."""
    every = isinstance(patterns, str) and patterns == "*"
    given = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    possible = {
        name: module for name, module in backbone.named_modules()
        if isinstance(module, _KINDS) or getattr(module, "convolves", False)
    }  # fmt: skip
    for pattern in given:
        if not any(fnmatchcase(name, pattern) for name in possible):
            raise ValueError(
                f"LowRank: layers={shown(pattern)} matches no linear layer or convolution. The "
                f"backbone has: {first_few(list(possible), 8) or 'none'}."
            )
    found: dict[str, nn.Module] = {
        name: module for name, module in possible.items()
        if any(fnmatchcase(name, pattern) for pattern in given)
        and not (every and getattr(module, "groups", 1) > 1)
    }  # fmt: skip
    if not found:
        raise ValueError(
            f"LowRank: layers={shown(patterns)} leaves no layer for factors. Give name patterns of "
            f"the layers: {first_few(list(possible), 8)}."
        )
    return found
