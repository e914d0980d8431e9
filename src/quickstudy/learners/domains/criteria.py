"""Criteria by which learners are chosen for a target without looking at its labels.

Each is a function (learner, fitted, held, spec) -> float, the higher the better: the learner adapts
to the rows ``fitted``, and is judged on other rows, ``held``. Both have source and target rows, and
the labels of target rows in ``held`` are not read.

    circular_validation            the way back, from predicted target labels to source labels
    importance_weighted            accuracy on source rows, weighted towards the target
    deep_embedded_validation       the same for a loss and the learner's features, less noisy
    prediction_entropy             certainty of the predictions for target rows
    soft_neighbourhood_density     whether target rows have neighbours with the same prediction

No criterion is right on every shift: certainty can be wrong, and weights need target rows that
look like source rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.trees import concatenate, leaves
from quickstudy.core import Examples, Learner, Predictor, TaskSpec
from quickstudy.tasks.examples import take
from quickstudy.tasks.transfer import is_target, without_labels

Criterion = Callable[[Learner, Examples, Examples, TaskSpec], float]

_SHARPNESS = 0.05
"""Temperature of the soft neighbourhoods, as in the paper."""


def circular_validation(
    learner: Learner, fitted: Examples, held: Examples, spec: TaskSpec
) -> float:
    """Balanced accuracy on the source rows, coming back from the target.

    The learner labels the target rows of ``held``. Then it adapts the other way round: to these
    labels, as those of a source, with the source rows as unlabelled target. The score is the mean
    over the classes of the share of source rows that it gets right.

    Reference: Bruzzone and Marconcini (2010), Domain Adaptation Problems: A DASVM Classification
    Technique and a Circular Validation Strategy, section 4.
    """
    source, target = _sides(held)
    labels = _predictions(_adapted(learner, fitted, spec), target).argmax(-1)
    there = target._replace(targets=labels, groups=torch.ones_like(target.groups))
    back = without_labels(source)._replace(groups=torch.zeros_like(source.groups))
    returned = _adapted(learner, Examples(*concatenate(there, back)), spec)
    return balanced_accuracy(_predictions(returned, source).argmax(-1), source, spec.outputs)


def importance_weighted(
    learner: Learner, fitted: Examples, held: Examples, spec: TaskSpec
) -> float:
    """Accuracy on the source rows of ``held``, each weighted by density of target over source.

        sum_i w_i [right_i] / sum_i w_i,    w_i = p_target(x_i) / p_source(x_i)

    The densities are sums of Gaussians of width 1 around the rows of ``held``
    (``sklearn.neighbors.KernelDensity``), so features should have about unit variance.

    Reference: Sugiyama, Krauledat and Müller (2007), Covariate Shift Adaptation by Importance
    Weighted Cross Validation.
    """
    from sklearn.neighbors import KernelDensity

    source, target = _sides(held)
    s, t = (_flat(rows.inputs) for rows in (source, target))
    of_target, of_source = (
        KernelDensity().fit(each, sample_weight=rows.weights.double().numpy()).score_samples(s)
        for each, rows in ((t, target), (s, source))
    )
    weights = torch.from_numpy(of_target - of_source).softmax(0) * source.weights
    right = _predictions(_adapted(learner, fitted, spec), source).argmax(-1) == source.targets
    return float((weights * right).sum() / weights.sum())


def deep_embedded_validation(
    learner: Learner, fitted: Examples, held: Examples, spec: TaskSpec
) -> float:
    """Minus the weighted loss on the source rows of ``held``, with a control variate.

        L = mean(w l) + eta mean(w) - eta,     eta = - cov(w l, w) / var(w)

    l is the log loss of a source row. w is its density ratio from a logistic regression that tells
    source rows of ``fitted`` from the target rows of both, by the learner's own features, where it
    has a method ``embed``, or the inputs. The mean of w is 1 in truth, which is how eta takes off
    noise.

    Reference: You, Wang, Long and Jordan (2019), Towards Accurate Model Selection in Deep
    Unsupervised Domain Adaptation, algorithm 1.
    """
    from sklearn.linear_model import LogisticRegression

    predictor = _adapted(learner, fitted, spec)
    train, own = _sides(fitted)
    source, target = _sides(held)
    features = [
        _flat(_features(predictor, rows))
        for rows in (train, Examples(*concatenate(own, target)), source)
    ]
    x = torch.from_numpy(features[0]), torch.from_numpy(features[1])
    of_target = [0] * len(x[0]) + [1] * len(x[1])
    domain = LogisticRegression(max_iter=1000).fit(torch.cat(x).numpy(), of_target)
    logits = torch.from_numpy(domain.decision_function(features[2]))
    weights = logits.exp() * len(x[0]) / len(x[1])
    losses = spec.answer.loss(_predictions(predictor, source), source.targets).double()
    return -controlled_mean(weights, losses)


def controlled_mean(weights: Tensor, losses: Tensor) -> float:
    """mean(w l) + eta mean(w) - eta with eta = - cov(w l, w) / var(w), or 0 where w is constant."""
    weighted = weights * losses
    variance = weights.var()
    gap = ((weighted - weighted.mean()) * (weights - weights.mean())).sum() / (len(weights) - 1)
    eta = -gap / variance if bool(variance > 0) else torch.zeros_like(gap)
    return float(weighted.mean() + eta * weights.mean() - eta)


def prediction_entropy(learner: Learner, fitted: Examples, held: Examples, spec: TaskSpec) -> float:
    """Minus the mean entropy of the predicted classes of the target rows of ``held``, in nats.

    For learners whose predictions are log-probabilities up to a constant.

    Reference: Morerio, Cavazza and Murino (2018), Minimal-Entropy Correlation Alignment for
    Unsupervised Deep Domain Adaptation.
    """
    target = _sides(held)[1]
    logits = _predictions(_adapted(learner, fitted, spec), target)
    return -float(_weighted_mean(_entropy(logits), target))


def soft_neighbourhood_density(
    learner: Learner, fitted: Examples, held: Examples, spec: TaskSpec
) -> float:
    """The mean entropy of target rows' distributions over the other ones, by like predictions.

        p_ij = softmax_{j != i} (cos(q_i, q_j) / 0.05),     q_i the predicted probabilities

    Reference: Saito, Kim, Teterwak, Sclaroff, Darrell and Saenko (2021), Tune it the Right Way:
    Unsupervised Validation of Domain Adaptation via Soft Neighborhood Density, equations 2 to 4.
    """
    target = _sides(held)[1]
    logits = _predictions(_adapted(learner, fitted, spec), target)
    unit = torch.nn.functional.normalize(logits.softmax(-1), dim=-1)
    alike = unit @ unit.mT / _SHARPNESS
    alike = alike + torch.diag(alike.new_full((len(alike),), -torch.inf))
    if len(alike) == 1:
        return 0.0
    return float(_weighted_mean(_entropy(alike), target))


def balanced_accuracy(predicted: Tensor, rows: Examples, classes: int) -> float:
    """The mean over the classes of ``rows`` of the share of its rows that are right."""
    right = rows.weights * (predicted == rows.targets)
    shares = [
        right[of_class].sum() / rows.weights[of_class].sum()
        for of_class in (rows.targets == k for k in range(classes))
        if bool(of_class.any())
    ]
    return float(torch.stack(shares).mean())


def _sides(rows: Examples) -> tuple[Examples, Examples]:
    """The labelled source rows, and the target rows without their labels."""
    target, known = is_target(rows), rows.targets >= 0
    return take(rows, ~target & known), without_labels(take(rows, target))


def _adapted(learner: Learner, rows: Examples, spec: TaskSpec) -> Predictor:
    return Predictor(learner, learner.adapt(rows, spec), spec)


def _predictions(predictor: Predictor, rows: Examples) -> Tensor:
    """Logits (n, classes)."""
    logits: Tensor = predictor.learner.predict(predictor.state, rows.inputs, predictor.spec)
    return logits


def _features(predictor: Predictor, rows: Examples) -> Any:
    embed = getattr(predictor.learner, "embed", None)
    found = None if embed is None else embed(predictor.state, rows.inputs)
    return rows.inputs if found is None else found


def _flat(inputs: Any) -> Any:
    """Rows as vectors (n, d), an array of float64."""
    parts = [leaf.detach().flatten(1).double().cpu() for leaf in leaves(inputs)]
    return torch.cat(parts, 1).numpy()


def _entropy(logits: Tensor) -> Tensor:
    """(n,): of the distributions softmax(logits)."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs.where(logs > -torch.inf, 0.0)).sum(-1)


def _weighted_mean(values: Tensor, rows: Examples) -> Tensor:
    return (rows.weights * values).sum() / rows.weights.sum()
