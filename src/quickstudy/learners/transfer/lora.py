"""LoRA: low-rank changes of a pretrained network's weights, fitted to each support set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from quickstudy.backbones.features import refuse_heads_and_maps
from quickstudy.backbones.low_rank import LowRank
from quickstudy.core import Predictor
from quickstudy.learners.gradient.descend import Adam, Update
from quickstudy.learners.transfer.starting_heads import StartingHead, probe_head
from quickstudy.learners.transfer.trunk import added
from quickstudy.learners.transfer.tuned_learner import TunedLearner


class LoRA(TunedLearner):
    """Maps a support set to the pretrained backbone with low-rank changes, under a fitted head.

        W_l = W_l,0 + (alpha / rank) * up_l down_l          for each chosen layer l
        (up, down, head) take ``steps`` gradient steps on the support set; up starts at 0
        predict = head(f_W(x))

    The backbone's own weights W_0 never change, frozen or not. A predictor's state holds the
    factors' changes and the head alone: with rank 4, a hundredth of a large network.

    ``backbone``  inputs (n, ...) -> features (n, d), pretrained; it may be frozen.
    ``rank``, ``alpha``, ``layers``, ``seed``
                  as for :class:`quickstudy.backbones.LowRank`, which computes W; ``seed`` also
                  decides the order of batches.
    ``head``, ``l2``, ``steps``, ``rate``, ``update``, ``clip``, ``towards_zero``, ``weight_decay``,
    ``batch``, ``folds``, ``feature_length``
                  as for :class:`quickstudy.FineTune`. Weight decay pulls the factors to zero.

    State: ``difference``, the factors' changes by name; ``head``, its ``weight`` (outputs, d) and
    ``bias`` (outputs,); ``present``, ``statistics`` and ``chosen`` as in FineTune's.

    Raises ValueError where FineTune does, and for patterns ``layers`` that match no linear layer or
    convolution.

    Reference: Hu et al. (2022), LoRA: Low-Rank Adaptation of Large Language Models.
    Differs from the paper in adapting all linear layers and convolutions by default, where the
    paper takes the projections of attention, and as LowRank does.

    >>> import torch, quickstudy as qs
    >>> learner = qs.LoRA(qs.backbones.MLP(in_features=2), rank=2, steps=5)
    >>> support = qs.examples(torch.eye(2), [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    layer_decay, unfreeze_every, towards_start = 1.0, None, 0.0

    def __init__(
        self,
        backbone: nn.Module,
        rank: int = 4,
        alpha: float | None = None,
        layers: str | Sequence[str] = "*",
        head: StartingHead = probe_head,
        l2: float = 1.0,
        steps: int | tuple[int, ...] = 20,
        rate: float | tuple[float, ...] = 1e-3,
        update: Update = Adam(),  # noqa: B008  (frozen)
        clip: float | None = None,
        towards_zero: float = 0.0,
        weight_decay: float = 0.0,
        batch: int | None = None,
        seed: int = 0,
        folds: int = 5,
        feature_length: float | None = None,
    ) -> None:
        super().__init__()
        refuse_heads_and_maps(backbone, "LoRA")
        self.network = LowRank(backbone, rank, alpha, layers, seed)
        self.rank, self.alpha, self.layers, self.head, self.l2 = rank, alpha, layers, head, l2
        self.steps, self.rate, self.update, self.clip = steps, rate, update, clip
        self.towards_zero, self.weight_decay = towards_zero, weight_decay
        self.batch, self.seed, self.folds, self.feature_length = batch, seed, folds, feature_length
        names = [name for name, _ in self.network.named_parameters()]
        self.adapted = tuple(name for name in names if name.startswith("factors."))
        self._settled()

    @property
    def backbone(self) -> nn.Module:
        """The pretrained network."""
        return self.network.backbone

    @property
    def adapted_network(self) -> nn.Module:
        """The backbone under its changed weights."""
        return self.network


def merged_weights(predictor: Predictor) -> dict[str, Tensor]:
    """The weights W of the changed layers, by their names in the backbone.

    Loaded into a copy of the backbone, they give the features of this predictor at the cost of the
    backbone alone.

    Raises ValueError for a predictor of another learner than LoRA.
    """
    network, factors = _network_and_factors(predictor, "merged_weights")
    scale = network.scale
    with torch.no_grad():
        own = dict(network.backbone.named_parameters())
        named = {name: f"{name}.weight" if name else "weight" for name in factors}
        return {
            named[name]: own[named[name]] + scale * (up @ down).reshape(own[named[name]].shape)
            for name, (down, up) in factors.items()
        }


def peft_weights(predictor: Predictor) -> dict[str, Tensor]:
    """The factors by the names of PEFT, for its ``set_peft_model_state_dict``.

    The PEFT model must be made of the backbone with ``LoraConfig(r=rank, lora_alpha=alpha or rank,
    target_modules=list(learner.network.keys))``.

    Raises ValueError for a predictor of another learner than LoRA.
    """
    network, factors = _network_and_factors(predictor, "peft_weights")
    found = {}
    for name, (down, up) in factors.items():
        weight = cast(Tensor, network.backbone.get_submodule(name).weight)
        ones = [1] * (weight.ndim - 2)
        prefix = f"base_model.model.{name}"
        found[f"{prefix}.lora_A.weight"] = down.reshape(-1, *weight.shape[1:])
        found[f"{prefix}.lora_B.weight"] = up.reshape(*up.shape, *ones)
    return found


def _network_and_factors(
    predictor: Predictor, who: str
) -> tuple[LowRank, dict[str, tuple[Tensor, Tensor]]]:
    learner = predictor.learner
    if not isinstance(learner, LoRA):
        raise ValueError(
            f"{who}: needs a predictor of LoRA; found one of {type(learner).__name__}. Adapt "
            "qs.LoRA(backbone) first."
        )
    network = learner.network
    own = {name: p.detach() for name, p in network.named_parameters()}
    moved = own | added(own, predictor.state["difference"])
    return network, {
        name: (moved[f"factors.{key}.down"], moved[f"factors.{key}.up"])
        for name, key in network.keys.items()
    }
