"""Deep CORAL, DAN and DANN: losses by independent formulas, training by a plain loop in torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP
from quickstudy.core import Examples, Learner
from quickstudy.learners.domains.dan import squared_mmd
from quickstudy.learners.domains.dann import reversal_strength, reversed_gradient
from quickstudy.learners.domains.deep_alignment import DeepAligner, _rounds
from quickstudy.learners.domains.deep_coral import coral_distance

SPEC = qs.classification(3)
WIDTHS = (0.5, 1.0, 3.0)


def values(n: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


def rows(n: int = 12, m: int = 10, labelled: int = 0) -> Examples:
    """n labelled source rows and m target rows, shuffled."""
    inputs = torch.cat([values(n, 4, 0), 1.5 * values(m, 4, 1) + 0.5])
    targets = torch.arange(n + m) % 3
    targets[n + labelled :] = -1
    groups = torch.tensor([1] * n + [0] * m)
    order = torch.randperm(n + m, generator=torch.Generator().manual_seed(2))
    ones = torch.ones(n + m, dtype=torch.float64)
    return Examples(inputs[order], targets[order], ones, groups[order])


def backbone() -> MLP:
    torch.manual_seed(0)
    return MLP(4, (6, 5)).double()


def at(examples: Examples, which: Any) -> Examples:
    return Examples(*(leaf[which] for leaf in examples))


LEARNERS: dict[str, Callable[..., DeepAligner]] = {
    "deep_coral": lambda **o: qs.DeepCORAL(backbone(), strength=2.0, **o),
    "deep_coral, features": lambda **o: qs.DeepCORAL(backbone(), of_features=True, **o),
    "dan": lambda **o: qs.DAN(backbone(), bandwidths=WIDTHS, strength=0.7, **o),
    "dann": lambda **o: qs.DANN(backbone(), hidden=(7,), strength=0.6, **o),
    "dann, logistic": lambda **o: qs.DANN(backbone(), hidden=(), **o),
}


def mmd_by_loops(s: np.ndarray, t: np.ndarray) -> float:
    """Gretton's unbiased estimate, pair by pair."""
    both = np.concatenate([s, t])
    pairs = [(a, b) for i, a in enumerate(both) for j, b in enumerate(both) if i != j]
    scale = np.mean([np.sum((a - b) ** 2) for a, b in pairs])

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([np.exp(-np.sum((a - b) ** 2) / (h * scale)) for h in WIDTHS]))

    n, m = len(s), len(t)
    within = [
        sum(k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
        / (len(x) * (len(x) - 1))
        for x in (s, t)
    ]
    return sum(within) - 2 * sum(k(a, b) for a in s for b in t) / (n * m)


def test_the_covariance_loss_is_the_papers() -> None:
    s, t = values(9, 4, 0), 2 * values(7, 4, 1) + 3
    found = coral_distance(s, t, torch.ones(9).double(), torch.ones(7).double())
    gap = np.cov(s.numpy().T) - np.cov(t.numpy().T)
    assert float(found) == pytest.approx((gap**2).sum() / (4 * 16), rel=1e-12)


def test_the_discrepancy_is_grettons_unbiased_estimate() -> None:
    s, t = values(9, 4, 0), 2 * values(7, 4, 1) + 1
    found = squared_mmd(s, t, torch.ones(9).double(), torch.ones(7).double(), WIDTHS)
    assert float(found) == pytest.approx(mmd_by_loops(s.numpy(), t.numpy()), rel=1e-10)


def test_the_discrepancy_of_equal_distributions_is_zero_in_the_mean() -> None:
    """Unbiased: over 300 pairs of samples the mean is within 4 standard errors of 0."""
    ones = torch.ones(12).double()
    found = torch.stack([
        squared_mmd(values(12, 2, 2 * k), values(12, 2, 2 * k + 1), ones, ones) for k in range(300)
    ])  # fmt: skip
    assert abs(float(found.mean())) < 4 * float(found.std()) / 300**0.5


@pytest.mark.parametrize("distance", [coral_distance, squared_mmd])
def test_a_row_of_weight_2_counts_as_two_rows(distance: Callable[..., Tensor]) -> None:
    s, t = values(6, 3, 0), values(5, 3, 1) + 1
    weights = torch.tensor([2.0, 1, 1, 0, 3, 1]).double()
    repeated = s.repeat_interleave(weights.long(), 0)
    ones = torch.ones(5).double()
    found = distance(s, t, weights, ones)
    expected = distance(repeated, t, torch.ones(8).double(), ones)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("distance", [coral_distance, squared_mmd])
def test_single_rows_and_equal_rows_have_finite_losses_and_gradients(
    distance: Callable[..., Tensor],
) -> None:
    for s, t in ((values(1, 3, 0), values(1, 3, 1)), (torch.ones(4, 3), torch.ones(3, 3))):
        s = s.double().requires_grad_()
        loss = distance(s, t.double(), torch.ones(len(s)).double(), torch.ones(len(t)).double())
        assert loss.isfinite()
        assert torch.autograd.grad(loss, s)[0].isfinite().all()


def test_the_reversal_changes_the_gradient_alone() -> None:
    x = values(5, 3, 0).requires_grad_()
    weight = values(5, 3, 1)
    reversed_x = reversed_gradient(x, 0.3)
    torch.testing.assert_close(reversed_x, x, rtol=1e-14, atol=1e-14)
    gradient = torch.autograd.grad((reversed_x * weight).sum(), x)[0]
    torch.testing.assert_close(gradient, -0.3 * weight)
    assert reversal_strength(0.0) == 0
    assert reversal_strength(1.0) == pytest.approx(2 / (1 + np.exp(-10.0)) - 1)


class _Reverse(torch.autograd.Function):
    """An implementation of its own, by a custom backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None


def trained_plainly(learner: DeepAligner, support: Examples) -> tuple[nn.Module, nn.Linear]:
    """The same training written again with modules, torch's optimiser and scheduler."""
    body = copy.deepcopy(learner.backbone)
    head = nn.Linear(5, 3).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    domain = nn.Sequential()
    if isinstance(learner, qs.DANN):
        sizes = (5, *learner.hidden, 1)
        first = learner.own_parts(torch.zeros(1, 5).double())
        for k in range(len(sizes) - 1):
            layer = nn.Linear(sizes[k], sizes[k + 1]).double()
            layer.weight.data, layer.bias.data = (
                first[f"domain.{k}.{name}"].clone() for name in ("weight", "bias")
            )
            domain.extend([layer] if not k else [nn.ReLU(), layer])
    everything = [*body.parameters(), *head.parameters(), *domain.parameters()]
    optimiser = torch.optim.SGD(everything, lr=learner.rate, momentum=0.9)
    annealed = not isinstance(learner, qs.DeepCORAL)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: (1 + 10 * k / learner.steps) ** -0.75 if annealed else 1.0
    )
    s, t = (at(support, support.groups == g) for g in (1, 0))
    for k in range(learner.steps):
        fs, ft = body(s.inputs), body(t.inputs)
        labels = torch.cat([s.targets, t.targets])
        loss = F.cross_entropy(head(torch.cat([fs, ft])), labels, ignore_index=-1)
        if isinstance(learner, qs.DeepCORAL):
            a, b = (fs, ft) if learner.of_features else (head(fs), head(ft))
            gap = torch.cov(a.T) - torch.cov(b.T)
            loss = loss + learner.strength * (gap**2).sum() / (4 * a.shape[1] ** 2)
        elif isinstance(learner, qs.DAN):
            loss = loss + learner.strength * (plain_mmd(fs, ft) + plain_mmd(head(fs), head(ft)))
        else:
            factor = learner.strength * (2 / (1 + np.exp(-10 * k / learner.steps)) - 1)
            for side, label in ((fs, 1.0), (ft, 0.0)):
                logit = domain(_Reverse.apply(side, factor))
                truth = torch.full_like(logit, label)
                loss = loss + F.binary_cross_entropy_with_logits(logit, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return body, head


def plain_mmd(s: Tensor, t: Tensor) -> Tensor:
    """The discrepancy by explicit distances and masks."""
    both = torch.cat([s, t])
    squares = ((both[:, None] - both[None]) ** 2).sum(-1)
    off = ~torch.eye(len(both), dtype=torch.bool)
    scale = squares[off].mean().detach()
    scale = scale if scale > 0 else torch.ones_like(scale)
    kernel = sum((-squares / (h * scale)).exp() for h in WIDTHS) / len(WIDTHS)
    n = len(s)
    within = [
        kernel[part, part][~torch.eye(size, dtype=torch.bool)].mean()
        for part, size in ((slice(None, n), n), (slice(n, None), len(t)))
    ]
    return within[0] + within[1] - 2 * kernel[:n, n:].mean()


@pytest.mark.parametrize("labelled", [0, 4])
@pytest.mark.parametrize("name", LEARNERS)
def test_training_is_that_of_a_plain_loop(name: str, labelled: int) -> None:
    support = rows(labelled=labelled)
    learner = LEARNERS[name](steps=6, rate=0.1)
    before = copy.deepcopy(learner.state_dict())
    state = learner.adapt(support, SPEC)
    body, head = trained_plainly(learner, support)
    own = dict(learner.backbone.named_parameters())
    for parameter, weight in body.named_parameters():
        moved = own[parameter] + state["difference"][parameter]
        torch.testing.assert_close(moved, weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state["head"]["weight"], head.weight, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(before[key], value) for key, value in learner.state_dict().items())
    inputs = values(5, 4, 9)
    found = learner(support, SPEC)(inputs)
    torch.testing.assert_close(found, head(body(inputs)), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(learner.embed(state, inputs), body(inputs), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_plain_task_is_trained_without_any_alignment(name: str) -> None:
    support = rows(labelled=10)
    plain = at(support, support.groups == 0)
    learner = LEARNERS[name](steps=4, rate=0.1)
    without = copy.deepcopy(learner)
    without.strength = 0.0
    found, expected = (each(plain, SPEC)(values(5, 4, 9)) for each in (learner, without))
    assert torch.equal(found, expected)
    assert not torch.equal(*(each(support, SPEC)(plain.inputs) for each in (learner, without)))


def test_batches_take_every_row_in_turn_and_then_in_another_order() -> None:
    batches = _rounds(torch.arange(10, 17), 3, torch.Generator().manual_seed(0))
    drawn = torch.cat([next(batches) for _ in range(7)])  # 21 rows are three rounds
    rounds = drawn.split(7)
    assert all(sorted(each.tolist()) == list(range(10, 17)) for each in rounds)
    assert rounds[0].tolist() != rounds[1].tolist()
    whole = _rounds(torch.arange(3), 5, torch.Generator())
    assert next(whole).tolist() == next(whole).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", LEARNERS)
def test_batches_are_the_seeds_and_padding_is_none(name: str) -> None:
    support = rows()
    learner, other = (LEARNERS[name](steps=4, rate=0.1, batch=4, seed=seed) for seed in (3, 4))
    padding = at(support, torch.arange(5))._replace(weights=torch.zeros(5).double())
    padded = Examples(*(torch.cat([a, b]) for a, b in zip(padding, support, strict=True)))
    inputs = values(5, 4, 9)
    first = learner(support, SPEC)(inputs)
    torch.testing.assert_close(learner(padded, SPEC)(inputs), first)
    assert torch.equal(learner(support, SPEC)(inputs), first)
    assert not torch.equal(other(support, SPEC)(inputs), first)


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_by_batches_declare_what_they_break(name: str) -> None:
    whole, parts = LEARNERS[name](steps=4), LEARNERS[name](steps=4, batch=4)
    assert set(whole.exceptions) == {"vmap_equals_loop"}
    assert set(parts.exceptions) - set(whole.exceptions) == {
        "support_order_is_irrelevant", "weight_two_is_twice",
    }  # fmt: skip
    support = rows()
    reversed_rows = at(support, torch.arange(len(support.weights)).flip(0))
    for learner, same in ((whole, True), (parts, False)):
        found, expected = (learner(each, SPEC)(support.inputs) for each in (support, reversed_rows))
        assert torch.allclose(found, expected) == same


@pytest.mark.parametrize("name", LEARNERS)
def test_frozen_parameters_stay(name: str) -> None:
    learner = LEARNERS[name](steps=3)
    frozen = type(learner)(qs.frozen(learner.backbone), steps=3)
    assert frozen.adapt(rows(), SPEC)["difference"] == {}


def test_what_is_frozen_later_stays_too() -> None:
    learner = qs.DANN(backbone(), steps=3)
    learner.backbone.layers[0].requires_grad_(False)
    moved = learner.adapt(rows(), SPEC)["difference"]
    assert set(moved) == {"layers.2.weight", "layers.2.bias"}
    whole = qs.DANN(backbone(), steps=3)
    expected = whole(rows(), SPEC)(rows().inputs)
    whole.requires_grad_(False)  # for use: it adapts as it was made
    assert torch.equal(whole(rows(), SPEC)(rows().inputs), expected)


class _ReadsElsewhere(nn.Module):
    """Computes with a weight that it keeps outside of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(values(5, 4, 0))
        self.kept = [[[[[self.weight]]]]]  # deeper than a replica follows

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.kept[0][0][0][0][0].T


def test_weights_that_cannot_be_replaced_are_refused() -> None:
    with pytest.raises(ValueError, match="adapted weights cannot take the place of weight"):
        qs.DANN(_ReadsElsewhere(), steps=3)(rows(), SPEC)


def test_real_targets_and_sources_of_several_places() -> None:
    support = rows(labelled=4)
    reals = torch.where(support.targets < 0, torch.nan, support.targets.double())[:, None]
    several = torch.where(support.groups > 0, 1 + torch.arange(22) % 3, 0)
    support = support._replace(targets=reals, groups=several)
    learner = qs.DANN(backbone(), steps=5)
    spec = qs.regression(1, missing=True)
    assert learner(support, spec)(support.inputs).shape == (22, 1)


@pytest.mark.parametrize("name", LEARNERS)
def test_what_cannot_be_aligned_is_refused(name: str) -> None:
    support = rows()
    sources = at(support, support.groups > 0)
    with pytest.raises(ValueError, match=r"needs rows of the target .* found 12 rows of sources"):
        LEARNERS[name]()(sources, SPEC)


def test_training_that_diverges_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weights must stay finite, but .* Lower rate"):
        qs.DeepCORAL(backbone(), steps=20, rate=1e200)(rows(), SPEC)


def test_settings_out_of_range_are_refused() -> None:
    makes: list[tuple[str, Callable[[], Learner]]] = [
        ("steps must be at least 1", lambda: qs.DANN(backbone(), steps=0)),
        ("rate must be positive", lambda: qs.DeepCORAL(backbone(), rate=0.0)),
        ("strength at least 0", lambda: qs.DAN(backbone(), strength=-1.0)),
        ("batch must be at least 1", lambda: qs.DANN(backbone(), batch=0)),
        ("bandwidths must be positive", lambda: qs.DAN(backbone(), bandwidths=())),
        ("hidden must be at least 1", lambda: qs.DANN(backbone(), hidden=(0,))),
        ("works on features", lambda: qs.DANN(MLP(4, outputs=3))),
    ]
    for message, make in makes:
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("kind", [qs.DAN, qs.DeepCORAL])
def test_weights_that_are_shares_are_refused_since_no_pair_of_rows_would_count(
    kind: type[Learner],
) -> None:
    """Their sum, 1 up to rounding, minus 1 was divided by: the discrepancy was -5e7."""
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    given = qs.examples(x, [0, 1] * 3 + [-1] * 6, groups=[1] * 6 + [0] * 6)
    learner = kind(qs.backbones.MLP(2, (3,)), steps=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"sum to at least 2; found a sum of 1 for 6 rows of s"):
        learner(given._replace(weights=torch.full((12,), 1 / 6)), SPEC)
    heavy, alone = torch.full((6,), 2.0), torch.full((1,), 1.0)
    for weights in (torch.full((6,), 0.2), torch.full((6,), 1 / 6)):
        assert 0 <= float(coral_distance(x[:6], x[6:7], weights, alone)) < 1e-6
        assert abs(float(squared_mmd(x[:6], x[6:], weights, heavy))) < 4
