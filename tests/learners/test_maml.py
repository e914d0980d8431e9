"""MAML's settings: what adapts, how wide the head is, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import quickstudy as qs
from quickstudy.backbones import MLP, Conv4
from quickstudy.objectives import mean_loss, query_loss


def made(**options: object) -> qs.MAML:
    torch.manual_seed(0)
    backbone = MLP(4, (6, 6), outputs=5)
    return qs.MAML(backbone, **({"steps": 2, "rate": 0.1} | options))  # type: ignore[arg-type]


def support(ways: int = 5) -> qs.Examples:
    generator = torch.Generator().manual_seed(0)
    return qs.examples(torch.randn(2 * ways, 4, generator=generator), torch.arange(ways).repeat(2))


def test_one_step_equals_the_equation() -> None:
    learner, rows = made(steps=1, rate=0.3), support()
    adapted = learner.adapt(rows, qs.classification(5))["weights"]
    loss = torch.nn.functional.cross_entropy(learner.backbone(rows.inputs), rows.targets)
    parameters = dict(learner.backbone.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        torch.testing.assert_close(adapted[name], parameter - 0.3 * gradient)


def test_the_step_lowers_the_support_loss() -> None:
    learner, rows = made(steps=20, rate=0.5), support()
    spec = qs.classification(5)
    before = mean_loss(learner.backbone(rows.inputs), rows, spec.answer)
    after = mean_loss(learner(rows, spec)(rows.inputs), rows, spec.answer)
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


def test_a_head_wider_than_the_task_ignores_its_other_outputs() -> None:
    learner, rows = made(), support(ways=3)
    narrow = learner(rows, qs.classification(3))(rows.inputs)
    assert narrow.shape == (6, 3)
    wide = learner(rows, qs.classification(5))(rows.inputs)
    torch.testing.assert_close(wide[:, :3], narrow)
    assert torch.equal(wide.softmax(-1)[:, 3:], torch.zeros(6, 2))


def test_a_head_too_narrow_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 6 outputs.*\(12, 5\).*outputs=6"):
        made().adapt(support(ways=6), qs.classification(6))


def test_predictions_of_a_wrong_shape_are_refused() -> None:
    maps = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Unflatten(1, (1, 5)))
    with pytest.raises(ValueError, match=r"needs predictions of shape \(10, 5\).*\(10, 1, 5\)"):
        qs.MAML(maps).adapt(support(), qs.classification(5))


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"adapts='tail.*' matches no parameter.*layers.0.weight"):
        made(adapts=("head.*", "tail.*"))
    with pytest.raises(ValueError, match="steps must be at least 1; found 0"):
        made(steps=0)
    with pytest.raises(ValueError, match=r"adapts=\(\) lets no parameter adapt"):
        made(adapts=())
    with pytest.raises(ValueError, match="rate must be a positive number; found -1"):
        made(rate=-1)
    with pytest.raises(ValueError, match="norm='running' keeps one population's statistics"):
        qs.MAML(Conv4(4, "running", outputs=5))


@pytest.mark.parametrize(
    "learner",
    [qs.MAML, qs.MAMLPlusPlus, qs.MetaSGD, qs.Reptile, qs.CAVIA, qs.LSTMMetaLearner],
)
def test_a_backbone_of_features_is_refused(learner: Any) -> None:
    """Otherwise the first 5 of 8 features would be used as the logits of 5 ways."""
    with pytest.raises(ValueError, match=f"{learner.__name__}: .* this Conv4 gives features"):
        learner(Conv4(8))
    learner(torch.nn.Sequential(torch.nn.Linear(4, 5)))  # declares no outputs


@pytest.mark.parametrize("learner", [qs.MAML, qs.MetaSGD, qs.MAMLPlusPlus])
def test_parameters_that_do_not_adapt_are_trained(learner: Any) -> None:
    torch.manual_seed(0)
    net = MLP(4, (6,), outputs=5).double()
    whole, part = learner(net, steps=1), learner(net, steps=1, adapts="head.*")
    rows = support()._replace(inputs=support().inputs.double(), weights=torch.ones(10).double())
    weights = [each.adapt(rows, qs.classification(5))["weights"] for each in (whole, part)]
    assert list(weights[1]) == ["head.weight", "head.bias"]
    if learner is not qs.MetaSGD:  # its rates are random
        assert torch.equal(weights[0]["head.weight"], weights[1]["head.weight"])
    query_loss(part, qs.Task(rows, rows, qs.classification(5))).loss.backward()
    assert all(p.grad is not None for p in part.parameters())


def test_one_pattern_needs_no_tuple() -> None:
    assert made(adapts="head.*").adapted == ("head.weight", "head.bias")


@pytest.mark.parametrize("norm", ["group", "support"])
def test_features_are_the_inputs_of_the_adapted_head(norm: str) -> None:
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


class HeadFirst(torch.nn.Module):
    """Has a layer called ``head``, but does not end in it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = torch.nn.Linear(4, 6), torch.nn.Linear(6, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.head(inputs).relu())
        return result


def test_only_the_last_layer_can_be_the_head() -> None:
    learner = qs.MAML(HeadFirst())
    state = learner.adapt(support(), qs.classification(5))
    assert learner.embed(state, support().inputs) is None
