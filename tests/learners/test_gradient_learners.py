"""Common to gradient learners: what adapts, what is kept, kinds of outputs, prior and extend."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP, Conv4
from quickstudy.compute.plan import Mapping
from quickstudy.contract.laws import meta_gradient
from quickstudy.learners.gradient.descend import Rate, Weights, sgd
from quickstudy.learners.gradient.meta_gradients import (
    Exact,
    FiniteDifference,
    FirstOrder,
    Implicit,
    MetaGradient,
)
from quickstudy.objectives import mean_loss, query_loss
from quickstudy.tasks.stacks import stack

LEARNERS: dict[str, Callable[..., Any]] = {
    "MAML": qs.MAML,
    "ANIL": qs.ANIL,
    "BOIL": qs.BOIL,
    "MAML++": qs.MAMLPlusPlus,
    "Meta-SGD": qs.MetaSGD,
    "CAVIA": qs.CAVIA,
    "Reptile": qs.Reptile,
    "LSTM": lambda net, **o: qs.LSTMMetaLearner(net, hidden=3, **o),
}
ALL = pytest.mark.parametrize("learner", LEARNERS)
STEPPING_EVERY_WEIGHT = [name for name in LEARNERS if name not in ("ANIL", "CAVIA")]


def made(name: str, net: nn.Module | None = None, **options: object) -> Any:
    torch.manual_seed(0)
    return LEARNERS[name](net or MLP(4, (6, 5), outputs=3), **({"steps": 2} | options)).double()


def rows(n: int, seed: int = 0) -> qs.Examples:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 4, generator=generator)
    return qs.examples(inputs, torch.arange(n) % 3)._replace(
        inputs=inputs.double(), weights=torch.ones(n).double()
    )


@pytest.mark.parametrize("name", STEPPING_EVERY_WEIGHT)
def test_frozen_parameters_do_not_adapt(name: str) -> None:
    net = MLP(4, (6, 5), outputs=3)
    net.layers[0].requires_grad_(False)
    learner = made(name, net)
    weights = learner.adapt(rows(6), qs.classification(3))["weights"]
    assert weights
    assert not any(w.startswith("layers.0.") for w in weights)


@pytest.mark.parametrize("name", [*STEPPING_EVERY_WEIGHT, "CAVIA"])
def test_parameters_frozen_after_the_learner_was_made_do_not_adapt_either(name: str) -> None:
    learner, spec = made(name), qs.classification(3)
    learner.backbone.layers[0].requires_grad_(False)
    weights = learner.adapt(rows(6), spec)["weights"]
    assert weights
    assert not any(w.startswith("layers.0.") for w in weights)
    tasks = [qs.Task(rows(6, seed), rows(6, seed + 9), spec) for seed in (1, 2)]
    looped, mapped = (
        meta_gradient(learner, stack(tasks), mapping)
        for mapping in (Mapping.LOOP, Mapping.VMAP_GRAD)
    )
    torch.testing.assert_close(looped, mapped, rtol=1e-9, atol=1e-12)


def test_frozen_parameters_of_a_body_under_prototypes_do_not_adapt() -> None:
    net = MLP(4, (6, 5))
    net.layers[0].requires_grad_(False)
    weights = qs.ProtoMAML(net.double()).adapt(rows(6), qs.classification(3))["weights"]
    assert "backbone.layers.2.weight" in weights
    assert "backbone.layers.0.weight" not in weights


def test_a_learner_that_is_frozen_afterwards_adapts_as_before() -> None:
    learner, spec = made("MAML"), qs.classification(3)
    before = learner(rows(6), spec)(rows(6).inputs)
    learner.requires_grad_(False)
    assert torch.equal(learner(rows(6), spec)(rows(6).inputs), before)


@pytest.mark.parametrize("make", [qs.ANIL, qs.BOIL, qs.MetaSGD])
def test_freezing_all_that_adapts_but_not_the_rest_is_refused(
    make: Callable[[nn.Module], Any],
) -> None:
    learner, spec = make(MLP(4, (6, 5), outputs=3).double()), qs.classification(3)
    frozen = {qs.ANIL: "head", qs.BOIL: "layers", qs.MetaSGD: ""}[make]
    learner.backbone.get_submodule(frozen).requires_grad_(False)
    with pytest.raises(ValueError, match="all that it was made to adapt is frozen now"):
        learner(rows(6), spec)
    learner.requires_grad_(False)
    assert learner(rows(6), spec)(rows(6).inputs).isfinite().all()


def test_a_pattern_that_matches_only_frozen_parameters_is_refused() -> None:
    net = MLP(4, (6, 5), outputs=3)
    net.head.requires_grad_(False)
    with pytest.raises(ValueError, match=r"adapts='head\.\*' matches frozen parameters alone"):
        qs.MAML(net, adapts=("layers.*", "head.*"))
    with pytest.raises(ValueError, match=r"ANIL: .* matches frozen parameters alone"):
        qs.ANIL(net)
    assert made("MAML", net, adapts=("*",)).adapted[-1] == "layers.2.bias"


META_GRADIENTS = [Exact(), Exact(recompute=True), FirstOrder(), FiniteDifference(), Implicit()]


@pytest.mark.parametrize("meta_gradient", META_GRADIENTS, ids=str)
def test_adapting_without_differentiating_keeps_no_earlier_weights(
    meta_gradient: MetaGradient,
) -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def watched(
        weights: Weights, gradients: Weights, rate: Rate, memory: Any
    ) -> tuple[Weights, Any]:
        nonlocal most
        stepped, memory = sgd(weights, gradients, rate, memory)
        alive.append(weakref.ref(stepped["head.weight"]))
        most = max(most, sum(reference() is not None for reference in alive))
        return stepped, memory

    learner = made("MAML", steps=50, rate=0.01, update=watched, meta_gradient=meta_gradient)
    with torch.no_grad():
        learner.adapt(rows(6), qs.classification(3))
    assert len(alive) == 50
    assert most <= 3


def test_the_lstm_rule_keeps_no_earlier_weights() -> None:
    learner = made("LSTM", steps=50)
    seen: list[weakref.ref[Tensor]] = []
    learner.rule.register_forward_hook(lambda _, __, out: seen.append(weakref.ref(out[0])))
    counts: list[int] = []
    learner.rule.register_forward_pre_hook(
        lambda *_: counts.append(sum(reference() is not None for reference in seen))
    )
    with torch.no_grad():
        learner.adapt(rows(6), qs.classification(3))
    assert len(counts) == 50
    assert max(counts) <= 3


@ALL
def test_the_prior_is_the_network_before_any_step(learner: str) -> None:
    made_, spec, inputs = made(learner), qs.classification(3), rows(5).inputs
    prior = made_.prior(spec)
    assert "present" not in prior
    assert torch.equal(made_.predict(prior, inputs, spec), made_.backbone(inputs))
    narrow = made_.predict(made_.prior(qs.classification(2)), inputs, qs.classification(2))
    assert torch.equal(narrow, made_.backbone(inputs)[:, :2])


@ALL
def test_extending_the_prior_equals_adapting(learner: str) -> None:
    made_, spec = made(learner), qs.classification(3)
    extended = made_.extend(made_.prior(spec), rows(6), spec)
    adapted = made_.adapt(rows(6), spec)
    assert torch.equal(extended["present"], adapted["present"])
    for name, weight in adapted["weights"].items():
        assert torch.equal(extended["weights"][name], weight)


@ALL
def test_extending_starts_from_the_state_and_keeps_its_classes(learner: str) -> None:
    made_, narrow, wide = made(learner), qs.classification(2), qs.classification(3)
    first = rows(6)._replace(targets=torch.arange(6) % 2)
    second = rows(4, seed=1)._replace(targets=torch.full((4,), 2))
    state = made_.adapt(first, narrow)
    more = made_.extend(state, second, wide)
    assert more["present"].tolist() == [True, True, True]
    moved = [n for n, w in more["weights"].items() if not torch.equal(w, state["weights"][n])]
    assert moved
    assert made_.predict(more, second.inputs, wide).isfinite().all()


def test_support_statistics_have_no_prior() -> None:
    learner = qs.MAML(Conv4(4, "support", image_size=16, outputs=3))
    with pytest.raises(ValueError, match="before any support there are none"):
        learner.prior(qs.classification(3))


class OverPlaces(nn.Module):
    """(n, places, 4) -> (n, places, outputs)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """A small network for each place."""
        result: Tensor = self.head(self.body(x).tanh())
        return result


class TwoParts(OverPlaces):
    """(n, 4) -> a tree of predictions."""

    def forward(self, x: Tensor) -> Any:
        """Two tensors: a location and an amount."""
        both = super().forward(x)
        return {"where": both[:, :2], "how": both[:, 2:]}


def tree_loss(predicted: Any, true: Any) -> Tensor:
    errors = [(predicted[name] - true[name]).square().sum(-1) for name in ("where", "how")]
    return errors[0] + errors[1]


def answers() -> dict[str, tuple[nn.Module, Any, Any, Any]]:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(6, 4, generator=generator)
    places, image = (
        torch.randn(6, 5, 4, generator=generator),
        flat[:, None, None].expand(6, 2, 3, 4),
    )
    some = torch.randn(6, 3, generator=generator)
    unknown = some.clone()
    unknown[0, 1] = torch.nan
    ids = torch.arange(6)[:, None] + torch.arange(5)
    pixels = (torch.arange(6)[:, None, None] + torch.arange(6).reshape(2, 3)) % 2
    return {
        "labels": (OverPlaces(3), flat, (unknown > 0).float().where(~unknown.isnan(), torch.nan),
                   qs.multilabel(3)),
        "missing reals": (OverPlaces(3), flat, unknown, qs.regression(3, missing=True)),
        "reals at places": (OverPlaces(2), places, places[..., :2].sin(), qs.regression(2)),
        "tokens": (OverPlaces(4), places, (ids % 4).where(ids < 9, -1), qs.tokens(4)),
        "pixels": (OverPlaces(3), image, pixels, qs.segmentation(2)),
        "tree": (TwoParts(3), flat, {"where": some[:, :2], "how": some[:, 2:]},
                 qs.spec(3, tree_loss)),
    }  # fmt: skip


@pytest.mark.parametrize("name", answers())
@pytest.mark.parametrize("learner", LEARNERS)
def test_every_kind_of_output_adapts(learner: str, name: str) -> None:
    net, inputs, targets, spec = answers()[name]
    if (learner, name) == ("ANIL", "tree"):
        pytest.skip("ANIL's backbone ends in its head, and this one goes on after it")
    if learner == "CAVIA" and name in ("reals at places", "tokens", "pixels"):
        pytest.skip("a context moves the channels of (n, channels, ...), and these come last")
    torch.manual_seed(0)
    rate = {} if learner in ("Meta-SGD", "Reptile", "LSTM") else {"rate": 0.05}
    made_, support = LEARNERS[learner](net, steps=3, **rate), qs.examples(inputs, targets)
    task = qs.Task(support, support, spec)
    loss = query_loss(made_, task).loss
    made_.zero_grad()
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made_.parameters())
    path = made_.trajectory(support, spec)
    if learner != "LSTM":  # its rule is untrained
        losses = [float(loss_of(made_, state, support, spec)) for state in (path[0], path[-1])]
        assert losses[1] < losses[0]


def loss_of(learner: Any, state: Any, support: qs.Examples, spec: qs.TaskSpec) -> Tensor:
    with torch.no_grad():
        return mean_loss(learner.predict(state, support.inputs, spec), support, spec.answer)


def test_more_outputs_than_needed_are_accepted_only_for_classes() -> None:
    learner = made("MAML")
    support = rows(6)._replace(targets=torch.zeros(6, 2).double())
    with pytest.raises(ValueError, match=r"has 2 outputs.*\(6, 3\).*outputs=2"):
        learner.adapt(support, qs.regression(2))


def test_settings_are_read_only() -> None:
    learner = made("MAML")
    assert learner.steps == 2
    with pytest.raises(AttributeError):
        learner.steps = 3
