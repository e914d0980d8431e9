"""ADKF-IFT: a Gaussian process on learnt features, whose kernel is fitted to each support set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import refuse_heads_and_maps, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Answer, Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.metric.distances import squared_euclidean
from quickstudy.learners.outputs import label_vectors, present_entry
from quickstudy.tasks.examples import labelled, weighted_mean, without_absent

Kernel = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Squared distances u in units of the length scale -> similarity k(u), 1 at 0, and k' and k''."""
NUMBERS = 3
"""Parameters fitted to a task, as logarithms: length scale, amplitude, noise."""
START = (0.0, 0.0, -2.3)
"""Where they start, and the mean of their prior: the mean distance, variance 1, noise 0.1."""
_REACH = 1.0
"""The longest step of a logarithm in Newton's method."""


def matern(squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The Matérn kernel of smoothness 5/2, the paper's choice for molecules."""
    far = squares > 1e-12  # at 0 the root has no derivative, but the kernel has
    d = torch.where(far, squares, 1.0).sqrt() * math.sqrt(5)
    small = (-d).exp()
    return (
        torch.where(far, (1 + d + d.square() / 3) * small, 1 - 5 * squares / 6),
        torch.where(far, -5 / 6 * (1 + d) * small, 25 / 12 * squares - 5 / 6),
        torch.where(far, 25 / 12 * small, 25 / 12),
    )


def gaussian(squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(-d^2 / 2)."""
    k = (-squares / 2).exp()
    return k, -k / 2, k / 4


def predictive_density(learner: Any, task: Task) -> Tensor:
    """The mean negative log predictive density () of the queries, each alone.

    Raises TypeError for a learner other than :class:`ADKFIFT`.
    """
    if not isinstance(learner, ADKFIFT):
        raise TypeError(
            f"predictive_density: needs an ADKFIFT learner; found {type(learner).__name__}."
        )
    predictor = learner(task.support, task.spec)
    query = labelled(task.query, task.spec.answer)
    mean, variance = learner._predictive(predictor.state, query.inputs)
    y, there = _signed(query, task.spec, predictor.state.get("present"), mean.dtype)
    error = ((y - mean).square() * there).sum(-1) / there.sum().clamp_min(1)
    density = error / variance + variance.log() + math.log(2 * math.pi)
    return weighted_mean(density / 2, query.weights.to(density))


class ADKFIFT(Learner):
    """Maps a support set to a Gaussian process on features, its kernel fitted to that set.

        t*       = argmin_t  -log N(y; 0, K_t + noise I) - log p(t)            (the inner loss L)
        mean(x)  = k(x)' (K_t* + noise I)^-1 y
        dt*/df   = -(d^2 L / dt dt)^-1  d^2 L / dt df             (implicit function theorem)

    with t the logarithms of length scale, amplitude and noise of the kernel on features f(x).
    ``adapt`` finds t* by ``steps`` of damped Newton. Training changes the features so that the
    process predicts queries well, at the t* that their change would give; since t has three
    numbers, the inverse is exact, and nothing of the way to t* is stored.

    Classes are read as -1 and 1, one output for each class, which share t. Their logits are
    ``scale`` times the mean over the predictive deviation.

    ``backbone``  inputs (n, ...) -> features (n, d).
    ``kernel``    :func:`matern` (the default) or :func:`gaussian`, of squared distances.
    ``steps``     of Newton, 8 by default; 5 bring most tasks to the minimum.
    ``prior``     standard deviation of each logarithm in t; 1. The length scale is measured in the
                  root of the mean squared distance of support rows.
    ``scale``     factor on the logits of classes; 2, for a softmax of 2 classes that is about the
                  normal probability that the target is above 0.

    Objective of training: the negative log predictive density of the queries, each alone, on the
    same -1 and 1 for classes.

    State: ``fitted`` (3,); ``features`` (n, d); ``factor`` (n, n), the Cholesky factor of
    I + W K W / noise for roots W of row weights; ``dual`` (n, outputs), with mean = k' dual;
    ``roots`` (n,); ``length`` (), the unit of the length scale; ``present`` for classes;
    ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, and a backbone with a head or with maps.

    Reference: Chen, Tripp and Hernández-Lobato (2023), Meta-learning Adaptive Deep Kernel Gaussian
    Processes for Molecular Property Prediction. Differs from the paper in Newton in place of
    L-BFGS; in an objective of training of each query alone, where the authors' code takes the joint
    density of all queries; in a normal prior on every logarithm in t (there, on length scale and
    noise, of deviation 0.25) around the root mean squared distance (there, of half the median
    one); and in logits of classes.

    >>> import quickstudy as qs
    >>> learner = qs.ADKFIFT(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals)
    differentiates = True
    objective: Callable[[Learner, Task], Any] = staticmethod(predictive_density)

    def __init__(
        self,
        backbone: nn.Module,
        kernel: Kernel = matern,
        steps: int = 8,
        prior: float = 1.0,
        scale: float = 2.0,
    ) -> None:
        super().__init__()
        refuse_sizes("ADKFIFT", steps=steps)
        if not (prior > 0 and scale > 0):
            raise ValueError(
                f"ADKFIFT: prior and scale must be positive; found prior={prior}, scale={scale}."
            )
        refuse_heads_and_maps(backbone, "ADKFIFT")
        self.backbone, self.kernel, self.steps = backbone, kernel, steps
        self.prior, self.scale = prior, scale

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The kernel fitted to ``support``, and the process given its rows."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        present = present_entry(support, spec)
        y, there = _signed(support, spec, present.get("present"), features.dtype)
        weights = support.weights.to(features.dtype)
        squares = squared_euclidean(features, features).clamp_min(0)
        unit = _mean_square(squares, weights)
        fitted = self._fitted(squares / unit, y * there, weights, there.sum().clamp_min(1))
        length, amplitude, noise = fitted.exp().unbind()
        roots = weights.sqrt()
        matrix = amplitude * self.kernel(squares / unit / length.square())[0]
        factor = _factor(matrix, roots, noise)
        dual = _solve(factor, roots.unsqueeze(-1) * y) * roots.unsqueeze(-1) / noise
        return {
            "fitted": fitted, "features": features, "factor": factor, "dual": dual,
            "roots": roots, "length": unit.sqrt(), "statistics": statistics,
            **present,
        }  # fmt: skip

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Means (n, outputs) of real targets; logits (n, ways) of classes."""
        mean, variance = self._predictive(state, inputs)
        if isinstance(spec.answer, Reals):
            return mean
        logits = self.scale * mean / variance.sqrt().unsqueeze(-1)
        return without_absent(logits, state["present"])

    def uncertainty(self, state: State, inputs: Any) -> Tensor:
        """(n, 1): standard deviations of the predicted targets, with noise."""
        return self._predictive(state, inputs)[1].sqrt().unsqueeze(-1)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), those that the kernel compares."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def _predictive(self, state: State, inputs: Any) -> tuple[Tensor, Tensor]:
        """Mean (n, outputs) and variance (n,) of targets."""
        length, amplitude, noise = state["fitted"].exp().unbind()
        squares = squared_euclidean(self.embed(state, inputs), state["features"]).clamp_min(0)
        near = amplitude * self.kernel(squares / (state["length"] * length).square())[0]
        half = torch.linalg.solve_triangular(
            state["factor"], (near * state["roots"]).mT, upper=False
        )
        variance = amplitude - half.square().sum(0) / noise
        return near @ state["dual"], variance.clamp_min(0) + noise

    def _fitted(self, squares: Tensor, y: Tensor, weights: Tensor, outputs: Tensor) -> Tensor:
        """t* (3,): its value by Newton, its derivative by the implicit function theorem."""
        start = torch.tensor(START, dtype=squares.dtype, device=squares.device)

        def derivatives(t: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
            gradient, curvature = _of_marginal(self.kernel, t, squares, y, weights, outputs)
            prior = torch.eye(len(t), dtype=t.dtype, device=t.device) / self.prior**2
            return gradient + (t - start) / self.prior**2, curvature + prior

        t = start
        with torch.no_grad():
            for _ in range(self.steps):
                t = t - _newton(*derivatives(t, squares.detach()))
        gradient, curvature = derivatives(t, squares)
        # One more step, whose value is about 0 and whose derivative is that of the theorem.
        last: Tensor = torch.linalg.solve(_positive(curvature.detach()), gradient)
        return t - last


def _of_marginal(
    kernel: Kernel, t: Tensor, squares: Tensor, y: Tensor, weights: Tensor, outputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient (3,) and second derivatives (3, 3) in t of -log N(y; 0, K + noise I).

    The mean over ``outputs``; a row of weight w is w equal rows. With C = W K W + noise I for roots
    W of the weights, C_i its derivative by t_i, and a = C^-1 W y:

        g_i  = (tr C^-1 C_i - a' C_i a) / 2
        h_ij = (tr C^-1 C_ij - tr C^-1 C_i C^-1 C_j + 2 a' C_i C^-1 C_j a - a' C_ij a) / 2
    """
    length, amplitude, noise = t.exp().unbind()
    roots = weights.sqrt()
    near = amplitude * roots.unsqueeze(-1) * roots
    u = squares / length.square()
    k, first, second = kernel(u)
    by_length = near * (-2 * u * first)
    by_length_twice = near * (4 * u * first + 4 * u.square() * second)
    identity = torch.eye(len(roots), dtype=k.dtype, device=k.device)
    of_all, of_noise = near * k, noise * identity
    inverse = torch.linalg.inv(of_all + of_noise)
    a = inverse @ (roots.unsqueeze(-1) * y)
    c = torch.stack([by_length, of_all, of_noise])
    zero = torch.zeros_like(of_all)
    twice = torch.stack([
        torch.stack([by_length_twice, by_length, zero]),
        torch.stack([by_length, of_all, zero]),
        torch.stack([zero, zero, of_noise]),
    ])  # fmt: skip
    solved = inverse @ c
    moved = c @ a  # (3, n, outputs)
    fit = (a * moved).sum((-2, -1)) / outputs
    gradient = (solved.diagonal(dim1=-2, dim2=-1).sum(-1) - fit) / 2
    # Rows of weight 0 have none, and those of weight 2 two, of what noise adds.
    extra = (weights.sum() - len(roots)) / 2
    gradient = gradient + extra * torch.tensor([0, 0, 1], dtype=t.dtype, device=t.device)
    traces = (inverse * twice.mT).sum((-2, -1)) - torch.einsum("iab,jba->ij", solved, solved)
    bends = 2 * torch.einsum("iao,ab,jbo->ij", moved, inverse, moved)
    bends = bends - torch.einsum("ao,ijab,bo->ij", a, twice, a)
    return gradient, (traces + bends / outputs) / 2


def _factor(matrix: Tensor, roots: Tensor, noise: Tensor) -> Tensor:
    """The Cholesky factor of I + W K W / noise."""
    identity = torch.eye(len(roots), dtype=matrix.dtype, device=matrix.device)
    factor: Tensor = torch.linalg.cholesky(identity + roots.unsqueeze(-1) * matrix * roots / noise)
    return factor


def _solve(factor: Tensor, y: Tensor) -> Tensor:
    half = torch.linalg.solve_triangular(factor, y, upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor.mT, half, upper=True)
    return solution


def _positive(curvature: Tensor) -> Tensor:
    """A matrix (3, 3) with the absolute eigenvalues of ``curvature``, at least a little."""
    values, vectors = torch.linalg.eigh(curvature)
    positive: Tensor = (vectors * values.abs().clamp_min(1e-3)) @ vectors.mT
    return positive


def _newton(gradient: Tensor, curvature: Tensor) -> Tensor:
    """A step that goes down along every eigenvector, by no more than 1 in any number of t."""
    step: Tensor = torch.linalg.solve(_positive(curvature), gradient)
    return step / (step.abs().max() / _REACH).clamp_min(1)


def _signed(
    rows: Examples, spec: TaskSpec, present: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Targets (n, outputs), classes as -1 and 1, and which outputs there are, as 0 and 1."""
    y = label_vectors(rows, spec.answer, spec.outputs, dtype)
    if present is None:
        return y, y.new_ones(spec.outputs)
    return 2 * y - 1, present.to(dtype)


def _mean_square(squares: Tensor, weights: Tensor) -> Tensor:
    """(): the mean squared distance of pairs of rows, 1 where all are equal."""
    share = weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    mean = share @ squares @ share
    tiny = torch.finfo(mean.dtype).eps
    return torch.where(mean > tiny, mean, 1.0)
