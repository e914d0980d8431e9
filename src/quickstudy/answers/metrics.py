"""Metrics as functions of tensors, from which the scores are computed."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL = 512
"""Up to this many rows, all pairs are compared, cheap under ``vmap``; above, rows are sorted."""


def roc_auc(scores: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The probability () that a positive row scores higher than a negative one; ties count half.

    ``scores`` (n,); ``targets`` (n,) 1, 0, or NaN where unknown; ``weights`` (n,). NaN where all
    positive or all negative rows have weight 0. Equal to the area under
    the ROC curve (Hanley and McNeil, 1982).
    """
    positive, negative = (weights * (targets == value).to(weights.dtype) for value in (1.0, 0.0))
    if len(scores) <= _SMALL:
        difference = scores.unsqueeze(1) - scores
        wins = (difference > 0).to(weights.dtype) + 0.5 * (difference == 0).to(weights.dtype)
        won = positive @ wins @ negative
    else:
        order = scores.argsort()
        below = torch.cat([negative.new_zeros(1), negative[order].cumsum(0)])
        ordered = scores[order].contiguous()
        less, equal = (below[torch.searchsorted(ordered, scores.contiguous(), right=right)]
                       for right in (False, True))  # fmt: skip
        won = positive @ (less + equal) / 2
    return won / (positive.sum() * negative.sum())


def average_precision(scores: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """sum_k (recall_k - recall_{k-1}) precision_k over falling thresholds: ().

    Arguments as for :func:`roc_auc`; rows with equal scores share a threshold. NaN where positive
    rows have no weight. Equal to scikit-learn's ``average_precision_score``.
    """
    positive, negative = (weights * (targets == value).to(weights.dtype) for value in (1.0, 0.0))
    if len(scores) <= _SMALL:
        reached = (scores >= scores.unsqueeze(1)).to(weights.dtype)
        found, false = reached @ positive, reached @ negative
    else:
        order = scores.argsort(descending=True)
        falling = -scores[order].contiguous()
        last = torch.searchsorted(falling, -scores.contiguous(), right=True) - 1
        found, false = (part[order].cumsum(0)[last] for part in (positive, negative))
    precision = found / (found + false).clamp_min(torch.finfo(found.dtype).tiny)
    return positive @ precision / positive.sum()


def intersection_and_union(
    chosen: Tensor, targets: Tensor, weights: Tensor, classes: int
) -> Tensor:
    """(2, classes): weights of the intersection and the union of chosen and true elements.

    ``chosen``, ``targets`` (n, ...) class ids, -1 where unknown: such elements are left out.
    ``weights`` (n,).
    """
    known = (targets >= 0).to(weights.dtype)
    each = weights.reshape(-1, *[1] * (targets.ndim - 1)) * known
    ids = torch.arange(classes, device=targets.device)
    is_chosen, is_true = ((t.unsqueeze(-1) == ids).to(weights.dtype) for t in (chosen, targets))
    both = (each.unsqueeze(-1) * is_chosen * is_true).flatten(0, -2).sum(0)
    either = (each.unsqueeze(-1) * (is_chosen + is_true)).flatten(0, -2).sum(0) - both
    return torch.stack([both, either])


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) and (m, 4), (left, top, right, bottom): (n, m)."""
    return _overlap(a, b)[0]


def generalised_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """(n, m) in [-1, 1]: falls with the distance of boxes that do not touch.

    Reference: Rezatofighi et al. (2019), Generalized Intersection over Union.
    """
    iou, union = _overlap(a, b)
    low = torch.minimum(a[:, None, :2], b[:, :2])
    high = torch.maximum(a[:, None, 2:], b[:, 2:])
    hull = (high - low).clamp_min(0).prod(-1)
    tiny = torch.finfo(hull.dtype).tiny
    return iou - (hull - union) / hull.clamp_min(tiny)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(a[:, None, :2], b[:, :2])
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).clamp_min(0).prod(-1)
    areas = ((boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(-1) for boxes in (a, b))
    of_a, of_b = areas
    union = of_a[:, None] + of_b - both
    return both / union.clamp_min(torch.finfo(union.dtype).tiny), union


def token_f1(predicted: list[int], true: list[int]) -> float:
    """The harmonic mean of precision and recall over bags of tokens; 1 where both are empty.

    As in SQuAD (Rajpurkar et al., 2016).
    """
    if not predicted or not true:
        return float(predicted == true)
    shared = sum(min(predicted.count(token), true.count(token)) for token in set(true))
    return 2 * shared / (len(predicted) + len(true))


def ngram_counts(predicted: list[int], true: list[int], longest: int) -> list[list[int]]:
    """[shared, predicted, true] numbers of n-grams for n = 1 … ``longest``, as chrF needs.

    Predicted ones count only where the true row has n-grams of that length, as in sacrebleu: none
    of them could have been right.
    """
    from collections import Counter

    counts = []
    for n in range(1, longest + 1):
        of_predicted, of_true = (
            Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
            for tokens in (predicted, true)
        )
        shared = sum((of_predicted & of_true).values())
        counts.append([shared, sum(of_predicted.values()) if of_true else 0, sum(of_true.values())])
    return counts


def chrf(counts: Tensor, beta: float = 2.0) -> Tensor:
    """chrF from n-gram counts (longest, 3): the F-score of mean precision and recall (), in [0, 1].

    An n without predicted or without true n-grams is left out. Reference: Popović (2015), chrF:
    character n-gram F-score for automatic MT evaluation.
    """
    shared, predicted, true = counts.to(torch.float64).unbind(-1)
    valid = (predicted > 0) & (true > 0)
    if not bool(valid.any()):
        return torch.zeros((), dtype=torch.float64)
    precision = (shared[valid] / predicted[valid]).mean()
    recall = (shared[valid] / true[valid]).mean()
    total = beta**2 * precision + recall
    return (1 + beta**2) * precision * recall / total.clamp_min(1e-16)
