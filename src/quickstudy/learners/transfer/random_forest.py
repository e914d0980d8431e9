"""A random forest on fixed features, grown for each support set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.answers.classes import Classes
from quickstudy.backbones.features import refuse_heads_and_maps, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.modules import in_torch_func
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.outputs import present_entry
from quickstudy.tasks.examples import labelled, without_absent


class RandomForest(Learner):
    """Maps a support set to a forest of decision trees on its features.

        p_k    = mean over trees of the share of class k in the leaf that f(x) reaches
        logits = log p_k

    Each tree is grown on rows drawn with replacement, and each split is the best of a few features
    drawn at random. scikit-learn's ``RandomForestClassifier`` grows it; the state is tensors, so
    that no pickle is needed to keep it. The baseline of most work on few labelled molecules.

    ``backbone``  inputs (n, ...) -> features (n, d), which no training changes.
    ``trees``     how many; 100, as in scikit-learn.
    ``depth``     most splits from root to leaf; None, as in scikit-learn, for no limit.
    ``seed``      of the drawn rows and features.

    Rows are sorted first, so that their order does not matter. Where all weights are whole, w is w
    equal rows; otherwise rows are drawn in proportion to their weights.

    State: of all trees, padded to the largest, ``feature`` and ``children`` (trees, nodes) and
    (trees, nodes, 2), -1 at leaves; ``threshold`` (trees, nodes); ``shares`` (trees, nodes, ways);
    ``present`` (ways,); ``statistics`` for norm="support".

    Raises ValueError for numbers out of range, a backbone with a head or with maps, and a support
    set without a labelled row of weight.

    Reference: Breiman (2001), Random Forests. Own code for predicting alone: its predictions are
    those of scikit-learn (tests).

    >>> import torch, quickstudy as qs
    >>> learner = qs.RandomForest(torch.nn.Identity(), trees=10)
    >>> support = qs.examples([[0.0], [1.0], [8.0], [9.0]], [0, 0, 1, 1])
    >>> learner(support, qs.classification(2))(torch.tensor([[0.5], [8.5]])).argmax(-1).tolist()
    [0, 1]
    """

    answers = (Classes,)
    exceptions = {  # noqa: RUF012  (a ClassVar in Learner)
        "vmap_equals_loop": "scikit-learn grows the trees, so tasks are looped",
        "every_parameter_gets_a_gradient": "which side of a threshold a row is on has no gradient",
    }

    def __init__(
        self, backbone: nn.Module, trees: int = 100, depth: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        refuse_sizes("RandomForest", trees=trees, **({} if depth is None else {"depth": depth}))
        refuse_heads_and_maps(backbone, "RandomForest")
        self.backbone, self.trees, self.depth, self.seed = backbone, trees, depth, seed

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """The trees grown on ``support``."""
        if in_torch_func():
            raise RuntimeError("RandomForest: scikit-learn grows the trees, so tasks are looped")
        support = labelled(support, spec.answer)
        with torch.no_grad():
            features, statistics = embed_support(self.backbone, support)
        grown = self._grown(features, support)
        trees = [_arrays(tree.tree_, grown.classes_, spec.outputs) for tree in grown.estimators_]
        nodes = max(len(each["threshold"]) for each in trees)
        state = {
            name: torch.from_numpy(np.stack([_padded(each[name], nodes) for each in trees]))
            for name in trees[0]
        }
        state = {name: leaf.to(features.device) for name, leaf in state.items()}
        state["shares"] = state["shares"].to(features.dtype)
        state["threshold"] = _rounded_down(state["threshold"], features.dtype)
        return state | {"statistics": statistics, **present_entry(support, spec)}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, ways)."""
        given = self.embed(state, inputs)
        features = given.detach().float()  # as scikit-learn reads them
        trees = torch.arange(len(state["feature"]), device=features.device).unsqueeze(-1)
        rows = torch.arange(len(features), device=features.device)
        node = torch.zeros(len(trees), len(rows), dtype=torch.long, device=features.device)
        for _ in range(state["feature"].shape[1]):
            feature = state["feature"][trees, node]
            above = features[rows, feature.clamp_min(0)] > state["threshold"][trees, node]
            next_node = state["children"][trees, node, above.long()]
            if not bool((feature >= 0).any()):
                break
            node = torch.where(feature >= 0, next_node, node)
        shares = state["shares"][trees, node].mean(0)
        # A gradient of zeros: training then says which parameters it does not reach.
        logits = shares.clamp_min(1e-6).log() + 0 * given.nan_to_num().sum(1, keepdim=True)
        return without_absent(logits, state["present"])

    def embed(self, state: State, inputs: Any) -> Tensor:
        """Features (n, d), those that the trees split."""
        return embed_query(self.backbone, inputs, state["statistics"])

    def _grown(self, features: Tensor, support: Examples) -> Any:
        from sklearn.ensemble import RandomForestClassifier

        x = features.float().cpu().numpy()
        y, w = support.targets.cpu().numpy(), support.weights.double().cpu().numpy()
        kept = w > 0
        if not kept.any():
            raise ValueError(
                "RandomForest: needs a labelled row of positive weight; found none. Give some."
            )
        x, y, w = x[kept], y[kept], w[kept]
        # Rows are drawn by their place, so that places must not depend on the order given.
        order = np.lexsort((y, *x.T[::-1]))
        x, y, w = x[order], y[order], w[order]
        whole = (w == w.round()).all()
        if whole:
            times = w.astype(int)
            x, y = x.repeat(times, 0), y.repeat(times)
        forest = RandomForestClassifier(self.trees, max_depth=self.depth, random_state=self.seed)
        return forest.fit(x, y, None if whole else w)


def _arrays(tree: Any, classes: Any, ways: int) -> dict[str, np.ndarray]:
    """One tree of scikit-learn as arrays; leaves have feature -1."""
    shares = np.zeros((tree.node_count, ways))
    values = tree.value[:, 0]
    shares[:, classes.astype(int)] = values / values.sum(1, keepdims=True)
    return {
        "feature": np.where(tree.children_left < 0, -1, tree.feature).astype(np.int64),
        "children": np.stack([tree.children_left, tree.children_right], 1).astype(np.int64),
        "threshold": tree.threshold.copy(),
        "shares": shares,
    }


def _rounded_down(threshold: Tensor, dtype: torch.dtype) -> Tensor:
    """Thresholds of float64 in the type of the features, of which none changes its side."""
    near = threshold.to(dtype)
    return torch.where(near > threshold, near.nextafter(near.new_tensor(-torch.inf)), near)


def _padded(array: np.ndarray, nodes: int) -> np.ndarray:
    return np.pad(array, [(0, nodes - len(array)), *[(0, 0)] * (array.ndim - 1)])
