"""Networks that map inputs to features or, with ``outputs``, to predictions.

Names are imported at first use, so that facts about pretrained weights can be listed without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quickstudy.backbones.centre_head import CentreHead
    from quickstudy.backbones.conv4 import Conv4
    from quickstudy.backbones.efficientnet_lite import EfficientNetLite
    from quickstudy.backbones.feature_maps import JoinedMaps, PixelMaps, PixelNet
    from quickstudy.backbones.joined import Chain, Features, WithHead
    from quickstudy.backbones.low_rank import LowRank
    from quickstudy.backbones.mlp import MLP
    from quickstudy.backbones.molecules.fingerprints import Fingerprint, FingerprintMLP
    from quickstudy.backbones.molecules.gin import GIN
    from quickstudy.backbones.remembering import Remembering
    from quickstudy.backbones.resnet12 import ResNet12
    from quickstudy.backbones.text.encoder import TextEncoder
    from quickstudy.backbones.text.entities import EntityEncoder, WordEncoder
    from quickstudy.backbones.text.onnx_encoder import OnnxTextEncoder
    from quickstudy.backbones.text.position_cnn import PositionCNN
    from quickstudy.backbones.text.seq2seq import Seq2Seq
    from quickstudy.backbones.whitened import Whitened

__all__ = [
    "GIN",
    "MLP",
    "CentreHead",
    "Chain",
    "Conv4",
    "EfficientNetLite",
    "EntityEncoder",
    "Features",
    "Fingerprint",
    "FingerprintMLP",
    "JoinedMaps",
    "LowRank",
    "OnnxTextEncoder",
    "PixelMaps",
    "PixelNet",
    "PositionCNN",
    "Remembering",
    "ResNet12",
    "Seq2Seq",
    "TextEncoder",
    "Whitened",
    "WithHead",
    "WordEncoder",
]

_MODULES = {
    "MLP": "mlp",
    "Chain": "joined",
    "CentreHead": "centre_head",
    "Conv4": "conv4",
    "EfficientNetLite": "efficientnet_lite",
    "EntityEncoder": "text.entities",
    "Features": "joined",
    "JoinedMaps": "feature_maps",
    "Fingerprint": "molecules.fingerprints",
    "FingerprintMLP": "molecules.fingerprints",
    "GIN": "molecules.gin",
    "LowRank": "low_rank",
    "OnnxTextEncoder": "text.onnx_encoder",
    "PixelMaps": "feature_maps",
    "PixelNet": "feature_maps",
    "PositionCNN": "text.position_cnn",
    "Remembering": "remembering",
    "ResNet12": "resnet12",
    "Seq2Seq": "text.seq2seq",
    "TextEncoder": "text.encoder",
    "Whitened": "whitened",
    "WithHead": "joined",
    "WordEncoder": "text.entities",
}


def __getattr__(name: str) -> Any:
    if name == "pretrained":
        return import_module("quickstudy.backbones.pretrained")
    if name in _MODULES:
        return getattr(import_module(f"quickstudy.backbones.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
