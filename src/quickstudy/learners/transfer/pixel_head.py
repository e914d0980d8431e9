"""A head for every pixel, and the layers below it, fine-tuned on pictures with masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quickstudy.answers.pixels import Pixels
from quickstudy.backbones.norms import embed_support
from quickstudy.base.replica import call_with
from quickstudy.base.trees import concatenate
from quickstudy.core import Answer, Examples, State, TaskSpec
from quickstudy.learners.gradient.descend import Adam, Update, Weights
from quickstudy.learners.gradient.network import head_of
from quickstudy.learners.metric.masks import at_extent, checked_maps, extent_of, refuse_vectors
from quickstudy.learners.transfer.choosing import Chosen, starting_weights
from quickstudy.learners.transfer.depth import moved_names
from quickstudy.learners.transfer.starting_heads import zero_head
from quickstudy.learners.transfer.trunk import Trunk
from quickstudy.learners.transfer.tuned_learner import TunedLearner, order_of_batches
from quickstudy.learners.transfer.tuning import BIAS, BODY, WEIGHT, Problem, head_on
from quickstudy.tasks.examples import labelled, without_absent


class PixelHead(TunedLearner):
    """Maps pictures with masks to a network and a head for every pixel after gradient steps.

        W, b      = 0,    θ = θ₀
        (θ, W, b) <- update((θ, W, b), ∇ L(θ, W, b), rate),   ``steps`` times
        L         = cross-entropy of W f_θ(x) + b at every position, on ``batch`` pictures
        predict   = the mean over the symmetries s of  s⁻¹ (W f_θ(s x) + b), enlarged

    as :class:`quickstudy.FineTune` does for whole inputs. It needs no training over other tasks: a
    frozen pretrained network below new layers, or a small one from scratch, learns from the support
    set alone. With ``symmetries`` it learns from all rotations by 90 degrees and mirror images of
    the support, and predicts the mean over those of a query.

    ``backbone``    pictures (n, channels, side, side) -> maps (n, d, h, w), such as a frozen
                    network with :class:`quickstudy.backbones.PixelMaps`, or
                    :class:`quickstudy.backbones.PixelNet`.
    ``adapts``      what moves besides the head: "all" that is not frozen, "last:k", "head"
                    (nothing) or name patterns, as for FineTune.
    ``steps``       number of steps. The start of the head is 0, so 0 steps say nothing.
    ``rate``        of the first step; it falls to 0 along half a cosine.
    ``batch``       pictures of a step; None for all. They follow one another in an order that
                    ``seed`` decides.
    ``symmetries``  whether to use the eight symmetries of a square; False where up is not down, as
                    for letters.
    ``update``      the update rule of :mod:`quickstudy.learners.gradient.descend`.
    ``clip``        greatest norm of the gradient of all that moves; or None.
    ``weight_decay``  strength of the pull of all that moves to zero.

    Masks are reduced to the size of the maps (the pixel nearest to the middle of each cell), and
    predictions enlarged to the size of the masks (bilinear).

    State: that of FineTune, and ``extent`` (h, w, 0), whose shape is the size of the masks.

    Training over many tasks is of first order, as for FineTune.

    Raises ValueError for numbers out of range, patterns that match no trainable parameter, a
    backbone of vectors, pictures that are not square where symmetries are used, and a loss that is
    not finite.

    Reference: Long, Shelhamer and Darrell (2015), Fully Convolutional Networks for Semantic
    Segmentation, section 4 (a pretrained network, a head at every position, fine-tuned).
    Differs from the paper in the support set, of a few pictures instead of thousands, in what is
    frozen, and in the symmetries.

    >>> import torch, quickstudy as qs
    >>> learner = qs.PixelHead(qs.backbones.PixelNet(in_channels=1, width=8), steps=2)
    >>> pictures = torch.rand(2, 1, 16, 16)
    >>> support = qs.examples(pictures, (pictures[:, 0] > 0.5).long())
    >>> learner(support, qs.segmentation(2))(pictures).shape
    torch.Size([2, 16, 16, 2])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Pixels,)
    falling = True

    def __init__(
        self,
        backbone: nn.Module,
        adapts: str | Sequence[str] = "all",
        steps: int = 150,
        rate: float = 1e-2,
        batch: int | None = 2,
        symmetries: bool = True,
        update: Update = Adam(),  # noqa: B008  (frozen)
        clip: float | None = 1.0,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse_vectors(backbone, "PixelHead")
        if head_of(backbone) is not None:
            raise ValueError(
                "PixelHead: makes a head of its own; found a backbone with a linear head. Give one "
                "that gives maps (n, channels, height, width)."
            )
        self.backbone, self.adapts, self.steps, self.rate = backbone, adapts, steps, rate
        self.batch, self.symmetries, self.update, self.clip = batch, symmetries, update, clip
        self.weight_decay, self.seed = weight_decay, seed
        self.head, self.l2, self.layer_decay, self.unfreeze_every = zero_head, 1.0, 1.0, None
        self.towards_start = self.towards_zero = 0.0
        self.folds, self.feature_length = 2, None
        self.adapted = tuple(moved_names(backbone, adapts, "PixelHead"))
        self._settled()
        if batch is not None:
            why = "the pixels of a picture get into one batch, those of two pictures into two"
            self.exceptions = {**self.exceptions, "unknown_element_is_absent": why}  # type: ignore[misc]

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The differences and the head after the steps on ``support``."""
        present = spec.answer.present(support.targets, support.weights)
        state = super().adapt(support, spec)
        like = state["head"]["bias"]
        return state | {"present": present, "extent": extent_of(support.targets, like)}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, h, w, k), of the size of the support's masks."""
        found = [
            back(self._logits(state, turned(inputs)), axes=(2, 3))
            for turned, back in _symmetries(self.symmetries)
        ]
        return at_extent(torch.stack(found).mean(0), state, spec)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Maps (n, d, h, w) of the network under its moved weights."""
        return checked_maps(super().embed(state, inputs), "PixelHead")

    def _logits(self, state: State, inputs: Any) -> Tensor:
        """(n, k, h, w), of the size of the maps."""
        head, maps = state["head"], self.embed(state, inputs).movedim(1, -1)
        return head_on(maps, head["weight"], head["bias"], None).movedim(-1, 1)

    def _prepared(self, support: Examples, spec: TaskSpec) -> tuple[Problem, Weights, Chosen]:
        support = self._with_symmetries(labelled(support, spec.answer))
        groups, tuning = self._groups(), self._tuning()
        self._test_reach(support, spec, groups)
        maps, _ = embed_support(partial(call_with, self.backbone, {}), support)
        checked_maps(maps, "PixelHead")
        rows = support._replace(targets=_reduced(support.targets, maps.shape[-2:]))
        trunk = Trunk(self.backbone, support, maps.detach(), {})
        order = order_of_batches(support, tuning)
        problem = _PixelProblem(trunk, rows, spec, groups, tuning, order)
        start = starting_weights(problem, self.head, self.l2, maps.movedim(1, -1))
        return problem, start, Chosen(self.rate, self.steps)

    def _with_symmetries(self, support: Examples) -> Examples:
        if not self.symmetries:
            return support
        inputs = support.inputs
        if not isinstance(inputs, Tensor) or inputs.ndim != 4 or inputs.shape[2] != inputs.shape[3]:
            found = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ValueError(
                f"PixelHead: symmetries need square pictures (n, channels, side, side); found "
                f"{found}. Resize the pictures, or give symmetries=False."
            )
        copies = [
            support._replace(inputs=turned(inputs), targets=turned(support.targets, axes=(1, 2)))
            for turned, _ in _symmetries(True)
        ]
        all_rows: Examples = concatenate(*copies)
        return all_rows


@dataclass(frozen=True)
class _PixelProblem(Problem):
    """The problem whose rows are maps: a prediction for each position."""

    def predictions(self, weights: Weights, chosen: Tensor | None = None) -> Tensor:
        """Predictions (n, h, w, outputs) for the rows, or for the ``chosen`` ones."""
        body = {n.removeprefix(BODY): w for n, w in weights.items() if n.startswith(BODY)}
        maps = self.trunk.features(body, chosen).movedim(1, -1)
        return without_absent(head_on(maps, weights[WEIGHT], weights[BIAS], None), self.present)


@dataclass(frozen=True)
class _Turn:
    """A rotation by ``quarters`` of 90 degrees and then, with ``mirror``, left for right."""

    quarters: int
    mirror: bool
    inverse: bool = False

    def __call__(self, pictures: Tensor, axes: tuple[int, int] = (2, 3)) -> Tensor:
        if self.inverse:
            flipped = pictures.flip(axes[1]) if self.mirror else pictures
            return torch.rot90(flipped, -self.quarters, axes)
        turned = torch.rot90(pictures, self.quarters, axes)
        return turned.flip(axes[1]) if self.mirror else turned


def _symmetries(all_eight: bool) -> list[tuple[_Turn, _Turn]]:
    """The symmetries of a square, each with its inverse; or that alone which changes nothing."""
    turns = [(q, m) for m in (False, True) for q in range(4)] if all_eight else [(0, False)]
    return [(_Turn(q, m), _Turn(q, m, inverse=True)) for q, m in turns]


def _reduced(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (n, h, w) at a smaller or larger size: the pixel nearest to the middle of each cell."""
    rows, columns = (
        ((torch.arange(new, device=masks.device) + 0.5) * old / new).long()
        for old, new in zip(masks.shape[1:], size, strict=True)
    )
    return masks[:, rows][:, :, columns]
