"""Every gradient learner from a pretrained start, and fine-tuning from every meta-learnt one.

Pretrain, meta-train, fine-tune: Hu et al. (2022), Pushing the Limits of Simple Pipelines for
Few-Shot Learning: External Data and Fine-Tuning Make a Difference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import quickstudy as qs
from made_up import clouds
from quickstudy.backbones import MLP, LowRank, WithHead
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.learners.transfer.starting_heads import zero_head
from quickstudy.tasks.numbering import draw

CARDS = {
    name: card for name, card in LEARNERS.items()
    if card.family == "gradient" and name != "adkf_ift"  # adapts a kernel, and no weights
}  # fmt: skip
FEW = {
    "reptile": {"test_steps": 3, "rate": 0.02}, "lstm_meta_learner": {"hidden": 3},
    "proto_maml": {"steps": 2, "rate": 0.05},
}  # fmt: skip


def pretrained() -> MLP:
    """A network that knows something: its weights are no longer those of its constructor."""
    torch.manual_seed(1)
    return MLP(4, (6, 5))


def frozen() -> nn.Module:
    return qs.frozen(pretrained())


def low_rank() -> nn.Module:
    return LowRank(qs.frozen(pretrained()), rank=2)


def last_layer() -> nn.Module:
    backbone = pretrained()
    backbone.layers[0].requires_grad_(False)
    return backbone


STARTS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "head": (frozen, set()),
    "low rank": (
        low_rank, {f"factors.layers-{k}.{part}" for k in (0, 2) for part in ("down", "up")},
    ),
    "pattern": (last_layer, {"layers.2.weight", "layers.2.bias"}),
}  # fmt: skip
"""A pretrained network, and what may adapt besides the head."""


def made(name: str, network: nn.Module, **options: Any) -> Any:
    """The learner on top of ``network``, with a head where it needs one."""
    cls = resolve("learner", name, LEARNERS)
    torch.manual_seed(0)
    if CARDS[name].head:
        return cls(WithHead(network, 3), **(FEW.get(name, {}) | options))
    return cls(network, **(FEW.get(name, {}) | options))


def own_names(weights: dict[str, torch.Tensor]) -> set[str]:
    """Names of adapted weights in the pretrained network; the head is left out."""
    return {n.removeprefix("backbone.") for n in weights if not n.startswith("head.")}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", CARDS)
def test_it_adapts_the_part_of_a_pretrained_start_that_is_not_frozen(
    name: str, start: str, tmp_path: Path
) -> None:
    make, body = STARTS[start]
    if (name, start) == ("boil", "head"):
        with pytest.raises(ValueError, match=r"BOIL: .* all of it is frozen.*qs\.ANIL"):
            made(name, make())
        return
    options = {"adapts": ()} if (name, start) == ("proto_maml", "head") else {}
    network = make()
    learner, task = made(name, network, **options), draw(clouds(shots=3), 0, 0)
    weights = learner.adapt(task.support, task.spec)["weights"]
    if name == "cavia":
        assert set(weights) == {"context"}
    else:
        assert own_names(weights) == (set() if name == "anil" else body)
        assert ("head.weight" in weights) is (name != "boil")
    # Meta-training moves what is trainable, and nothing that is frozen.
    before = copy.deepcopy(network.state_dict())
    if (name, start) != ("proto_maml", "head"):  # nothing in it is trainable
        qs.fit(learner, clouds(shots=2), steps=2, tasks_per_step=2)
    trainable = {n for n, p in network.named_parameters() if p.requires_grad}
    changed = {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
    assert changed <= trainable
    assert trainable == body
    assert changed or not body
    learner.eval()
    predictor = learner(task.support, task.spec)
    loaded = qs.load(qs.save(predictor, tmp_path / "adapted.safetensors"))
    assert torch.equal(loaded(task.query.inputs), predictor(task.query.inputs))


@pytest.mark.parametrize("name", ["maml", "maml_plus_plus", "meta_sgd", "proto_maml"])
def test_a_name_pattern_of_a_pretrained_start_adapts(name: str) -> None:
    prefix = "backbone." if CARDS[name].head else ""
    pattern = f"{prefix}layers.2.*"
    adapts = (pattern, "head.*") if CARDS[name].head else pattern
    learner, task = made(name, pretrained(), adapts=adapts), draw(clouds(), 0, 0)
    weights = learner.adapt(task.support, task.spec)["weights"]
    assert own_names(weights) == {"layers.2.weight", "layers.2.bias"}
    factors = LowRank(pretrained(), rank=2)
    learner = made(name, factors, adapts=(f"{prefix}factors.*",))
    weights = learner.adapt(task.support, task.spec)["weights"]
    assert own_names(weights) == STARTS["low rank"][1]


@pytest.mark.parametrize("name", CARDS)
def test_fine_tuning_starts_from_what_it_has_learnt(name: str) -> None:
    """Pretrain, meta-train, fine-tune: at 0 steps, the features are the meta-learnt ones."""
    meta_learnt, task = made(name, pretrained()), draw(clouds(shots=3), 0, 0)
    qs.fit(meta_learnt, clouds(shots=2), steps=2, tasks_per_step=2)
    backbone = meta_learnt.eval().backbone
    body = backbone.backbone if CARDS[name].head else backbone
    before = copy.deepcopy(backbone.state_dict())
    start = qs.FineTune(backbone, head=zero_head, steps=0).eval()(task.support, task.spec)
    x = task.query.inputs
    torch.testing.assert_close(start.learner.embed(start.state, x), body(x))  # type: ignore[operator]
    tuned = qs.FineTune(backbone, "last:1", zero_head, steps=5, rate=0.05).eval()
    predictor = tuned(task.support, task.spec)
    assert own_names(predictor.state["difference"]) == {"layers.2.weight", "layers.2.bias"}
    assert all(d.abs().max() > 1e-4 for d in predictor.state["difference"].values())
    assert all(torch.equal(t, before[n]) for n, t in backbone.state_dict().items())


def test_metric_learners_start_fine_tuning_too() -> None:
    meta_learnt, task = qs.Prototypical(pretrained()), draw(clouds(shots=3), 0, 0)
    qs.fit(meta_learnt, clouds(shots=2), steps=2, tasks_per_step=2)
    predictor = qs.FineTune(meta_learnt.backbone, steps=3).eval()(task.support, task.spec)
    assert predictor(task.query.inputs).shape == (6, 3)
