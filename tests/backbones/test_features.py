"""Learners refuse unsuitable backbones with a clear error, before wrong shapes or logits occur."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP, Conv4
from quickstudy.backbones.features import like, refuse_heads_and_maps, refuse_sizes
from quickstudy.core import Learner
from quickstudy.learners.metric.siamese import verification

ON_VECTORS: dict[str, Callable[[nn.Module], Learner]] = {
    "Prototypical": qs.Prototypical,
    "Siamese": qs.Siamese,
    "Siamese, verification": lambda net: qs.Siamese(net, verification),
    "Matching": qs.Matching,
    "Matching, reads": lambda net: qs.Matching(net, reads=1),
    "R2D2": qs.R2D2,
    "MetaOptNet": qs.MetaOptNet,
    "LinearProbe": qs.LinearProbe,
    "MANN": lambda net: qs.MANN(net, 5),
    "MemoryNetwork": qs.MemoryNetwork,
    "MetaNetworks": lambda net: qs.MetaNetworks(net, 5),
    "SNAIL": lambda net: qs.SNAIL(net, 5),
    "InContext": qs.InContext,
    "ConditionalNeuralProcess": qs.ConditionalNeuralProcess,
    "AttentiveConditionalNeuralProcess": qs.AttentiveConditionalNeuralProcess,
}
ON_ANYTHING = ("Prototypical", "Siamese", "Matching", "R2D2", "MetaOptNet", "LinearProbe")
WITH_LAYERS = {
    "Siamese, verification": ON_VECTORS["Siamese, verification"],
    "Matching, reads": ON_VECTORS["Matching, reads"],
    "Relation": qs.Relation,
    "R2D2": qs.R2D2,
    "MetaOptNet": qs.MetaOptNet,
}


@pytest.mark.parametrize("name", [*ON_VECTORS, "Relation"])
@pytest.mark.parametrize("head", [Conv4(4, outputs=5), MLP(4, outputs=5)])
def test_a_backbone_with_a_head_is_refused(name: str, head: nn.Module) -> None:
    make = ON_VECTORS.get(name, qs.Relation)
    with pytest.raises(ValueError, match=r"\(outputs=5\)\. Leave outputs=None") as refused:
        make(head)
    assert str(refused.value).startswith(name.split(",")[0])


@pytest.mark.parametrize("name", ON_VECTORS)
def test_feature_maps_are_refused_where_vectors_are_compared(name: str) -> None:
    with pytest.raises(ValueError, match=r"maps of shape \(4, 7, 7\).*Conv4\(flat=True\)"):
        ON_VECTORS[name](Conv4(4, pools=2, flat=False))


@pytest.mark.parametrize("name", ON_ANYTHING)
def test_a_backbone_may_declare_nothing(name: str) -> None:
    learner = ON_VECTORS[name](nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    rows = qs.examples(torch.eye(4), [0, 1, 0, 1])
    assert learner(rows, qs.classification(2))(rows.inputs).shape == (4, 2)


def test_an_attribute_outputs_without_features_declares_no_head() -> None:
    """A module that does not declare its features may use ``outputs`` for something else."""
    net = nn.Linear(4, 3)
    net.outputs = 3  # type: ignore[assignment]
    refuse_heads_and_maps(net, "Prototypical")


@pytest.mark.parametrize(
    ("name", "maps"), [*((name, False) for name in WITH_LAYERS), ("Relation", True)]
)
def test_layers_of_a_learner_have_the_type_of_its_backbone(name: str, maps: bool) -> None:
    torch.manual_seed(0)
    net = Conv4(4, image_size=16, pools=2, flat=not maps).double()
    learner = WITH_LAYERS[name](net)
    assert {p.dtype for p in learner.parameters()} == {torch.float64}
    noise = torch.rand(4, 1, 16, 16, dtype=torch.float64)
    rows = examples_of(noise, torch.tensor([0, 1, 0, 1]), torch.ones(4))
    predictions: Tensor = learner(rows, qs.classification(2))(noise)
    assert predictions.dtype == torch.float64
    torch.manual_seed(0)
    single = WITH_LAYERS[name](Conv4(4, image_size=16, pools=2, flat=not maps))
    weights = zip(learner.parameters(), single.parameters(), strict=True)
    assert all(torch.equal(a.float(), b) for a, b in weights)


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_layers_of_a_learner_are_on_the_device_of_its_backbone(name: str) -> None:
    learner = WITH_LAYERS[name](MLP(4).to("meta"))
    assert {p.device.type for p in learner.parameters()} == {"meta"}


def test_integer_parameters_do_not_decide_the_type() -> None:
    net = nn.Module()
    net.steps = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
    assert like(net, nn.Linear(1, 1)).weight.dtype == torch.float32
    net.rates = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    assert like(net, nn.Linear(1, 1)).weight.dtype == torch.float64


def test_sizes_below_one_are_refused() -> None:
    refuse_sizes("Relation", width=1, hidden=8)
    with pytest.raises(ValueError, match=r"^Relation: width must be at least 1; found 0\.$"):
        refuse_sizes("Relation", hidden=8, width=0)
    with pytest.raises(ValueError, match="width must be at least 1; found 0"):
        qs.Relation(MLP(4), width=0)
    with pytest.raises(ValueError, match="hidden must be at least 1; found -1"):
        qs.Relation(MLP(4), hidden=-1)
