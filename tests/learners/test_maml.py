"""MAML's settings: what adapts, how wide the head is, and what is refused."""

from __future__ import annotations

import pytest
import torch

import quickstudy as qs
from quickstudy.backbones import MLP, Conv4


def made(**options: object) -> qs.MAML:
    torch.manual_seed(0)
    backbone = MLP(4, (6, 6), outputs=5)
    return qs.MAML(backbone, **({"steps": 2, "rate": 0.1} | options))  # type: ignore[arg-type]


def support(ways: int = 5) -> qs.Examples:
    generator = torch.Generator().manual_seed(0)
    return qs.examples(torch.randn(2 * ways, 4, generator=generator), torch.arange(ways).repeat(2))


def test_one_step_is_the_equation() -> None:
    learner, rows = made(steps=1, rate=0.3), support()
    adapted = learner.adapt(rows, qs.classification(5))["weights"]
    loss = torch.nn.functional.cross_entropy(learner.backbone(rows.inputs), rows.targets)
    parameters = dict(learner.backbone.named_parameters())
    slopes = torch.autograd.grad(loss, list(parameters.values()))
    for (name, parameter), slope in zip(parameters.items(), slopes, strict=True):
        torch.testing.assert_close(adapted[name], parameter - 0.3 * slope)


def test_the_step_lowers_the_support_loss() -> None:
    learner, rows = made(steps=20, rate=0.5), support()
    spec = qs.classification(5)
    before = spec.loss(learner.backbone(rows.inputs), rows.targets).mean()
    after = spec.loss(learner(rows, spec)(rows.inputs), rows.targets).mean()
    assert after < 0.75 * before


@pytest.mark.parametrize(
    ("adapts", "count"), [(("head.*",), 2), (("layers.2.*", "head.bias"), 3), (("*.weight",), 3)]
)
def test_only_what_adapts_is_in_the_state(adapts: tuple[str, ...], count: int) -> None:
    learner = made(adapts=adapts)
    before = {n: p.detach().clone() for n, p in learner.backbone.named_parameters()}
    weights = learner.adapt(support(), qs.classification(5))["weights"]
    assert len(weights) == count
    assert all(not torch.equal(w, before[n]) for n, w in weights.items())
    assert all(torch.equal(p, before[n]) for n, p in learner.backbone.named_parameters())


def test_a_head_wider_than_the_task_leaves_its_other_ways_out() -> None:
    learner, rows = made(), support(ways=3)
    narrow = learner(rows, qs.classification(3))(rows.inputs)
    assert narrow.shape == (6, 3)
    wide = learner(rows, qs.classification(5))(rows.inputs)
    torch.testing.assert_close(wide[:, :3], narrow)
    assert torch.equal(wide.softmax(-1)[:, 3:], torch.zeros(6, 2))


def test_a_head_too_narrow_is_refused() -> None:
    with pytest.raises(ValueError, match=r"asks 6 outputs.*\(12, 5\).*outputs=6"):
        made().adapt(support(ways=6), qs.classification(6))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"adapts='tail.*' matches no parameter.*layers.0.weight"):
        made(adapts=("head.*", "tail.*"))
    with pytest.raises(ValueError, match="steps >= 1 and rate > 0; found steps=0"):
        made(steps=0)
    with pytest.raises(ValueError, match="rate=-1"):
        made(rate=-1)
    with pytest.raises(ValueError, match="norm='running' keeps one population's statistics"):
        qs.MAML(Conv4(4, "running", outputs=5))


def test_one_pattern_needs_no_tuple() -> None:
    assert made(adapts="head.*").adapts == ("head.*",)


@pytest.mark.parametrize("norm", ["group", "support"])
def test_features_are_what_the_adapted_head_is_given(norm: str) -> None:
    torch.manual_seed(0)
    learner = qs.MAML(Conv4(4, norm, image_size=16, outputs=3), steps=2, rate=0.1)
    rows = qs.examples(torch.rand(6, 1, 16, 16), torch.arange(3).repeat(2))
    spec = qs.classification(3)
    state = learner.adapt(rows, spec)
    features = learner.embed(state, rows.inputs)
    assert features is not None
    assert features.shape == (6, 4)
    head = state["weights"]
    answers = features @ head["head.weight"].T + head["head.bias"]
    torch.testing.assert_close(answers, learner.predict(state, rows.inputs, spec))


def test_a_backbone_without_a_head_gives_no_features() -> None:
    learner = qs.MAML(torch.nn.Sequential(torch.nn.Linear(4, 5)))
    state = learner.adapt(support(), qs.classification(5))
    assert learner.embed(state, support().inputs) is None
