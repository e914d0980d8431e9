"""What can be said of a source without adapting to it: by its labels, and by its inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.trees import leaves
from quickstudy.core import Examples, Learner, TaskSpec
from quickstudy.tasks.examples import take

MOST_ROWS = 2_000
"""Rows of each place that the domain classifier reads, drawn where there are more."""

_FOLDS = 5


def gradient_cosine(learner: Learner, source: Examples, target: Examples, spec: TaskSpec) -> float:
    """The cosine of the gradients of the source's and the target's mean loss, in [-1, 1].

    They are those of a linear model on the learner's features (on the inputs, without a backbone),
    at weights of zero and with the best offset: -cov(features, encoded targets), each from its own
    rows. -1 says that what lowers one loss raises the other; about 0, that they have no direction
    in common. NaN where either is zero.

    Reference: Du et al. (2018), Adapting Auxiliary Losses Using Gradient Similarity. Differs from
    it in being taken once, before any step.
    """
    one, other = (_gradient(learner, rows, spec) for rows in (source, target))
    sizes = one.norm() * other.norm()
    return float((one * other).sum() / sizes) if float(sizes) > 0 else torch.nan


def domain_distance(source: Examples, target: Examples, learner: Learner, seed: int) -> float:
    """2 (1 - 2 ε) in [-2, 2], with ε the error of a classifier that tells source from target.

    0 where it cannot (below 0 by chance), 2 where it always can. The classifier is logistic, on the
    learner's features, balanced, in 5-fold cross-validation by scikit-learn. It never sees labels,
    so it knows nothing of a source whose labels are wrong. NaN for inputs that are not one tensor.

    Reference: Ben-David, Blitzer, Crammer and Pereira (2007), Analysis of Representations for
    Domain Adaptation (the proxy A-distance).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in (source, target):
        order = torch.randperm(len(rows.weights), generator=generator)[:MOST_ROWS]
        parts.append(_features(learner, take(rows, order)))
    if any(part is None for part in parts):
        return torch.nan
    x = torch.cat([part for part in parts if part is not None]).double().numpy()
    y = [k for k, part in enumerate(parts) if part is not None for _ in part]
    folds = min(_FOLDS, *(y.count(k) for k in (0, 1)))
    if folds < 2:
        return torch.nan
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    divisions = StratifiedKFold(folds, shuffle=True, random_state=seed)
    right = cross_val_score(model, x, y, cv=divisions, scoring="balanced_accuracy").mean()
    return float(2 * (2 * right - 1))


def _gradient(learner: Learner, rows: Examples, spec: TaskSpec) -> Tensor:
    """cov(features, encoded targets) (d, outputs) over the labelled rows, weighted."""
    features = _features(learner, rows)
    known = spec.answer.known(rows.targets)
    if features is None or known.ndim > 2:
        return torch.zeros(1)
    features = features.double()
    w = rows.weights.double() * (known if known.ndim == 1 else known.all(1))
    w = (w / w.sum().clamp_min(torch.finfo(w.dtype).tiny)).unsqueeze(1)
    encoded = spec.answer.encode(rows.targets, torch.float64)
    centred = encoded - (w * encoded).sum(0)
    return (w * (features - (w * features).sum(0))).mT @ centred


@torch.no_grad()
def _features(learner: Learner, rows: Examples) -> Tensor | None:
    """(n, d): features of the learner's backbone, or inputs that are one tensor of reals."""
    backbone = getattr(learner, "backbone", None)
    if isinstance(backbone, nn.Module):
        _, statistics = embed_support(backbone, rows)
        return embed_query(backbone, rows.inputs, statistics).flatten(1)
    found = list(leaves(rows.inputs))
    if len(found) != 1 or not found[0].is_floating_point():
        return None
    return found[0].flatten(1)
