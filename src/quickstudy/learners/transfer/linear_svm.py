"""A linear support vector machine that is fast with many columns, fitted by liblinear."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import refuse_heads_and_maps
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.core import Answer, Examples, Learner, State, TaskSpec
from quickstudy.learners.outputs import element_weights, label_vectors, present_entry
from quickstudy.tasks.examples import labelled, without_absent

SPARSE = 0.1
"""Features of which a smaller share than this is not 0 are given to liblinear as sparse ones."""

MAX_STEPS = 200
"""Newton steps; ten suffice unless features are very large, and then scikit-learn warns."""


class LinearSVM(Learner):
    """Maps a support set to linear machines on the backbone's features, one for each class.

        min  (|w|^2 + b^2) / 2 + C sum_i w_i max(0, 1 - y_i (w . f_i + b))^2

    For classes this is ``sklearn.svm.LinearSVC`` with its squared hinge: class against all others,
    or one machine of two classes. Real targets (n, d) have one ``LinearSVR`` with the squared loss
    beyond ``epsilon`` a column, fitted to the rows where it is known. Row weights are factors on C.

    It takes tens of milliseconds for 2,000 rows of 2,000 columns where :class:`SVM` takes seconds,
    which solves the usual problem: |hinge| instead of its square, and no penalty on b.

    ``backbone``  inputs (n, ...) -> features (n, d); ``adapt`` does not change it.
    ``C``         cost of a violated margin; 1 as in scikit-learn.
    ``epsilon``   half the width within which errors of a real target cost nothing; 0 as in
                  scikit-learn.
    ``tol``       relative size of the gradient at which Newton's method stops.

    Logits are the decisions f of each class, -f / 2 and f / 2 of two: no log-probabilities.
    liblinear is not differentiated: training over tasks takes weights and offsets as constants, so
    that it changes features of queries alone. :class:`MetaOptNet` trains features for a machine.

    State: ``weight`` (d, outputs), ``offset`` (outputs,); ``present`` (ways,) for classes;
    ``statistics`` for norm="support".

    Raises ValueError for numbers out of range, a backbone with a head or with maps, and targets
    that are not one vector a row. scikit-learn warns (ConvergenceWarning) where liblinear stops
    before the optimum.

    Reference: Fan, Chang, Hsieh, Wang and Lin (2008), LIBLINEAR: a library for large linear
    classification.
    Differs from scikit-learn in solving the primal problem, which has the same solution, to 1e-9.

    >>> import quickstudy as qs
    >>> learner = qs.LinearSVM(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals)
    exceptions: ClassVar[dict[str, str]] = {
        "vmap_equals_loop": "liblinear solves one problem at a time, so tasks are looped",
    }

    def __init__(
        self, backbone: nn.Module, C: float = 1.0, epsilon: float = 0.0, tol: float = 1e-9
    ) -> None:
        super().__init__()
        if C <= 0 or epsilon < 0 or tol <= 0:
            raise ValueError(
                "LinearSVM: C and tol must be positive, and epsilon at least 0; found "
                f"C={C}, tol={tol}, epsilon={epsilon}."
            )
        refuse_heads_and_maps(backbone, "LinearSVM")
        self.backbone, self.C, self.epsilon, self.tol = backbone, C, epsilon, tol

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The machines fitted to ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        x = features.detach().cpu().numpy()
        if isinstance(spec.answer, Classes):
            y, w = (t.detach().cpu().numpy() for t in (support.targets, support.weights.double()))
            weight, offset = self._classifier(x, y, w, spec.outputs)
        else:
            targets = label_vectors(support, spec.answer, spec.outputs, torch.float64)
            counts = element_weights(support, spec.answer, torch.float64)
            weight, offset = self._regressors(x, *(t.cpu().numpy() for t in (targets, counts)))
        return {
            "weight": torch.from_numpy(weight).to(features.device, features.dtype),
            "offset": torch.from_numpy(offset).to(features.device, features.dtype),
            **present_entry(support, spec),
            "statistics": statistics,
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or regression values (n, outputs)."""
        values: Tensor = self.embed(state, inputs) @ state["weight"] + state["offset"]
        return without_absent(values, state.get("present"))

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), the inputs of the machines."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def _classifier(
        self, x: np.ndarray, y: np.ndarray, w: np.ndarray, ways: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights (d, ways) and offsets (ways,); 0 for absent classes, and for one alone."""
        from sklearn.svm import LinearSVC

        weight, offset = np.zeros((x.shape[1], ways)), np.zeros(ways)
        rows = w > 0
        classes = np.unique(y[rows])
        if len(classes) < 2:
            return weight, offset
        machine = LinearSVC(C=self.C, tol=self.tol, dual=False, max_iter=MAX_STEPS)
        machine.fit(_in_float64(x, rows), y[rows], sample_weight=w[rows])
        found, intercept = machine.coef_, machine.intercept_
        if len(classes) == 2:
            found, intercept = np.vstack([-found, found]) / 2, np.append(-intercept, intercept) / 2
        weight[:, classes], offset[classes] = found.T, intercept
        return weight, offset

    def _regressors(
        self, x: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights (d, outputs) and offsets (outputs,); 0 where nothing is known."""
        from sklearn.svm import LinearSVR

        weight, offset = np.zeros((x.shape[1], y.shape[1])), np.zeros(y.shape[1])
        for column in range(y.shape[1]):
            rows = w[:, column] > 0
            if not rows.any():
                continue
            machine = LinearSVR(C=self.C, epsilon=self.epsilon, tol=self.tol, dual=False,
                                loss="squared_epsilon_insensitive", max_iter=MAX_STEPS)  # fmt: skip
            machine.fit(_in_float64(x, rows), y[rows, column], sample_weight=w[rows, column])
            weight[:, column], offset[column] = machine.coef_, np.ravel(machine.intercept_)[0]
        return weight, offset


def _in_float64(x: np.ndarray, rows: np.ndarray) -> Any:
    """``x[rows]`` in float64, as a sparse matrix with 32-bit indices where most of it is 0."""
    from scipy.sparse import csr_matrix

    chosen = x if rows.all() else x[rows]
    if np.count_nonzero(chosen) >= SPARSE * chosen.size:
        return chosen.astype(np.float64)
    return csr_matrix(chosen).astype(np.float64)
