"""Fine-tuning: a pretrained network and a head on it take gradient steps on each support set."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from quickstudy.backbones.features import refuse_heads_and_maps
from quickstudy.learners.gradient.descend import Adam, Update
from quickstudy.learners.gradient.network import head_of
from quickstudy.learners.transfer.depth import moved_names
from quickstudy.learners.transfer.starting_heads import StartingHead, probe_head
from quickstudy.learners.transfer.tuned_learner import TunedLearner


class FineTune(TunedLearner):
    """Maps a support set to the pretrained backbone and a head after gradient steps on it.

        W, b      = head(f_θ₀(support)),    θ = θ₀
        (θ, W, b) <- update((θ, W, b), ∇ L(θ, W, b), rate * layer_decay^depth),   ``steps`` times
        L         = support loss + ½ towards_start |θ - θ₀|² + ½ towards_zero |W, b|²
                                 + ½ weight_decay |θ, W, b|²
        predict   = W f_θ(x) + b

    With ``head=probe_head``, the default, this is linear probing and then fine-tuning. The backbone
    itself does not change: a predictor's state holds θ - θ₀ of what moved, and the head.

    ``backbone``    inputs (n, ...) -> features (n, d), pretrained or meta-learnt. One that ends in
                    a linear ``head``, as MAML's does, gives the features that this head reads.
    ``adapts``      what moves besides the head: "head" (nothing), "last:k" (the last k layers, see
                    :func:`quickstudy.learners.transfer.depth.layers_of`), "all", or name patterns
                    of the backbone's parameters, such as "blocks.3.*". Frozen parameters do not
                    move.
    ``head``        where the head starts: :func:`probe_head`, :func:`zero_head`,
                    :func:`nearest_mean_head` or :func:`cosine_head` of
                    :mod:`quickstudy.learners.transfer.starting_heads`.
    ``l2``          penalty of the probe that the head starts from, as in LinearProbe.
    ``steps``       number of steps; 0 leaves the start. Several numbers: the best one is chosen.
    ``rate``        of the head. Several rates: the best one is chosen.
    ``update``      the update rule: ``Adam()``, ``Momentum()`` or ``sgd`` of
                    :mod:`quickstudy.learners.gradient.descend`.
    ``clip``        greatest norm of the gradient of all that moves, before ``update``; or None.
    ``layer_decay`` factor on the rate for each layer below the head.
    ``unfreeze_every``  gradual unfreezing: at first the head moves alone, and after every so many
                    steps one layer more, from the last one back. None: all move from the start.
    ``towards_start``   strength of the pull of θ to θ₀ (L2-SP's α).
    ``towards_zero``    strength of the pull of the head to zero (L2-SP's β).
    ``weight_decay``    strength of the pull of all that moves to zero, as in torch.optim.SGD.
    ``batch``       rows of a step; None for all. Batches follow one another in an order that
                    ``seed`` decides.
    ``folds``       of the cross-validation on the support set that chooses ``steps`` and ``rate``:
                    those with the least loss on held-out rows. With fewer than 2 rows of a class it
                    takes the first ones given, and says so.
    ``feature_length``  scale features to this length before the head; None leaves them as they are.

    State: ``difference``, θ - θ₀ by the names of what moved; ``head``, its ``weight`` (outputs, d)
    and ``bias`` (outputs,); ``present`` (ways,) where the answer has classes; ``statistics`` for
    norm="support"; ``chosen``, ``rate`` and ``steps``, where they were chosen.

    Training over many tasks is of first order: the steps count as constants, and the gradient
    passes through θ₀ and the head's start alone.

    Raises ValueError for numbers out of range, patterns that match no trainable parameter, more
    layers than there are, a backbone with a head or with maps, and a loss that is not finite.

    Reference: Kumar et al. (2022), Fine-Tuning Can Distort Pretrained Features and Underperform
    Out-of-Distribution; Howard and Ruder (2018), Universal Language Model Fine-tuning for Text
    Classification, sections 3.2 and 3.3 (decay of the rate by layer, gradual unfreezing); Li,
    Grandvalet and Davoine (2018), Explicit Inductive Bias for Transfer Learning with Convolutional
    Networks, equation 2 (L2-SP).
    Differs from these in steps on the whole support set by default, in the same rate at every step
    (Howard and Ruder's rises and falls), and in unfreezing by steps instead of epochs.

    >>> import torch, quickstudy as qs
    >>> learner = qs.FineTune(qs.backbones.MLP(in_features=2), adapts="last:1", steps=5)
    >>> support = qs.examples(torch.eye(2), [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    def __init__(
        self,
        backbone: nn.Module,
        adapts: str | Sequence[str] = "all",
        head: StartingHead = probe_head,
        l2: float = 1.0,
        steps: int | tuple[int, ...] = 20,
        rate: float | tuple[float, ...] = 1e-3,
        update: Update = Adam(),  # noqa: B008  (frozen)
        clip: float | None = None,
        layer_decay: float = 1.0,
        unfreeze_every: int | None = None,
        towards_start: float = 0.0,
        towards_zero: float = 0.0,
        weight_decay: float = 0.0,
        batch: int | None = None,
        seed: int = 0,
        folds: int = 5,
        feature_length: float | None = None,
    ) -> None:
        super().__init__()
        if head_of(backbone) is None:
            refuse_heads_and_maps(backbone, "FineTune")
        self.backbone, self.adapts, self.head, self.l2 = backbone, adapts, head, l2
        self.steps, self.rate, self.update, self.clip = steps, rate, update, clip
        self.layer_decay, self.unfreeze_every = layer_decay, unfreeze_every
        self.towards_start, self.towards_zero = towards_start, towards_zero
        self.weight_decay, self.batch, self.seed, self.folds = weight_decay, batch, seed, folds
        self.feature_length = feature_length
        self.adapted = tuple(moved_names(backbone, adapts, "FineTune"))
        self._settled()
