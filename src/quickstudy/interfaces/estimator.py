"""A learner as a scikit-learn classifier: ``fit`` adapts it."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from quickstudy.answers.specs import classification
from quickstudy.base.modules import device_of
from quickstudy.base.shown import shown
from quickstudy.core import Examples, Learner
from quickstudy.learners.transfer.heads import logistic
from quickstudy.learners.transfer.linear_probe import LinearProbe
from quickstudy.tasks.examples import one_place


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A learner as a scikit-learn classifier: ``fit`` adapts it to X and y as a support set.

    ``learner``  any learner for classification, usually a trained one; it is not changed. By
                 default a logistic head on the inputs themselves, as a baseline.

    X is (n, features), or (n, channels, height, width) for learners of images. uint8 values are
    scaled from 0…255 to [0, 1]; all other numbers are used as they are. ``fit`` and ``predict``
    must get X of the same type. y may hold labels of any type. ``sample_weight`` (n,) are the
    weights of the rows.

    After fitting: ``classes_``, ``n_features_in_``, ``predictor_``.
    """

    def __init__(self, learner: Learner | None = None) -> None:
        self.learner = learner

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Adapt to rows ``X`` with labels ``y`` (n,). ValueError for fewer than two classes."""
        rows, y = validate_data(self, X, y, allow_nd=True, dtype=_DTYPES)
        self._pixels = rows.dtype == np.uint8
        check_classification_targets(y)
        self.classes_, ids = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "FewShotClassifier: needs examples of at least 2 classes; found 1 class "
                f"({shown(self.classes_[0])})."
            )
        weights = _check_sample_weight(
            sample_weight, rows, dtype=np.float64, ensure_non_negative=True
        )
        learner = copy.deepcopy(self.learner) if self.learner is not None else _baseline()
        self._dtype = next((p.dtype for p in learner.parameters()), torch.float64)
        self._device = device_of(learner)
        row_weights = torch.from_numpy(weights).to(self._device, self._dtype)
        targets = torch.from_numpy(ids).to(self._device)
        support = Examples(self._inputs(rows), targets, row_weights, one_place(row_weights))
        with torch.no_grad():
            self.predictor_ = learner.eval()(support, classification(len(self.classes_)))
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
        """Probabilities (n, classes), columns in the order of ``classes_``."""
        check_is_fitted(self)
        rows = validate_data(self, X, allow_nd=True, dtype=_DTYPES, reset=False)
        if (rows.dtype == np.uint8) != self._pixels:
            fitted = "uint8 pixels" if self._pixels else "numbers other than uint8"
            raise ValueError(
                f"FewShotClassifier: uint8 is scaled by 1/255 and other numbers are not; fitted to "
                f"{fitted}, but X is now {np.asarray(X).dtype}. Give both in the same type."
            )
        with torch.no_grad():
            logits: Tensor = self.predictor_(self._inputs(rows))
        return np.asarray(logits.softmax(-1).double().cpu().numpy())

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable label of each row (n,)."""
        probabilities = self.predict_proba(X)
        return np.asarray(self.classes_[probabilities.argmax(1)])

    def _inputs(self, rows: NDArray[Any]) -> Tensor:
        # torch.tensor copies: arrays may be read-only.
        tensor = torch.tensor(rows, dtype=self._dtype, device=self._device)
        return tensor / 255 if self._pixels else tensor


_DTYPES = [np.float64, np.float32, np.uint8]  # any other type is converted to the first


def _baseline() -> Learner:
    return LinearProbe(nn.Flatten(), head=logistic)
