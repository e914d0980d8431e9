"""``quickstudy.pretrained``: a backbone by name, with weights from a package or the cache."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from quickstudy.backbones.pretrained.registry import card
from quickstudy.backbones.pretrained.source import PretrainedSource, digest_of, mark, settings
from quickstudy.base.frozen import frozen as freeze
from quickstudy.base.frozen import keep_in_evaluation_mode


def pretrained(
    name: str,
    *,
    size: int | None = None,
    head: bool = False,
    maps: bool = False,
    normalised: bool | None = None,
    frozen: bool = True,
    download: bool = False,
) -> nn.Module:
    """A pretrained network that maps inputs to features, for any learner.

    It reads what this library's data sets and ``qs.examples`` give: pictures (n, channels, height,
    width) in [0, 1] of any size, grey or in colour. Size, scaling and mean belong to it. Texts
    become inputs by its method ``tokenize``.

    The module has ``features``, their number, and ``pretrained_source``, which says where its
    weights come from: saved learners name that and the hash of the weights, instead of copying
    them, as long as the weights are unchanged.

    ``name``      one of :data:`quickstudy.backbones.pretrained.CARDS`, such as
                  "efficientnet-lite0".
    ``size``      for pictures: side in pixels to which they are resized; by default the one that
                  the weights were trained with. Half the side takes a quarter of the time.
    ``head``      for pictures: with the head that the weights were trained with, so that it gives
                  predictions of those classes instead of features.
    ``maps``      for pictures: feature maps of several resolutions in place of features, as one
                  vector, for learners of pixels and boxes: see
                  :class:`quickstudy.backbones.JoinedMaps`.
    ``normalised``  for texts: whether features are divided by their length, so that products of
                  them are cosines; by default as the weights were published.
    ``frozen``    as by :func:`quickstudy.frozen`: neither ``fit`` nor inner steps move its weights.
                  False to train it further; it stays in evaluation mode all the same: norms keep
                  their statistics, and no row's features depend on other rows.
    ``download``  True to fetch weights that are neither installed nor in the cache, where the
                  backbone allows that. Without it the network is never used.

    Raises ValueError for an unknown name, an option that this backbone does not take, and weights
    of another hash than the known one; ImportError, with the command that installs it, where its
    package is missing.

    >>> import torch, quickstudy as qs
    >>> backbone = qs.pretrained("efficientnet-lite0", size=64)
    >>> backbone(torch.rand(2, 3, 84, 84)).shape
    torch.Size([2, 1280])
    >>> learner = qs.Prototypical(backbone)
    """
    facts = card(name)
    options: dict[str, Any] = {"size": size} if size is not None else {}
    options |= {"head": head} if head else {}
    options |= {"maps": maps} if maps else {}
    options |= {"normalised": normalised} if normalised is not None else {}
    _refuse_other_types(options)
    if refused := sorted(set(options) - facts.options):
        takes = ", ".join(sorted(facts.options)) or "no options"
        raise ValueError(
            f"pretrained: {name} does not take {', '.join(refused)}. It takes: {takes}."
        )
    if download and not facts.downloads:
        raise ValueError(
            f"pretrained: {name} has nothing to download: its weights come with a package. Leave "
            f"download out, and install it with {facts.install}."
        )
    if not (frozen or facts.trainable):
        raise ValueError(
            f"pretrained: {name} has weights without gradient, so it cannot be trained. Leave "
            f"frozen=False out, or take all-MiniLM-L6-v2."
        )
    home, function = facts.loader.split(":")
    given = options | ({"download": True} if download else {})
    module: nn.Module = getattr(import_module(home), function)(name, **given)
    # A default is kept too: it may be another one in a later version.
    defaults = {"size": 0, "normalised": True}
    asked = {each: value for each, value in defaults.items() if each in facts.options} | options
    mark(module, PretrainedSource(name, digest_of(module), settings(module, asked)))
    return freeze(module) if frozen else keep_in_evaluation_mode(module)


def _refuse_other_types(options: Mapping[str, Any]) -> None:
    """ValueError for an option that is no whole number of pixels, or neither True nor False."""
    for name, value in options.items():
        wanted, what = (int, "a whole number") if name == "size" else (bool, "True or False")
        if type(value) is not wanted:
            raise ValueError(f"pretrained: {name} must be {what}; found {value!r}. Give one.")
