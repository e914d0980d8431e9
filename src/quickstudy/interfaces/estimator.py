"""Learners as scikit-learn estimators: ``fit`` adapts a learner to X and y as a support set."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from quickstudy.answers.specs import classification, regression
from quickstudy.base.arrays import array_of, as_array, own_array
from quickstudy.base.door import is_pixels
from quickstudy.base.modules import device_of
from quickstudy.base.shown import shown
from quickstudy.core import Examples, Learner, Predictor, TaskSpec
from quickstudy.interfaces.named_learner import learner_for
from quickstudy.learners.transfer.heads import logistic
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.tasks.examples import one_place
from quickstudy.tasks.labels import as_labels
from quickstudy.tasks.order import in_mixed_order


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A learner as a scikit-learn classifier: ``fit`` adapts it to X and y as a support set.

    ``learner``  any learner for classification, usually a trained one; it is not changed. Or the
                 name of one, such as "prototypical": it is then made for X and untrained, see
                 :func:`quickstudy.interfaces.named_learner.learner_for`. Or the name of a
                 pretrained backbone, such as "efficientnet-lite0", for pictures. By default a
                 logistic head on the inputs themselves, as a baseline.

    X is (n, features), or (n, channels, height, width) for learners of images. Pixels (uint8, or
    images of other integers) are scaled from 0…255 to [0, 1]; other integers stay ids for a learner
    with an embedding; all other numbers are used as they are. ``fit`` and ``predict`` must get X
    of the same kind. y may hold labels of any type. ``sample_weight`` (n,) are the weights of rows.

    After fitting: ``classes_``, ``n_features_in_``, ``predictor_``.
    """

    def __init__(self, learner: Learner | str | None = None) -> None:
        self.learner = learner

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Adapt to rows ``X`` with labels ``y`` (n,). ValueError for fewer than two classes."""
        given = None if y is None else as_labels(y, "FewShotClassifier")
        rows, y = _validated(self, X, given)
        check_classification_targets(y)
        self.classes_, ids = _classes(y)
        if len(self.classes_) < 2:
            raise ValueError(
                "FewShotClassifier: needs examples of at least 2 classes; found 1 class "
                f"({shown(self.classes_[0])})."
            )
        spec = classification(len(self.classes_))
        baseline = LinearProbe(nn.Flatten(), head=logistic)
        _adapt(self, baseline, rows, torch.from_numpy(ids), spec, sample_weight)
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Probabilities (n, classes), columns in the order of ``classes_``."""
        return np.asarray(_predictions(self, X).softmax(-1).double().cpu().numpy())

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable label of each row (n,)."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(1)])


class FewShotRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A learner as a scikit-learn regressor: ``fit`` adapts it to X and y as a support set.

    ``learner``  any learner of real numbers, or the name of one, as for :class:`FewShotClassifier`.
                 By default ridge regression on the inputs themselves (l2 = 1), as a baseline.

    X as for :class:`FewShotClassifier`; y is (n,) or (n, outputs). Learners get y as it is: scale
    it for those that were trained on targets of size one.

    After fitting: ``n_features_in_``, ``predictor_``.
    """

    def __init__(self, learner: Learner | str | None = None) -> None:
        self.learner = learner

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Adapt to rows ``X`` with targets ``y``, (n,) or (n, outputs)."""
        given = None if y is None else _numbers(y, "FewShotRegressor: y")
        rows, numbers = _validated(self, X, given, y_numeric=True, multi_output=True)
        self._flat = numbers.ndim == 1
        targets = torch.from_numpy(numbers.astype(np.float64)).reshape(len(numbers), -1)
        baseline = LinearProbe(nn.Flatten())
        _adapt(self, baseline, rows, targets, regression(targets.shape[1]), sample_weight)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The predicted numbers, in the shape of ``y``: (n,) or (n, outputs)."""
        found = np.asarray(_predictions(self, X).double().cpu().numpy())
        return found[:, 0] if self._flat else found


FewShot = FewShotClassifier | FewShotRegressor

_DENSE = (torch.strided, torch.jagged)
_DTYPES = [np.float64, np.float32, np.uint8]  # any other type is converted to the first


def _validated(estimator: FewShot, X: Any, *y: Any, **options: Any) -> Any:
    """X, and y if given, checked by scikit-learn."""
    X = _numbers(X, f"{type(estimator).__name__}: X")
    dtypes = [np.int64, np.uint8] if _keeps_integers(estimator, X) else _DTYPES
    return validate_data(estimator, X, *y, allow_nd=True, dtype=dtypes, **options)


def _numbers(values: Any, what: str) -> Any:
    """What scikit-learn can check: arrays, tables and sparse matrices as they are."""
    if isinstance(values, Tensor):
        return array_of(values.to_dense() if values.layout not in _DENSE else values, what)
    if isinstance(values, (list, tuple)):
        return as_array(list(values), what)
    text = isinstance(values, np.ndarray) and values.dtype.kind in "USMm"
    if not text and (hasattr(values, "__array__") or hasattr(values, "tocsr")):
        return values
    return as_array(values, what)


def _keeps_integers(estimator: FewShot, X: Any) -> bool:
    """Whether integers X are ids for an embedding of the learner, or pixels."""
    if getattr(getattr(X, "dtype", None), "kind", "") not in ("i", "u"):
        return False
    learner = estimator.learner
    parts = learner.modules() if isinstance(learner, nn.Module) else ()
    reads_ids = any(isinstance(part, (nn.Embedding, nn.EmbeddingBag)) for part in parts)
    return reads_ids or is_pixels(torch.empty(X.shape, dtype=torch.int64, device="meta"))


def _classes(y: Any) -> tuple[Any, Any]:
    """The sorted labels, and each row's id (n,); ValueError for labels without an order."""
    try:
        return np.unique(y, return_inverse=True)
    except TypeError as error:
        raise ValueError(
            f"FewShotClassifier: labels must be of one type, so that they have an order; found "
            f"{sorted({type(label).__name__ for label in y})}. Turn them all into text."
        ) from error


def _adapt(
    estimator: FewShot, baseline: Learner, rows: Any, targets: Tensor, spec: TaskSpec, weight: Any
) -> None:
    """Set ``predictor_``: the learner adapted to ``rows``."""
    who = type(estimator).__name__
    if weight is not None and not isinstance(weight, (int, float)):
        weight = _numbers(weight, f"{who}: sample_weight")
    weights = _check_sample_weight(weight, rows, dtype=np.float64, ensure_non_negative=True)
    learner = learner_for(estimator.learner, baseline, rows.shape[1:], spec, who)
    estimator._device = device_of(learner)
    inputs = _tensor(estimator, rows)
    estimator._pixels = is_pixels(inputs)
    own = torch.from_numpy(weights).to(estimator._device)
    support = Examples(inputs, targets.to(estimator._device), own, one_place(own))
    with torch.no_grad():
        estimator.predictor_ = learner.eval()(in_mixed_order(learner, support), spec)


def _predictions(estimator: FewShot, X: ArrayLike) -> Tensor:
    """The predictor's output for X; ValueError unless X and the X of ``fit`` are both pixels, or
    neither."""
    check_is_fitted(estimator)
    inputs = _tensor(estimator, _validated(estimator, X, reset=False))
    if is_pixels(inputs) != estimator._pixels:
        fitted = "uint8 pixels" if estimator._pixels else "numbers other than uint8"
        now = getattr(X, "dtype", type(X).__name__)
        raise ValueError(
            f"{type(estimator).__name__}: uint8 is scaled by 1/255 and other numbers are not; "
            f"fitted to {fitted}, but X is now {now}. Give both in the same type."
        )
    predictor: Predictor = estimator.predictor_
    with torch.no_grad():
        predictions: Tensor = predictor(inputs)
    return predictions


def _tensor(estimator: FewShot, rows: NDArray[Any]) -> Tensor:
    what = f"{type(estimator).__name__}: X"
    return torch.from_numpy(own_array(rows, what)).to(estimator._device)
