"""Density ratios p(target x) / p(source x), with which source rows count as target rows.

A ratio is a function (features (n, d), source weights (n,), target weights (n,)) -> ratios (n,) of
all rows. A row of the source has target weight 0, and the other way round. Rows without either
weight change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.learners.metric.distances import gaussian
from quickstudy.learners.transfer.heads import binary_logistic

Ratio = Callable[[Tensor, Tensor, Tensor], Tensor]

LARGEST_LOGIT = 30.0
"""Of a domain classifier: a ratio of e^30 means that no source row is like that one."""

KLIEP_STEPS, KLIEP_GAP = 5000, 1e-5
"""Most steps of :class:`KLIEP`, and the distance of the mean log-ratio from its maximum at which it
stops: a centre whose rows gain g in a step bounds that distance by g - 1."""

KMM_STEPS, KMM_CHANGE = 1000, 1e-7
"""Most steps of :class:`KMM`, and the largest change of a ratio in a step at which it stops."""


@dataclass(frozen=True)
class DomainClassifier:
    """The ratio from a logistic regression that tells target rows from source rows.

        r(x) = p(target | x) / p(source | x) * n_source / n_target

    ``l2``  penalty, as in :func:`~quickstudy.learners.transfer.heads.logistic`; 1 as in
            scikit-learn.

    n are the sums of the row weights. It is the only ratio here that runs under vmap and is
    differentiable. Raises ValueError unless ``l2`` is positive.

    Reference: Bickel, Brueckner and Scheffer (2007), Discriminative learning for differing training
    and test distributions.
    """

    l2: float = 1.0

    def __post_init__(self) -> None:
        _refuse_not_positive("DomainClassifier", l2=self.l2)

    def __call__(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Ratios (n,)."""
        sign = torch.where(target > 0, 1.0, -1.0).to(features.dtype).unsqueeze(-1)
        weight, offset = binary_logistic(features, sign, source + target, self.l2)
        logits = (features @ weight + offset).squeeze(-1)
        prior = source.sum() / target.sum().clamp_min(torch.finfo(target.dtype).tiny)
        return logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT).exp() * prior


@dataclass(frozen=True)
class KLIEP:
    """The ratio under which the reweighted source is nearest to the target, by KL divergence.

        r(x) = sum_l a_l k(x, c_l)      k(x, c) = exp(-gamma |x - c|^2),  a_l >= 0
        max_a  mean_target log r(x)     where  mean_source r(x) = 1

    ``gammas``   factors on 1 / (d variance of all features). Of several, the one with the largest
                 likelihood in cross-validation over target rows is taken.
    ``centres``  most target rows that are centres c; if there are more, every k-th is one.
    ``folds``    of the cross-validation; target row i is in fold i modulo ``folds``.

    With p_l = a_l mean_source k(., c_l), which sum to 1, this is the likelihood of a mixture of
    known components. The steps of expectation maximisation increase it to its only maximum, and the
    largest mean of a component's share bounds what is missing.

    Raises ValueError for numbers that are not positive.

    Reference: Sugiyama et al. (2008), Direct importance estimation for covariate shift adaptation.
    Differs from the paper in how the same convex problem is solved, and in row weights. In skada
    0.6, whose ascent has a step of machine precision, the result is that of the first step:
    see :class:`~quickstudy.learners.domains.skada_ratios.SkadaKLIEP`.
    """

    gammas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    centres: int = 100
    folds: int = 5

    def __post_init__(self) -> None:
        if not self.gammas:
            raise ValueError("KLIEP: needs at least 1 gamma; found none.")
        for gamma in self.gammas:
            _refuse_not_positive("KLIEP", gammas=gamma)
        _refuse_not_positive("KLIEP", centres=self.centres)
        if self.folds < 2:
            raise ValueError(f"KLIEP: folds must be at least 2; found {self.folds}.")

    def __call__(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Ratios (n,)."""
        x = features.double()
        own, other = x[source > 0], x[target > 0]
        v, w = source[source > 0].double(), target[target > 0].double()
        unit = kernel_unit(x, source + target)
        gamma = unit * self._best_factor(own, other, v, w, unit)
        centres = self._centres(other)
        shares, scale = self._fit(gamma, own, other, v, w, centres)
        kernel = gaussian(x, centres, gamma)
        return (kernel / scale @ shares).to(features.dtype)

    def _best_factor(self, own: Tensor, other: Tensor, v: Tensor, w: Tensor, unit: float) -> float:
        """The factor of the largest held-out likelihood; the first without two target rows."""
        if len(self.gammas) == 1 or len(other) < 2:
            return self.gammas[0]
        fold = torch.arange(len(other), device=other.device) % min(self.folds, len(other))

        def likelihood(factor: float) -> float:
            total = 0.0
            for each in fold.unique():
                kept, held = fold != each, fold == each
                centres = self._centres(other[kept])
                gamma = factor * unit
                shares, scale = self._fit(gamma, own, other[kept], v, w[kept], centres)
                kernel = gaussian(other[held], centres, gamma)
                ratio = (kernel / scale @ shares).clamp_min(torch.finfo(kernel.dtype).tiny)
                total += float(w[held] @ ratio.log())
            return total

        return max(self.gammas, key=likelihood)

    def _centres(self, target: Tensor) -> Tensor:
        return target[:: -(-len(target) // self.centres)]

    def _fit(
        self, gamma: float, own: Tensor, other: Tensor, v: Tensor, w: Tensor, centres: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The components' shares p (centres,), and their means over the source (centres,)."""
        scale = v / v.sum() @ gaussian(own, centres, gamma)
        # A centre that is far from all source rows would have an unbounded a_l.
        scale = scale.clamp_min(torch.finfo(scale.dtype).eps)
        components = gaussian(other, centres, gamma) / scale
        # Beside no centre, as a held-out row may be, a row has no likelihood under any shares.
        components = components.clamp_min(torch.finfo(scale.dtype).tiny)
        shares = torch.full_like(scale, 1 / len(scale))
        for _ in range(KLIEP_STEPS):
            gain = (w / w.sum() / (components @ shares)) @ components
            if float(gain.max()) <= 1 + KLIEP_GAP:
                break
            shares = shares * gain
        return shares, scale


@dataclass(frozen=True)
class KMM:
    """The ratio under which the mean of the reweighted source is the target's, in kernel space.

        min_r  |mean_source r(x) phi(x) - mean_target phi(x)|^2
        where  0 <= r <= largest,  |mean_source r - 1| <= slack

    phi is that of the kernel exp(-gamma |a - b|^2). Rows of the target get ratio 1.

    ``gamma``    factor on 1 / (d variance of all features).
    ``largest``  most that one row may count; 1000 as in the paper.
    ``slack``    None is (sqrt(n) - 1) / sqrt(n) of n source rows, as in the paper.

    Solved by accelerated projected gradient, in float64, until no ratio changes any more or the
    steps are used up: the discrepancy is then at its minimum to about 1e-4, although the ratios,
    which it determines badly, may still differ. Time and memory grow with the square of the rows.

    Raises ValueError for numbers that are not positive.

    Reference: Huang et al. (2007), Correcting sample selection bias by unlabeled data.
    Differs from the paper in row weights. skada 0.6 solves the same problem by 1000 steps of
    Frank and Wolfe: see :class:`~quickstudy.learners.domains.skada_ratios.SkadaKMM`.
    """

    gamma: float = 1.0
    largest: float = 1000.0
    slack: float | None = None

    def __post_init__(self) -> None:
        _refuse_not_positive("KMM", gamma=self.gamma, largest=self.largest)
        if self.slack is not None and not 0 <= self.slack < torch.inf:
            raise ValueError(
                f"KMM: slack must be a number of at least 0; found {self.slack}. Leave it out for "
                "that of the paper."
            )

    def __call__(self, features: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Ratios (n,)."""
        x = features.double()
        kept = source > 0
        own, other = x[kept], x[target > 0]
        v, w = source[kept].double(), target[target > 0].double()
        v, n, w = v / v.sum(), float(v.sum()), w / w.sum()
        gamma = self.gamma * kernel_unit(x, source + target)
        slack = max(0.0, 1 - n**-0.5) if self.slack is None else self.slack
        kernel = gaussian(own, own, gamma)
        goal = gaussian(own, other, gamma) @ w
        solved = self._solve(kernel, goal, v, slack)
        return features.new_ones(len(features)).masked_scatter(kept, solved.to(features.dtype))

    def _solve(self, kernel: Tensor, goal: Tensor, v: Tensor, slack: float) -> Tensor:
        """Ratios r (n,): the gradient in the metric of v is K (v r) - goal."""
        length = 1 / float(torch.linalg.matrix_norm(v.sqrt()[:, None] * kernel * v.sqrt(), 2))
        ratio = ahead = torch.ones_like(v)
        momentum = 1.0
        for _ in range(KMM_STEPS):
            gradient = kernel @ (v * ahead) - goal
            new = self._project(ahead - length * gradient, v, slack)
            change = new - ratio
            if float(change.abs().max()) <= KMM_CHANGE:
                return new
            if float((v * (ahead - new)) @ change) > 0:  # momentum leads uphill: start it again
                momentum, ahead, ratio = 1.0, new, new
                continue
            later = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = new + (momentum - 1) / later * change
            ratio, momentum = new, later
        return ratio

    def _project(self, ratio: Tensor, v: Tensor, slack: float) -> Tensor:
        """The nearest ratios within the bounds, in the metric of v: shifted, then clipped."""
        inside = ratio.clamp(0, self.largest)
        mean = float(v @ inside)
        goal = min(max(mean, 1 - slack), 1 + slack)
        if mean == goal:
            return inside
        low, high = -float(ratio.max()), self.largest - float(ratio.min())
        for _ in range(100):  # bisection, to rounding
            shift = (low + high) / 2
            inside = (ratio + shift).clamp(0, self.largest)
            low, high = (shift, high) if float(v @ inside) < goal else (low, shift)
        return inside


def kernel_unit(x: Tensor, weights: Tensor) -> float:
    """1 / (d variance of all features), as scikit-learn's gamma="scale"; 1 for constant ones."""
    shares = (weights / weights.sum()).double()
    mean = (shares @ x.double()).mean()
    variance = float((shares @ (x.double() - mean).square()).sum()) / x.shape[1]
    return 1 / (x.shape[1] * variance) if variance > torch.finfo(torch.float64).tiny else 1.0


def _refuse_not_positive(who: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{who}: {name} must be positive; found {number}.")
