"""Where the linear head of a fine-tuned network starts: functions of the support set's features.

    (features (n, d), support rows, spec, l2) -> weight (outputs, d), bias (outputs,)

``l2`` is the penalty of :func:`probe_head`; the others ignore it. None of them draws random
numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quickstudy.answers import Classes, Reals
from quickstudy.core import Examples, TaskSpec
from quickstudy.learners.outputs import element_weights, label_vectors
from quickstudy.learners.transfer.heads import logistic, ridge
from quickstudy.learners.transfer.linear_probe import fitted
from quickstudy.tasks.examples import class_means

StartingHead = Callable[[Tensor, Examples, TaskSpec, float], tuple[Tensor, Tensor]]
"""(features, support rows, spec, l2) -> weight (outputs, d), bias (outputs,)."""


def probe_head(
    features: Tensor, support: Examples, spec: TaskSpec, l2: float
) -> tuple[Tensor, Tensor]:
    """The optimum of the linear probe: logistic for classes and labels, ridge for real numbers.

    So fine-tuning starts at the predictions of :class:`quickstudy.LinearProbe` (with
    ``head=logistic`` for classes and labels) of the same ``l2``.

    Reference: Kumar, Raghunathan, Jones, Ma and Liang (2022), Fine-Tuning Can Distort Pretrained
    Features and Underperform Out-of-Distribution (linear probing, then full fine-tuning).
    """
    answer = spec.answer
    encoded = label_vectors(support, answer, spec.outputs, features.dtype)
    counts = element_weights(support, answer, features.dtype)
    head = ridge if isinstance(answer, Reals) else logistic
    weight, bias = fitted(head, features, encoded, counts, answer, l2)
    return weight.mT, bias


def zero_head(
    features: Tensor, support: Examples, spec: TaskSpec, l2: float
) -> tuple[Tensor, Tensor]:
    """Zeros: every class is as likely, every real number 0. Unlike random weights, it is fair."""
    return (
        features.new_zeros(spec.outputs, features.shape[-1]),
        features.new_zeros(spec.outputs),
    )


def nearest_mean_head(
    features: Tensor, support: Examples, spec: TaskSpec, l2: float
) -> tuple[Tensor, Tensor]:
    """W_k = 2 c_k, b_k = -|c_k|², so that W_k f + b_k = |f|² - |f - c_k|²: nearest class mean c_k.

    Reference: Triantafillou et al. (2020), Meta-Dataset, section 2 (Proto-MAML's head).
    """
    means = _class_means(features, support, spec, "nearest_mean_head")
    return 2 * means, -means.square().sum(-1)


def cosine_head(
    features: Tensor, support: Examples, spec: TaskSpec, l2: float
) -> tuple[Tensor, Tensor]:
    """W_k = c_k / |c_k|, b = 0: logits are |f| times the cosine with the class mean c_k.

    Give ``feature_length`` to the learner, so that |f| is the same for every row.

    Reference: Qi, Brown and Lowe (2018), Low-Shot Learning with Imprinted Weights, equation 4.
    """
    means = _class_means(features, support, spec, "cosine_head")
    return of_length(means, 1.0), means.new_zeros(spec.outputs)


def of_length(rows: Tensor, length: float) -> Tensor:
    """Rows (n, d) scaled to ``length``; rows of zeros stay zeros, also in derivatives."""
    squares = rows.square().sum(-1, keepdim=True)
    some = squares > torch.finfo(rows.dtype).tiny
    return length * rows * torch.where(some, torch.where(some, squares, 1.0).rsqrt(), 0.0)


def _class_means(features: Tensor, support: Examples, spec: TaskSpec, who: str) -> Tensor:
    if not isinstance(spec.answer, Classes):
        raise ValueError(
            f"{who}: is made of the means of classes, but the task needs {spec.answer}. Use "
            "probe_head or zero_head."
        )
    return class_means(features, support, spec.outputs)[0]
