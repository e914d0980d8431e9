"""LoRA against merged weights, by hand and by PEFT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import examples_of
from quickstudy.backbones import MLP, Conv4, LowRank
from quickstudy.backbones.norms import make_norm
from quickstudy.core import Examples
from quickstudy.learners.transfer.lora import merged_weights, peft_weights
from quickstudy.learners.transfer.starting_heads import zero_head

SPEC = qs.classification(3)


def rows(n: int = 6, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return examples_of(x, torch.arange(n) % 3)


def pictures(n: int = 6) -> Examples:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 16, 16, generator=generator, dtype=torch.float64)
    return examples_of(x, torch.arange(n) % 3)


def adapted(backbone: nn.Module, support: Examples, **options: Any) -> qs.Predictor:
    options = {"rank": 2, "alpha": 3.0, "head": zero_head, "steps": 6, "rate": 0.05} | options
    return qs.LoRA(backbone, **options).eval()(support, SPEC)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_merged_weights() -> None:
    network = LowRank(MLP(4, (6, 5)).double(), rank=2, alpha=3.0)
    factors, x = dict(network.factors.named_children()), rows().inputs
    expected = copy.deepcopy(network.backbone)
    assert torch.equal(network(x), network.backbone(x))  # up is zero at the start
    with torch.no_grad():
        for k, name in enumerate(("layers-0", "layers-2")):
            up, down = factors[name].up, factors[name].down
            assert tuple(up.shape) == ((6, 2), (5, 2))[k]
            assert tuple(down.shape) == ((2, 4), (2, 6))[k]
            up.copy_(random(k, *up.shape))
            expected.layers[2 * k].weight += 3.0 / 2 * up @ down  # type: ignore[index, union-attr]
    torch.testing.assert_close(network(x), expected(x))


@pytest.mark.parametrize("kind", ["vectors", "pictures"])
def test_a_predictor_is_its_merged_weights_and_its_state_the_factors_and_the_head(
    kind: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    backbone, support = (
        (MLP(4, (6, 5)), rows()) if kind == "vectors" else (Conv4(4, image_size=16), pictures())
    )
    backbone = qs.frozen(backbone.double())
    before = copy.deepcopy(backbone.state_dict())
    predictor = adapted(backbone, support)
    assert all(torch.equal(t, before[n]) for n, t in backbone.state_dict().items())
    state = predictor.state
    assert all(name.startswith("factors.") for name in state["difference"])
    assert all(t.abs().max() > 1e-3 for n, t in state["difference"].items() if n.endswith("up"))
    merged = copy.deepcopy(backbone)
    missing, unknown = merged.load_state_dict(merged_weights(predictor), strict=False)
    assert missing
    assert not unknown
    head, x = state["head"], support.inputs
    expected = merged(x) @ head["weight"].T + head["bias"]
    torch.testing.assert_close(predictor(x), expected)
    path = qs.save(predictor, tmp_path / "lora.safetensors")
    assert torch.equal(qs.load(path)(x), predictor(x))


class Plain(nn.Module):
    """Convolutions of torch alone: PEFT makes others of the same class, which some do not allow."""

    features = 5

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 4, (3, 5), padding=(1, 2))
        self.last = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, height, width) -> (n, 5)."""
        result: Tensor = self.last(self.second(self.first(images).tanh()).tanh().mean((2, 3)))
        return result


@pytest.mark.parametrize("kind", ["vectors", "pictures"])
def test_peft_computes_the_same_with_the_same_factors(kind: str) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    backbone, support = (MLP(4, (6, 5)), rows()) if kind == "vectors" else (Plain(), pictures())
    backbone = backbone.double()
    predictor = adapted(backbone, support)
    learner: Any = predictor.learner
    config = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=list(learner.network.keys), lora_dropout=0.0
    )
    model = peft.get_peft_model(copy.deepcopy(backbone), config).double().eval()
    starts = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert len(starts) == 2 * len(learner.network.keys)
    peft.set_peft_model_state_dict(model, peft_weights(predictor))
    features = model.base_model.model(support.inputs)
    assert (features - backbone(support.inputs)).abs().max() > 1e-2
    torch.testing.assert_close(features, learner.embed(predictor.state, support.inputs))


def test_the_start_of_the_factors_follows_the_seed() -> None:
    one, same, other = (LowRank(MLP(4), rank=3, seed=seed) for seed in (0, 0, 1))
    down = "factors.layers-0.down"
    assert torch.equal(one.get_parameter(down), same.get_parameter(down))
    assert not torch.equal(one.get_parameter(down), other.get_parameter(down))
    wide = LowRank(nn.Linear(400, 9), rank=50).get_parameter("factors.itself.down").detach()
    assert wide.abs().max() <= 400**-0.5  # uniform between the bounds: variance 1 / (3 * 400)
    assert abs(float(wide.var()) * 1200 - 1) < 0.05


def test_layers_are_chosen_by_name_and_grouped_convolutions_left_out() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1), make_norm("group", 8), nn.Flatten(),
    )  # fmt: skip
    assert list(LowRank(network).keys) == ["1"]
    assert list(LowRank(network, layers="0").keys) == ["0"]
    assert list(LowRank(MLP(4), layers=("layers.2",)).keys) == ["layers.2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "LowRank: rank must be at least 1; found 0"),
        ({"alpha": -1.0}, "LowRank: alpha must be a positive number; found -1.0"),
        ({"layers": "blocks.*"}, r"matches no linear layer.*has: layers.0, layers.2"),
        ({"rate": 0.0}, "LoRA: rate must be a positive number"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qs.LoRA(MLP(4), **options)


def test_convolutions_of_a_pretrained_network_get_factors() -> None:
    backbone = qs.pretrained("efficientnet-lite0", size=32, frozen=False)
    changed = LowRank(backbone, rank=2)
    assert "stem" in changed.keys
    assert not any("depthwise" in name for name in changed.keys)  # each is in groups
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(changed(images), backbone(images))
    support = qs.examples(images, [0, 1, 0, 1])
    predictor = qs.LoRA(backbone, rank=2, steps=2)(support, qs.classification(2))
    assert predictor(images).isfinite().all()


def test_a_network_without_layers_for_factors_is_refused() -> None:
    with pytest.raises(ValueError, match="has: none"):
        LowRank(nn.Flatten())
    with pytest.raises(ValueError, match="leaves no layer"):
        LowRank(nn.Conv2d(4, 4, 3, groups=4))


def test_other_predictors_have_no_factors() -> None:
    predictor = qs.FineTune(MLP(4).double(), "head")(rows(), SPEC)
    for function in (merged_weights, peft_weights):
        with pytest.raises(ValueError, match="needs a predictor of LoRA; found one of FineTune"):
            function(predictor)


CALLS: list[int] = []


class Counting(nn.Linear):
    """A linear layer that notes its calls."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear's."""
        CALLS.append(self.in_features)
        return super().forward(x)


def test_what_comes_before_the_factors_is_computed_once() -> None:
    backbone = nn.Sequential(Counting(4, 6), nn.Tanh(), Counting(6, 5)).double()
    CALLS.clear()
    adapted(backbone, rows(), layers="2", steps=20)
    assert CALLS.count(4) <= 6 < 20 < CALLS.count(6)
