"""Models of the package timm, ``timm:NAME``: their weights are fetched once, if asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.efficientnet_lite import as_colour
from quickstudy.backbones.pretrained.registry import card
from quickstudy.backbones.pretrained.source import digest_of
from quickstudy.backbones.pretrained.weights import cache_folder, keep, read_kept
from quickstudy.base.atomic import write_atomically
from quickstudy.base.json_text import read_json
from quickstudy.base.shown import shown, told


class TimmBackbone(nn.Module):
    """Pictures (n, channels, height, width) in [0, 1] -> features (n, d) of a model of timm.

    Pictures are brought into the form that the weights were trained on, as timm says it: grey ones
    become three equal channels, others sizes are resized to ``size``, mean and standard deviation
    are those of the training. The whole picture is read; timm's own evaluation cuts off its edges.

    ``model``   gives features (n, num_features): ``timm.create_model(name, num_classes=0)``.
    ``size``    side in pixels to which pictures are resized.
    ``mean``, ``std``  of the pixels in [0, 1], per channel.
    ``resize``  "bicubic" or "bilinear".
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        resize: str = "bicubic",
    ) -> None:
        super().__init__()
        self.model, self.size, self.resize = model, size, resize
        self.features = int(model.num_features)  # type: ignore[arg-type]
        self.input_shape = (3, size, size)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, d)."""
        pixels = as_colour(images, self.size, "TimmBackbone", self.resize)
        features: Tensor = self.model((pixels - self.mean) / self.std)
        return features


def load(name: str, *, size: int | None = None, download: bool = False) -> TimmBackbone:
    """The model ``timm:NAME`` with its pretrained weights: from the cache, else by download.

    They are kept as safetensors, and their hash from the first download on, so that later
    downloads must give the same.

    Raises ImportError without timm, ValueError for a model that timm does not have and for weights
    of another hash than before, FileNotFoundError where they are not in the cache and ``download``
    is False, OSError where the download fails.
    """
    who, model_name = f"pretrained: {name}", name.removeprefix("timm:")
    if not re.fullmatch(r"\w[\w.-]*", model_name, re.ASCII):
        raise ValueError(
            f"{who}: must name a model of timm, as 'timm:resnet18.a1_in1k'; found "
            f"{shown(model_name)}. timm.list_models(pretrained=True) lists them."
        )
    timm = _timm(who, card(name).install)
    folder = cache_folder()
    kept = folder / f"timm--{model_name}.safetensors" if folder else None
    tensors = read_kept(kept) if kept else None
    if tensors is None and not download:
        raise FileNotFoundError(
            f"{who}: its weights are not in the cache{f' ({folder})' if folder else ''}. Fetch "
            f'them once in Python, by qs.pretrained("{name}", download=True); afterwards no '
            "network is used."
        )
    model = _empty(timm, model_name, who)
    if tensors is None:
        model = _fetched(timm, model_name, who)
        tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
        if kept is not None:
            _refuse_other_weights(kept.with_suffix(".json"), digest_of(tensors), who)
            keep(kept, tensors)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{who}: the weights in the cache are of another version of this model "
            f"({told(error)}). Install the version of timm that fetched them, or delete {kept}."
        ) from error
    return _prepared(timm, model, size, who)


def _timm(who: str, install: str) -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise ImportError(
            f"{who}: needs the package timm, which is not installed. Install it with {install}.",
            name="timm",
        ) from error


def _empty(timm: Any, name: str, who: str) -> nn.Module:
    """The model without pretrained weights and without a head."""
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    except Exception as error:  # of a foreign package
        raise ValueError(
            f"{who}: timm cannot make this model ({told(error)}). "
            "timm.list_models(pretrained=True) lists those that have weights."
        ) from error
    return model


def _fetched(timm: Any, name: str, who: str) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # of a foreign package, and of the network
        raise OSError(
            f"{who}: the download of its weights failed ({type(error).__name__}: {told(error)}). "
            "Check the network, and that HF_HUB_OFFLINE is not set."
        ) from error
    return model


def _refuse_other_weights(record: Path, digest: str, who: str) -> None:
    """ValueError where ``record`` says another digest; it is written where there is none."""
    known = read_json(record).get("digest") if record.is_file() else None
    if known is None:
        with suppress(OSError):
            write_atomically(record, json.dumps({"digest": digest}).encode())
    elif known != digest:
        raise ValueError(
            f"{who}: the weights must be those of the first download, with the digest "
            f"{shown(known)}; found {digest}. If they were published anew, delete {record}."
        )


def _prepared(timm: Any, model: nn.Module, size: int | None, who: str) -> TimmBackbone:
    """The model with the form of pictures that it was trained on, tried once."""
    form = timm.data.resolve_data_config({}, model=model)
    channels, side, _ = form["input_size"]
    if channels != 3:
        raise ValueError(f"{who}: must read pictures of 3 channels; found {channels}.")
    resize = "bilinear" if form["interpolation"] == "bilinear" else "bicubic"
    backbone = TimmBackbone(model, size or side, form["mean"], form["std"], resize).eval()
    try:
        with torch.no_grad():
            found = tuple(backbone(torch.zeros(1, 3, 8, 8)).shape)
    except Exception as error:  # of a foreign package
        raise ValueError(
            f"{who}: does not read pictures of {backbone.size} pixels ({told(error)}). Its own "
            f"size is {side}: leave size out."
        ) from error
    if found != (1, backbone.features):
        raise ValueError(
            f"{who}: must give features (n, {backbone.features}); found shape {found} for one "
            "picture. Give another model."
        )
    return backbone
