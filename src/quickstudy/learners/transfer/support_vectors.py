"""Support vector machines on fixed features, fitted by libsvm."""

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
from quickstudy.learners.metric.distances import squared_euclidean
from quickstudy.learners.outputs import element_weights, label_vectors, present_entry
from quickstudy.tasks.examples import labelled, without_absent

MAX_STEPS = 500_000
"""Steps, of two multipliers each, after which libsvm gives up; scaled features need thousands."""


class SVM(Learner):
    """Maps a support set to the support vector machine on the backbone's features.

        min  |w|^2 / 2 + C sum_i w_i xi_i      y_i (w . phi(f_i) + b) >= 1 - xi_i,  xi_i >= 0
        f(x) = sum_i alpha_i k(f_i, f(x)) + b  k(a, b) = exp(-gamma |a - b|^2)  or  a . b

    For classes this is ``sklearn.svm.SVC``: one machine f_ij for each pair of classes, and each
    gives its vote to one of them. Real targets (n, d) have one ``SVR`` a column, fitted to the rows
    where it is known. The weight of a row is a factor on its C.

    ``backbone``    inputs (n, ...) -> features (n, d); ``adapt`` does not change it.
    ``kernel``      "rbf", or "linear", whose state does not grow with the support set.
    ``C``           cost of a violated margin; 1 as in scikit-learn.
    ``gamma``       of "rbf": "scale" is 1 / (d variance of all features), "auto" is 1 / d.
    ``break_ties``  whether the sums of decisions decide between classes of equally many votes;
                    otherwise the first of them wins, as by default in scikit-learn.
    ``epsilon``     width of the tube within which errors of a real target cost nothing.
    ``tol``         how far the optimality conditions may be violated. It is small, because at
                    scikit-learn's 1e-3 the order of rows shows in the predictions.

    Logits are no log-probabilities. Of two classes they are -f / 2 and f / 2. Of more, they are
    votes_i + s_i / (3 |s_i| + 3) with s_i = sum_j f_ij, scikit-learn's ``decision_function``;
    without ``break_ties``, 2/3 less for every earlier class with as many votes. Their argmax is
    what scikit-learn predicts.

    libsvm cannot be differentiated. Training over tasks takes the multipliers alpha as constants,
    which is not the whole gradient; :class:`MetaOptNet` has the whole one.

    State: ``offset`` (k,) of k machines; for "linear" their ``weight`` (d, k), else the
    ``vectors`` (m, d) with multipliers ``dual`` (m, k), and ``gamma`` (k,); ``present`` (ways,)
    for classes; ``statistics`` for norm="support".

    Raises ValueError for numbers that are not positive, an unknown kernel or gamma, a backbone
    with a head or with maps, and targets that are not one vector a row. scikit-learn warns
    (ConvergenceWarning) where libsvm stops before the optimum.

    Reference: Cortes and Vapnik (1995), Support-vector networks; Drucker et al. (1996), Support
    vector regression machines; Chang and Lin (2011), LIBSVM, which solves them.
    Differs from scikit-learn in that the variance in gamma="scale" counts rows by their weights,
    so that a row of weight 2 is two rows, in ``tol``, and in ``break_ties``.

    >>> import quickstudy as qs
    >>> learner = qs.SVM(qs.backbones.MLP(in_features=2))
    >>> support = qs.examples([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    >>> learner(support, qs.classification(ways=2))(support.inputs).shape
    torch.Size([2, 2])
    """

    answers: ClassVar[tuple[type[Answer], ...]] = (Classes, Reals)
    exceptions: ClassVar[dict[str, str]] = {
        "vmap_equals_loop": "libsvm solves one problem at a time, so tasks are looped",
    }

    def __init__(
        self,
        backbone: nn.Module,
        kernel: str = "rbf",
        C: float = 1.0,
        gamma: str | float = "scale",
        break_ties: bool = True,
        epsilon: float = 0.1,
        tol: float = 1e-10,
    ) -> None:
        super().__init__()
        if C <= 0 or epsilon < 0 or tol <= 0:
            raise ValueError(
                "SVM: C and tol must be positive, and epsilon at least 0; found "
                f"C={C}, tol={tol}, epsilon={epsilon}."
            )
        if kernel not in ("rbf", "linear"):
            raise ValueError(f"SVM: kernel must be 'rbf' or 'linear'; found {kernel!r}.")
        if gamma not in ("scale", "auto") and not (isinstance(gamma, int | float) and gamma > 0):
            raise ValueError(
                f"SVM: gamma must be 'scale', 'auto' or a positive number; found {gamma!r}."
            )
        refuse_heads_and_maps(backbone, "SVM")
        self.backbone, self.kernel, self.C, self.gamma = backbone, kernel, C, gamma
        self.break_ties, self.epsilon, self.tol = break_ties, epsilon, tol

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The machine fitted to ``support``."""
        support = labelled(support, spec.answer)
        features, statistics = embed_support(self.backbone, support)
        x = features.detach().double().cpu().numpy()
        if isinstance(spec.answer, Classes):
            y, weights = (
                each.detach().cpu().numpy() for each in (support.targets, support.weights)
            )
            machines = self._classifier(x, y, weights.astype(np.float64))
        else:
            targets = label_vectors(support, spec.answer, spec.outputs, torch.float64)
            counts = element_weights(support, spec.answer, torch.float64)
            machines = self._regressors(x, *(t.detach().cpu().numpy() for t in (targets, counts)))
        state = self._state(features, *machines)
        return state | present_entry(support, spec) | {"statistics": statistics}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits or regression values (n, outputs)."""
        features = self.embed(state, inputs)
        values = self._decisions(state, features.double())
        if not isinstance(spec.answer, Classes):
            return values.to(features.dtype)
        present = state["present"]
        own = _one_against_one(values, int(present.sum()), self.break_ties)
        logits = values.new_zeros(len(values), spec.outputs)
        places = present.nonzero().squeeze(-1).expand(len(values), -1)
        return without_absent(logits.scatter(1, places, own).to(features.dtype), present)

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), the inputs of the kernel."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def _decisions(self, state: State, features: Tensor) -> Tensor:
        """The values (n, k) of the k machines, in float64."""
        offset = state["offset"].double()
        if self.kernel == "linear":
            values: Tensor = features @ state["weight"].double() + offset
            return values
        distances = squared_euclidean(features, state["vectors"].double()).clamp_min(0)
        dual, gammas = state["dual"].double(), state["log_gamma"].double()
        # One kernel for machines of one gamma: all pairs of classes, but not all real targets.
        parts = [
            (-gamma.exp() * distances).exp() @ dual.where(gammas == gamma, 0.0)
            for gamma in gammas.unique()
        ]
        total: Tensor = offset.expand(len(features), -1)
        for part in parts:
            total = total + part
        return total

    def _classifier(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> _Machines:
        """Dual variables (n, pairs), offsets and gammas (pairs,): positive for the first class of
        a pair, except with two classes, where positive means the second, as in scikit-learn."""
        from sklearn.svm import SVC

        counts = w > 0
        classes = np.unique(y[counts])
        pairs = len(classes) * (len(classes) - 1) // 2
        dual = np.zeros((len(x), pairs))
        gamma = self._gamma(x[counts], w[counts])
        if not pairs:
            return dual, np.zeros(0), np.zeros(0)
        machine = SVC(C=self.C, kernel=self.kernel, gamma=gamma, tol=self._tol(x, w),
                      max_iter=MAX_STEPS, cache_size=500)  # fmt: skip
        machine.fit(x[counts], y[counts], sample_weight=w[counts])
        rows = np.flatnonzero(counts)[machine.support_]
        own = np.searchsorted(classes, y[rows])
        for column, (i, j) in enumerate(zip(*np.triu_indices(len(classes), 1), strict=True)):
            # Row k of dual_coef_ holds the multipliers against the k-th of the other classes.
            dual[rows[own == i], column] = machine.dual_coef_[j - 1, own == i]
            dual[rows[own == j], column] = machine.dual_coef_[i, own == j]
        return dual, machine.intercept_, np.full(pairs, gamma)

    def _regressors(self, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> _Machines:
        """Dual variables (n, outputs), offsets and gammas (outputs,)."""
        from sklearn.svm import SVR

        dual, offset, gammas = np.zeros(y.shape), np.zeros(y.shape[1]), np.ones(y.shape[1])
        for column in range(y.shape[1]):
            rows = np.flatnonzero(w[:, column] > 0)
            if not len(rows):
                continue  # nothing is known: 0
            weights = w[rows, column]
            gammas[column] = gamma = self._gamma(x[rows], weights)
            machine = SVR(C=self.C, kernel=self.kernel, gamma=gamma, epsilon=self.epsilon,
                          tol=self._tol(x[rows], weights), max_iter=MAX_STEPS)  # fmt: skip
            machine.fit(x[rows], y[rows, column], sample_weight=weights)
            dual[rows[machine.support_], column] = machine.dual_coef_[0]
            offset[column] = machine.intercept_[0]
        return dual, offset, gammas

    def _gamma(self, x: np.ndarray, w: np.ndarray) -> float:
        """gamma as a number, of rows with positive weight."""
        if not isinstance(self.gamma, str):
            return float(self.gamma)
        d = int(x.shape[1])
        if self.gamma == "auto" or not len(x):
            return 1 / d
        shares = w / w.sum() / d
        mean = float((shares @ x).sum())
        variance = float((shares @ (x - mean) ** 2).sum())
        # Features so small that gamma would overflow count as constant.
        return 1 / (d * variance) if variance > np.finfo(float).tiny else 1.0

    def _tol(self, x: np.ndarray, w: np.ndarray) -> float:
        """``tol``, or the rounding error of the dual's gradient where that is larger."""
        largest = 1.0 if self.kernel == "rbf" else float(np.einsum("nd,nd->n", x, x).max())
        return max(self.tol, float(np.finfo(float).eps * largest * self.C * w.sum()))

    def _state(
        self, features: Tensor, dual: np.ndarray, offset: np.ndarray, gammas: np.ndarray
    ) -> dict[str, Tensor]:
        kept = torch.from_numpy(np.flatnonzero((dual != 0).any(1))).to(features.device)
        vectors = features[kept]
        multipliers = torch.from_numpy(dual).to(features.device, torch.float64)[kept]
        shared = {"offset": torch.from_numpy(offset).to(features.device, features.dtype)}
        if self.kernel == "linear":
            weight = (vectors.double().mT @ multipliers).to(features.dtype)
            return shared | {"weight": weight.contiguous()}
        return shared | {
            "vectors": vectors,
            "dual": multipliers.to(features.dtype),
            # Gamma itself may be too large for the type of the features, where rows are tiny.
            "log_gamma": torch.from_numpy(np.log(gammas)).to(features),
        }


_Machines = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Dual variables (n, k), offsets (k,) and gammas (k,) of k machines."""


def _one_against_one(values: Tensor, classes: int, break_ties: bool) -> Tensor:
    """Decisions (n, pairs) -> logits (n, classes)."""
    if classes < 2:
        return values.new_zeros(len(values), classes)
    if classes == 2:
        return torch.cat([-values, values], -1) / 2
    first, second = torch.triu_indices(classes, classes, 1, device=values.device)
    sign = values.new_zeros(values.shape[1], classes)
    pairs = torch.arange(values.shape[1], device=values.device)
    to_first, to_second = sign.clone(), sign.clone()
    to_first[pairs, first], to_second[pairs, second] = 1.0, 1.0
    # At exactly 0, scikit-learn's decision_function votes for the first, and its predict does not.
    won = (values >= 0 if break_ties else values > 0).to(values.dtype)
    votes = won @ to_first + (1 - won) @ to_second
    total = values @ (to_first - to_second)
    logits = votes + total / (3 * (total.abs() + 1))
    if break_ties:
        return logits
    # The last term is within 1/3 of 0, so 2/3 puts a class below each earlier one of equal votes.
    earlier = torch.ones(classes, classes, dtype=torch.bool, device=values.device).tril(-1)
    equal = votes.unsqueeze(-1) == votes.unsqueeze(-2)
    return logits - 2 / 3 * (equal & earlier).sum(-1)
