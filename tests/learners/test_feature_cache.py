"""The feature cache equals its equations in numpy, and its learnt keys those of PyTorch's AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from made_up import clouds, examples_of
from quickstudy.backbones import MLP
from quickstudy.testing import LAWS, check_learner

TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 2, -1])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
SPEC = qs.classification(4)


class NamesOfClasses(qs.Learner):
    """Initial logits that need no support: features times an embedding of each class's name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("names", F.normalize(numbers(7, 4, 6)))

    def adapt(self, support: qs.Examples, spec: qs.TaskSpec) -> Any:
        return {}

    def predict(self, state: Any, inputs: Tensor, spec: qs.TaskSpec) -> Tensor:
        return 5 * inputs @ self.names.mT[:, : spec.outputs]


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(**options: object) -> qs.FeatureCache:
    torch.manual_seed(0)
    return qs.FeatureCache(nn.Linear(4, 6).double(), **options)  # type: ignore[arg-type]


def support_and_queries() -> tuple[qs.Examples, Tensor]:
    return examples_of(numbers(1, 8, 4), TARGETS, WEIGHTS), numbers(2, 5, 4)


def features(learner: qs.FeatureCache, inputs: Tensor) -> np.ndarray:
    f = inputs.numpy() @ learner.backbone.weight.detach().numpy().T  # type: ignore[union-attr]
    f = f + learner.backbone.bias.detach().numpy()  # type: ignore[union-attr]
    return np.asarray(f / np.linalg.norm(f, axis=1, keepdims=True))


@pytest.mark.parametrize("initial", [None, NamesOfClasses()], ids=["alone", "names"])
def test_logits_equal_those_of_the_equations(initial: NamesOfClasses | None) -> None:
    learner = made(initial=initial, alpha=3.0, beta=5.5)
    support, queries = support_and_queries()
    with torch.no_grad():
        found = learner(support, SPEC)(queries).numpy()
    keys, q = features(learner, support.inputs), features(learner, queries)
    for i, query in enumerate(q):
        for k in range(3):
            votes = sum(
                float(w) * np.exp(-5.5 * (1 - query @ key))
                for key, y, w in zip(keys, TARGETS.tolist(), WEIGHTS, strict=True)
                if y == k
            )
            first = 0 if initial is None else 5 * query @ initial.names[k].numpy()
            np.testing.assert_allclose(found[i, k], 3 * votes + first, rtol=1e-10)
    assert (found[:, 3] < -1e20).all()


def test_learnt_keys_equal_those_of_adamw() -> None:
    """20 full passes at a rate that falls along a cosine, by ``torch.optim`` and autograd."""
    initial = NamesOfClasses()
    learner = made(initial=initial, alpha=3.0, beta=5.5, steps=20, rate=0.02)
    support, queries = support_and_queries()
    with torch.no_grad():
        found = learner(support, SPEC)(queries)
    f = torch.from_numpy(features(learner, support.inputs))
    keys, known = nn.Parameter(f.clone()), TARGETS >= 0
    values = WEIGHTS[:, None] * F.one_hot(TARGETS.clamp_min(0), 4) * known[:, None]

    def logits(rows: Tensor) -> Tensor:
        votes = (-5.5 * (1 - rows @ keys.mT)).exp() @ values
        return (3 * votes + 5 * rows @ initial.names.mT)[:, :3]

    optimiser = torch.optim.AdamW([keys], 0.02, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
    # A row of weight w is w keys; each such key has the gradient of one.
    per_key = torch.where(WEIGHTS > 0, WEIGHTS, 1.0)[:, None]
    for _ in range(20):
        optimiser.zero_grad()
        losses = F.cross_entropy(logits(f)[known], TARGETS[known], reduction="none")
        ((WEIGHTS[known] * losses).sum() / WEIGHTS[known].sum()).backward()
        assert keys.grad is not None
        keys.grad /= per_key
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        expected = logits(torch.from_numpy(features(learner, queries)))
    torch.testing.assert_close(found[:, :3], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [{"steps": 3}, {"initial": qs.SimpleShot(nn.Identity())}],
    ids=["learnt keys", "after SimpleShot"],
)
def test_other_settings_keep_the_contract(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    learner = qs.FeatureCache(MLP(4, (6, 6)), **options).double().eval()
    if learner.steps:
        learner.extend = None  # type: ignore[assignment,method-assign]
    assert set(check_learner(learner, clouds())) == set(LAWS)


def test_extend_adds_classes_and_refuses_learnt_keys() -> None:
    support, queries = support_and_queries()
    learner = made(initial=qs.SimpleShot(nn.Identity()))
    more = examples_of(numbers(4, 2, 4), torch.tensor([3, 0]))
    state = learner.adapt(support, qs.classification(3))
    found = learner.predict(learner.extend(state, more, SPEC), queries, SPEC)
    both = qs.Examples(*(torch.cat(parts) for parts in zip(support, more, strict=True)))
    torch.testing.assert_close(found, learner(both, SPEC)(queries))
    learner.steps = 1
    with pytest.raises(ValueError, match=r"a cache that is not learnt.*found steps=1"):
        learner.extend(state, more, SPEC)
    with pytest.raises(ValueError, match="found NamesOfClasses"):
        made(initial=NamesOfClasses()).extend(state, more, SPEC)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha, beta and rate must be positive.*beta=0"):
        made(beta=0)
    with pytest.raises(ValueError, match="initial must be a learner; found Identity"):
        made(initial=nn.Identity())
