"""``quickstudy.featurise``: the features of data, computed once, in place of their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import rows_see_one_another
from quickstudy.backbones.pretrained.feature_cache import FeatureStore, Key, feature_cache, keys_of
from quickstudy.backbones.pretrained.source import source_of, unchanged
from quickstudy.base.door import dtype_for, to_inputs
from quickstudy.base.modules import device_of
from quickstudy.base.trees import dtype_and_shape, leaves, map_tree, rows
from quickstudy.core import Examples
from quickstudy.datasets.dataset import Dataset
from quickstudy.datasets.progress import Bar
from quickstudy.tasks.rows import LabelledRows

Data = TypeVar("Data", LabelledRows, Dataset, Examples)

_KEPT_AT_ONCE = 512
"""Rows after which features are written, so that an interruption loses no more."""


def featurise(data: Data, backbone: nn.Module, *, batch: int = 8, cache: bool = True) -> Data:
    """``data`` with features (n, d) of ``backbone`` in place of the inputs.

    Tasks on features cost hundreds of times less: a learner on them needs no backbone, or a small
    one.

    Features of a pretrained backbone are kept on disk (``features`` in ``$QUICKSTUDY_DATA``, else
    in the user's cache folder) by the content of each input and by the weights and options of the
    backbone, so that each picture is computed once, in whatever data set it is; damaged files are
    computed again. The features of other backbones are computed each time: no file can tell
    whether their code is the same. Where no folder can be written, so are all.

    ``data``      rows of classes, a data set with its three splits, or examples.
    ``backbone``  in evaluation mode, as :func:`quickstudy.pretrained` and :func:`quickstudy.frozen`
                  give it.
    ``batch``     inputs that are computed at once. On a CPU more than 8 are no faster; on a GPU
                  try 256.
    ``cache``     False neither reads nor writes kept features.

    Raises ValueError for a backbone in training mode, for one whose features of a row depend on
    other rows, and for one that gives no tensor (n, ...).

    >>> import torch, quickstudy as qs
    >>> photographs = qs.LabelledRows.from_labels(torch.rand(4, 3, 32, 32), ["cat", "dog"] * 2)
    >>> backbone = qs.pretrained("efficientnet-lite0", size=32)
    >>> qs.featurise(photographs, backbone, cache=False)
    LabelledRows(4 rows of 2 classes, (1280,) float32)
    """
    refuse_changing_features(backbone)
    if batch < 1:
        raise ValueError(f"featurise: batch must be at least 1; found {batch}.")
    source = source_of(backbone)
    kept = feature_cache(source) if cache and source is not None and unchanged(backbone) else None
    found: Data = _featurised(data, backbone, batch, kept)
    return found


def refuse_changing_features(backbone: nn.Module) -> None:
    """ValueError for a backbone whose features of a row are not the same each time."""
    if any(module.training for module in backbone.modules()):
        raise ValueError(
            "featurise: needs a backbone in evaluation mode, whose features of an input are the "
            "same each time; found one in training mode. Freeze it: qs.frozen(backbone)."
        )
    if rows_see_one_another(backbone):
        raise ValueError(
            "featurise: features of an input must not depend on other inputs, but this backbone "
            "normalises by statistics of the rows at hand. Use norm='group' or norm='running'."
        )


def _featurised(data: Any, backbone: nn.Module, batch: int, kept: FeatureStore | None) -> Any:
    if isinstance(data, Dataset):
        train, val, test = (
            _featurised(split, backbone, batch, kept) if len(split) else split
            for split in data.splits.values()
        )
        val = val if len(val) else train.without_classes()  # with inputs of the same shape
        return replace(data, train=train, val=val, test=test)
    if isinstance(data, LabelledRows):
        return replace(data, inputs=features_of(data.inputs, backbone, batch, kept))
    if isinstance(data, Examples):
        return data._replace(inputs=features_of(data.inputs, backbone, batch, kept))
    raise ValueError(
        f"featurise: needs LabelledRows, a Dataset or Examples; found {type(data).__name__}. "
        "Make them by qs.LabelledRows.from_labels or qs.examples."
    )


def features_of(
    inputs: Any, backbone: nn.Module, batch: int = 8, kept: FeatureStore | None = None
) -> Tensor:
    """The features (n, ...) of ``inputs``, on their device; those that ``kept`` has are read."""
    if not rows(inputs):
        raise ValueError("featurise: needs at least 1 row; found none. Leave such data out.")
    keys = keys_of(inputs, rows(inputs))
    known = kept.read() if kept is not None else {}
    missing = {key: row for row, key in enumerate(keys) if key not in known}
    with Bar("Computing features", len(missing), "inputs") as bar:
        for some in _chunks([*missing.items()], max(batch, _KEPT_AT_ONCE)):
            new: dict[Key, Tensor] = {}
            for part in _chunks(some, batch):
                chosen = torch.tensor([row for _, row in part])
                computed = _computed(backbone, map_tree(lambda leaf, at=chosen: leaf[at], inputs))
                new |= zip((key for key, _ in part), computed, strict=True)
                bar.update(len(part))
            if kept is not None:
                with suppress(OSError):  # a full disk: the features are there all the same
                    kept.write(new)
            known |= new
    return torch.stack([known[key] for key in keys]).to(next(leaves(inputs)).device)


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _computed(backbone: nn.Module, some: Any) -> Tensor:
    """The features of a few inputs, as they are stored in data sets."""
    device = device_of(backbone)
    inputs = to_inputs(some, "featurise", dtype_for(backbone, some))
    with torch.no_grad():
        features = backbone(map_tree(lambda leaf: leaf.to(device), inputs))
    if not isinstance(features, Tensor) or features.shape[:1] != (rows(some),):
        raise ValueError(
            f"featurise: a backbone must give a tensor of features, one row for each of "
            f"{rows(some)} inputs; found {dtype_and_shape(features)}."
        )
    return features.cpu()
