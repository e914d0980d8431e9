"""Scores of how well given features suit a target: (features (n, d), targets (n,)) -> float.

Higher is better for all. Each needs one pass over the target rows and trains nothing.

    nearest_neighbours  leave-one-out accuracy of the nearest neighbour       features
    log_me              evidence of a Bayesian linear model                   features
    h_score             share of the features' variance between classes       features
    shrunk_h_score      the same with a shrunk covariance: for few rows       features
    bhattacharyya       overlap of the classes as Gaussians                   features
    leep                likelihood of the targets given source classes        probabilities
    nce                 minus the entropy of targets given source classes     probabilities

The last two read what a *classifier* of source classes says of the rows, (n, source classes).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from quickstudy.answers.classes import one_hot
from quickstudy.evaluation.log_evidence import log_me as log_me
from quickstudy.evaluation.log_evidence import log_me_2021 as log_me_2021
from quickstudy.evaluation.log_evidence import refuse_not_finite

Score = Callable[[Tensor, Tensor], float]

_ROWS_AT_ONCE = 1024
"""Rows whose distances to all others are in memory at once."""


def nearest_neighbours(
    features: Tensor, targets: Tensor, neighbours: int = 1, cosine: bool = True
) -> float:
    """The share of rows whose nearest other rows have the row's own class, in [0, 1].

    ``neighbours``  how many vote; of classes with equally many votes, the nearer one wins. Where
                    one votes and several are equally near, as where features are constant, a row
                    counts by the share of these that have its class.
    ``cosine``      compare directions, as is usual for features of networks; else distances.

    Rows of weight or class unknown must be left out before. A row alone in its class counts as
    wrong.

    Raises ValueError for fewer than 2 classes, and for fewer other rows than ``neighbours``.

    Reference: Sorkhei, Matsoukas, Fredin Haslum, Konuk and Smith (2025), k-NN as a Simple and
    Effective Estimator of Transferability, TMLR: in 42,000 runs it predicted the accuracy after
    fine-tuning better than 23 other scores. Differs from it in leaving out one row at a time,
    since a target here has few.

    >>> import torch
    >>> from quickstudy.evaluation.transfer_scores import nearest_neighbours
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> nearest_neighbours(x, torch.tensor([0, 0, 1, 1]))
    1.0
    """
    f, ids, classes = _of_classes(features, targets, "nearest_neighbours")
    if not 1 <= neighbours < len(f):
        raise ValueError(
            f"nearest_neighbours: neighbours must be from 1 to {len(f) - 1}, the number of other "
            f"rows; found {neighbours}."
        )
    f = F.normalize(f, dim=1) if cosine else f - f.mean(0)
    squares = f.square().sum(1)
    right, rounding = 0.0, 1e-12 * float(squares.max())
    for start in range(0, len(f), _ROWS_AT_ONCE):
        part = f[start : start + _ROWS_AT_ONCE]
        rows = torch.arange(start, start + len(part))
        distances = squares - 2 * part @ f.mT
        distances[rows - start, rows] = math.inf
        if neighbours == 1:
            near = distances <= distances.min(1, keepdim=True).values + rounding
            own = near & (ids == ids[rows].unsqueeze(1))
            right += float((own.sum(1) / near.sum(1).double()).sum())
            continue
        nearest = distances.topk(neighbours, largest=False).indices
        # An earlier neighbour has a slightly larger vote, so that it decides between equal counts.
        votes = 1 - torch.arange(neighbours, dtype=f.dtype) / (2 * neighbours**2)
        counted = (one_hot(ids[nearest], classes, f.dtype) * votes.unsqueeze(-1)).sum(1)
        right += int((counted.argmax(1) == ids[rows]).sum())
    return right / len(f)


def h_score(features: Tensor, targets: Tensor) -> float:
    """tr(cov(f)^+ cov(E[f | y])): the discriminative share of the features' variance.

    At most min(d, classes - 1). With as few rows as features it is near that, whatever the
    features, since the covariance is then nearly singular: see :func:`shrunk_h_score`.

    Reference: Bao et al. (2019), An Information-Theoretic Approach to Transferability in Task
    Transfer Learning, ICIP, definition 2. Differs from it in the pseudo-inverse, as in the
    published implementations.
    """
    f, ids, classes = _of_classes(features, targets, "h_score")
    f = f - f.mean(0)
    between = _class_means(f, ids, classes)
    inverse = torch.linalg.pinv(f.mT @ f, hermitian=True)
    return float(((between @ inverse) * between).sum())


def shrunk_h_score(features: Tensor, targets: Tensor) -> float:
    """tr(S^-1 (1 - a) cov(E[f | y])), S = (1 - a) cov(f) + a tr(cov(f))/d; a of Ledoit and Wolf.

    Reference: Ibrahim, Ponomareva and Mazumder (2022), Newer is not always better: Rethinking
    Transferability Metrics, ECML PKDD; a by Ledoit and Wolf (2004), A well-conditioned estimator
    for large-dimensional covariance matrices, of scikit-learn.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    f, ids, classes = _of_classes(features, targets, "shrunk_h_score")
    f = f - f.mean(0)
    shrinkage = float(ledoit_wolf_shrinkage(f.cpu().numpy(), assume_centered=True))
    covariance = f.mT @ f / len(f)
    size = covariance.diagonal().mean()
    if not float(size) > 0:
        return 0.0  # constant features
    covariance = (1 - shrinkage) * covariance
    covariance.diagonal().add_(shrinkage * size)
    between = _class_means(f, ids, classes)
    solved = torch.linalg.pinv(covariance, hermitian=True) @ between.mT
    return (1 - shrinkage) * float((between.mT * solved).sum()) / len(f)


def bhattacharyya(
    features: Tensor, targets: Tensor, dimensions: int = 64, spherical: bool = False
) -> float:
    """Minus the sum over pairs of classes i != j of exp(-D(i, j)), which is their overlap; <= 0.

        D = sum (μ_i - μ_j)^2 / (8 v) + sum log(v / sqrt(v_i v_j)) / 2,   v = (v_i + v_j) / 2

    ``dimensions``  principal components that the features are reduced to before; 64 in the paper.
    ``spherical``   one variance for each class instead of one for each class and component.

    Variances are at least 1e-6 of the mean variance of all rows, since a class of one row has none.

    Reference: Pándy, Agostinelli, Uijlings, Ferrari and Mensink (2022), Transferability Estimation
    using Bhattacharyya Class Separability, CVPR, equations 2 to 4.
    """
    f, ids, classes = _of_classes(features, targets, "bhattacharyya")
    f = f - f.mean(0)
    _, _, vh = torch.linalg.svd(f, full_matrices=False)
    f = f @ vh[:dimensions].mT
    members = one_hot(ids, classes, f.dtype)
    totals = members.sum(0).unsqueeze(1)
    means = members.mT @ f / totals
    variances = members.mT @ (f - means[ids]).square() / totals
    if spherical:
        variances = variances.mean(1, keepdim=True).expand_as(means)
    variances = variances.clamp_min(max(1e-6 * float(f.square().mean()), 1e-300))
    both = (variances.unsqueeze(1) + variances) / 2
    apart = ((means.unsqueeze(1) - means).square() / both).sum(-1) / 8
    logs = variances.log()
    spread = (both.log() - (logs.unsqueeze(1) + logs) / 2).sum(-1) / 2
    overlap = (-(apart + spread)).exp()
    return float(overlap.diagonal().sum() - overlap.sum())


def leep(probabilities: Tensor, targets: Tensor) -> float:
    """The mean of log sum_z p(y_i | z) θ(x_i)_z, with p(y | z) from the same rows; <= 0.

    ``probabilities``  θ (n, source classes): a source classifier's, which sum to 1 in each row.
    ``targets``        (n,) class ids.

    Raises ValueError for rows that are not probabilities, and for fewer than 2 classes.

    Reference: Nguyen, Hassner, Seeger and Archambeau (2020), LEEP: A New Measure to Evaluate
    Transferability of Learned Representations, ICML, section 3.
    """
    theta, joint, ids = _joint(probabilities, targets, "leep")
    given_source = joint / joint.sum(0).clamp_min(torch.finfo(joint.dtype).tiny)
    predicted = theta @ given_source.mT
    return float(predicted[torch.arange(len(ids)), ids].log().mean())


def nce(probabilities: Tensor, targets: Tensor) -> float:
    """-H(y | z) of the targets given the most probable source class z of each row; <= 0.

    ``probabilities``  (n, source classes), of which only the largest of each row matters.

    Raises ValueError as :func:`leep` does.

    Reference: Tran, Nguyen and Hassner (2019), Transferability and Hardness of Supervised
    Classification Tasks, ICCV, equation 6; with predicted source labels as in Nguyen et al. (2020).
    """
    theta = probabilities.double()
    if theta.numel():
        _refuse_no_probabilities(theta, "nce")
    _, joint, _ = _joint(one_hot(theta.argmax(1), theta.shape[1], theta.dtype), targets, "nce")
    given_source = joint / joint.sum(0).clamp_min(torch.finfo(joint.dtype).tiny)
    return float(torch.special.xlogy(joint, given_source).sum())


def _joint(theta: Tensor, targets: Tensor, who: str) -> tuple[Tensor, Tensor, Tensor]:
    """θ in float64, the joint distribution (classes, source classes) of y and z, and the ids."""
    theta, ids, classes = _of_classes(theta, targets, who)
    _refuse_no_probabilities(theta, who)
    return theta, one_hot(ids, classes, theta.dtype).mT @ theta / len(theta), ids


def _refuse_no_probabilities(theta: Tensor, who: str) -> None:
    sums = theta.sum(1)
    worst = float(sums[(sums - 1).abs().argmax()])
    if bool((theta < 0).any()) or not abs(worst - 1) < 1e-3:
        raise ValueError(
            f"{who}: needs a source classifier's probabilities (n, source classes), which are at "
            f"least 0 and sum to 1; found a row that sums to {worst:g} and a smallest entry of "
            f"{float(theta.min()):g}. Give logits.softmax(-1), or use a "
            "score of features, such as nearest_neighbours."
        )


def _of_classes(features: Tensor, targets: Tensor, who: str) -> tuple[Tensor, Tensor, int]:
    """Features (n, d) in float64, ids (n,) renumbered without gaps, and the number of classes."""
    if targets.is_floating_point() or targets.ndim != 1:
        raise ValueError(
            f"{who}: needs class ids (n,); found {targets.dtype} of shape {tuple(targets.shape)}. "
            "For real targets use log_me."
        )
    if features.ndim != 2 or len(features) != len(targets):
        raise ValueError(
            f"{who}: needs one vector of features for each of {len(targets)} targets; found shape "
            f"{tuple(features.shape)}. Flatten the features of each row."
        )
    refuse_not_finite(features, who)
    present, ids = targets.unique(return_inverse=True)
    if len(present) < 2:
        raise ValueError(
            f"{who}: needs rows of at least 2 classes; found {len(present)}. Add rows of another."
        )
    return features.double(), ids, len(present)


def _class_means(features: Tensor, ids: Tensor, classes: int) -> Tensor:
    """(n, d): the mean of each row's class."""
    members = one_hot(ids, classes, features.dtype)
    return (members.mT @ features / members.sum(0).unsqueeze(1))[ids]
