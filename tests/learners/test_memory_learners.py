"""Common to learners with a memory: what they refuse, and the features and attention they give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import examples_of
from quickstudy.answers import Classes, Labels, Reals
from quickstudy.backbones import MLP
from quickstudy.core import Examples, Learner, Task
from quickstudy.files.storage import load
from quickstudy.learners.memory.neural_process import gaussian_likelihood
from quickstudy.learners.memory.sequence_learner import sequence_loss
from quickstudy.learners.metric.siamese import contrastive, linear_contrastive, verification
from quickstudy.learners.outputs import label_vectors

WAYS = 3
KINDS: dict[str, Callable[..., Learner]] = {
    "mann": lambda net, **o: qs.MANN(net, WAYS, **{"hidden": 8, "slots": 8, "width": 4} | o),
    "memory network": lambda net, **o: qs.MemoryNetwork(net, **{"width": 8} | o),
    "meta networks": lambda net, **o: qs.MetaNetworks(net, **{"outputs": WAYS, "hidden": 8} | o),
    "snail": lambda net, **o: qs.SNAIL(net, **{"outputs": WAYS, "filters": 8} | o),
    "in context": lambda net, **o: qs.InContext(net, **{"size": 8, "heads": 2} | o),
    "conditional process": lambda net, **o: qs.ConditionalNeuralProcess(net, **{"size": 8} | o),
    "attentive process": lambda net, **o: qs.AttentiveConditionalNeuralProcess(
        net, **{"size": 8, "heads": 2} | o
    ),
}
NORMALISING = ("mann", "memory network", "meta networks", "snail", "in context")


class Plain(nn.Module):
    """Inputs as they are."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def support(inputs: int, dtype: torch.dtype = torch.float32) -> Examples:
    torch.manual_seed(1)
    rows = qs.examples(torch.randn(2 * WAYS, inputs), torch.arange(2 * WAYS) % WAYS)
    return examples_of(rows.inputs.to(dtype), rows.targets, rows.weights.to(dtype))


@pytest.mark.parametrize("kind", NORMALISING)
@pytest.mark.parametrize("features", [1, 3])
def test_too_few_features_to_normalise_are_refused(kind: str, features: int) -> None:
    with pytest.raises(ValueError, match=rf"{features}\. Put .* MLP\({features}, hidden=\(64"):
        KINDS[kind](Plain(features))


@pytest.mark.parametrize("kind", NORMALISING)
def test_different_inputs_get_different_predictions_with_the_fewest_features(kind: str) -> None:
    torch.manual_seed(0)
    learner = KINDS[kind](Plain(4))
    answers = learner(support(4), qs.classification(WAYS))(torch.randn(100, 4))
    assert len(answers.unique(dim=0)) == 100


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mann", {"hidden": 0}),
        ("mann", {"slots": 0}),
        ("mann", {"width": 0}),
        ("mann", {"reads": 0}),
        ("memory network", {"hops": 0}),
        ("memory network", {"width": 0}),
        ("meta networks", {"outputs": 0}),
        ("meta networks", {"hidden": -1}),
        ("snail", {"outputs": 0}),
        ("snail", {"filters": 0}),
        ("conditional process", {"size": 0}),
        ("attentive process", {"size": 0}),
    ],
)
def test_sizes_below_one_are_refused(kind: str, options: dict[str, int]) -> None:
    ((name, size),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be at least 1; found {size}"):
        KINDS[kind](MLP(), **options)


@pytest.mark.parametrize("options", [{"size": 2}, {"layers": 0}, {"heads": 0}])
def test_a_transformer_needs_layers_heads_and_a_positive_size(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="InContext: needs layers >= 1, size >= 4, and heads"):
        KINDS["in context"](MLP(), **options)


def test_a_sequence_needs_a_support_row_and_a_query() -> None:
    with pytest.raises(ValueError, match="length >= 2; found 1"):
        KINDS["snail"](MLP(), length=1)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_rates_that_are_not_positive_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="MetaNetworks: rate must be a positive number"):
        KINDS["meta networks"](MLP(), rate=rate)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_a_learner_have_the_type_and_device_of_its_backbone(kind: str) -> None:
    learner = KINDS[kind](MLP(2, (8,)).double())
    assert {p.dtype for p in learner.parameters()} == {torch.float64}
    rows = support(2, torch.float64)
    assert learner(rows, qs.classification(WAYS))(rows.inputs).dtype == torch.float64
    far = KINDS[kind](MLP(2, (8,)).to("meta"))  # in place of a GPU
    assert {p.device.type for p in far.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_features_are_those_that_the_predictor_uses(kind: str) -> None:
    torch.manual_seed(0)
    learner, rows, queries = KINDS[kind](MLP(2, (8,))), support(2), torch.randn(5, 2)
    state = learner(rows, qs.classification(WAYS)).state
    shown = learner.embed(state, queries)
    assert shown is not None
    features = learner.backbone(queries)
    if kind == "mann":
        features = features - learner.backbone(rows.inputs).mean(0)
    if kind in ("mann", "snail", "in context"):
        features = (features - features.mean(1, keepdim=True)) / (
            features.var(1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
    if kind not in ("memory network", "meta networks"):  # their features are in another space
        torch.testing.assert_close(shown, features)
    assert shown.shape == (5, 8)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "conditional process"])
@pytest.mark.parametrize("real", [False, True])
@torch.no_grad()
def test_attention_to_nothing_is_zero(kind: str, real: bool) -> None:
    if real and kind == "memory network":
        pytest.skip("a memory network classifies")
    torch.manual_seed(0)
    learner, rows = KINDS[kind](MLP(2, (8,))), support(2)
    rows = rows._replace(weights=torch.zeros(2 * WAYS))
    if real:
        rows = rows._replace(targets=torch.randn(2 * WAYS, 1))
    state = learner(rows, qs.regression() if real else qs.classification(WAYS)).state
    shares = learner.attention(state, torch.randn(5, 2))
    assert shares is not None
    assert torch.equal(shares, torch.zeros(5, 2 * WAYS))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_predictor_predicts_to_the_last_bit(kind: str, tmp_path: Path) -> None:
    """Also one whose state was made with gradients, and so has ``requires_grad``."""
    for seed in range(4):
        torch.manual_seed(seed)
        learner, queries = KINDS[kind](MLP(2, (8,))).eval(), torch.randn(5, 2)
        predictor = learner(support(2), qs.classification(WAYS))
        loaded = load(qs.save(predictor, tmp_path / "predictor.safetensors"))
        assert torch.equal(predictor(queries), loaded(queries))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (sequence_loss, "sequence_loss: needs a learner that reads .*; found Prototypical"),
        (gaussian_likelihood, "gaussian_likelihood: needs a neural process; found Prototypical"),
        (contrastive, "need a Siamese learner; found Prototypical"),
        (linear_contrastive, "need a Siamese learner; found Prototypical"),
        (verification, "need a Siamese learner; found Prototypical"),
    ],
)
def test_objectives_refuse_learners_of_other_kinds(objective: Any, message: str) -> None:
    rows = support(2)
    with pytest.raises(TypeError, match=message):
        objective(qs.Prototypical(MLP(2, (8,))), Task(rows, rows, qs.classification(WAYS)))


def test_labels_as_vectors_are_padded_with_zeros() -> None:
    inputs = torch.zeros(2, 1)
    for targets, answer, expected in (
        ([[2.0], [3.0]], Reals(1), [[2, 0, 0], [3, 0, 0]]),
        ([[torch.nan], [3.0]], Reals(1, missing=True), [[0, 0, 0], [3, 0, 0]]),
        ([1, 0], Classes(2), [[0, 1, 0], [1, 0, 0]]),
        ([-1, 0], Classes(2), [[0, 0, 0], [1, 0, 0]]),
        ([[0, 1], [-1, 1]], Labels(2), [[-1, 1, 0], [0, 1, 0]]),
    ):
        rows = qs.examples(inputs, targets)
        assert label_vectors(rows, answer, 3, torch.float32).tolist() == expected


def test_learners_that_read_vectors_refuse_targets_that_are_maps() -> None:
    rows = qs.examples(torch.zeros(2, 1), torch.zeros(2, 4, 4, 1))
    with pytest.raises(ValueError, match=r"a vector of targets for each row.* found shape"):
        qs.ConditionalNeuralProcess(MLP())(rows, qs.regression())


def test_learnt_rates_are_the_rates_of_the_gradient_maps() -> None:
    learner = qs.MetaNetworks(MLP(2, (8,)), outputs=WAYS, hidden=8, rate=0.5)
    with torch.no_grad():
        learner.base_mapper.rate[1] = 0.25
    rates = {name: float(rate) for name, rate in learner.learnt_rates().items()}
    weights = dict(learner.named_parameters())
    assert set(rates) <= set(weights)
    assert set(rates) == {n for n in weights if n.startswith(("base.", "representation."))}
    assert {n for n, rate in rates.items() if rate == 0.25} == {"base.2.weight", "base.2.bias"}
    assert set(rates.values()) == {0.5, 0.25}
