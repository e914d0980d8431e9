"""Insights against numbers computed by hand, and the section of the page that shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from report_samples import NearestMeanPixels, evaluation_of
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.replica import call_with
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.reports.insights import (
    MOST_LAYERS,
    Insights,
    adaptation,
    insights,
    layers_of,
    rates,
)
from quickstudy.reports.neighbours import nearest
from quickstudy.reports.page import RunFacts, page
from quickstudy.reports.view_types import EpisodeView
from quickstudy.tasks.episodes import episodes
from quickstudy.tasks.rows import LabelledRows

TITLES = ("Step by step", "What adaptation changed", "Learnt learning rates",
          "Attention over the support set", "Nearest support examples")  # fmt: skip


class Doubling(Learner):
    """Each of two steps doubles the weight of the first layer and keeps that of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        with torch.no_grad():
            for name, values in {"0.weight": [[3.0], [-1.0]], "0.bias": [0.0, 1.0],
                                 "2.weight": [[1.0, 1.0]], "2.bias": [0.0]}.items():  # fmt: skip
                self.backbone.get_parameter(name).copy_(torch.tensor(values))

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return self.trajectory(support, spec)[-1]

    def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
        weight = self.backbone[0].weight
        return [{"weights": {"0.weight": factor * weight}} for factor in (1, 2, 4)]

    def predict(self, state: State, inputs: Tensor, spec: TaskSpec) -> Tensor:
        return call_with(self.backbone, state["weights"], inputs)


class Attending(NearestMeanPixels):
    """Has given attention shares, and learnt rates."""

    def __init__(self, shares: Tensor | None = None) -> None:
        super().__init__(30.0)
        self.shares = shares

    def attention(self, state: State, inputs: Tensor) -> Tensor | None:
        return None if self.shares is None else self.shares

    def learnt_rates(self) -> Mapping[str, Tensor]:
        return {"conv.weight": torch.tensor([[0.1, 0.3], [-0.1, 0.5]]),
                "conv.bias": torch.tensor([0.2]), "head.weight": torch.tensor(0.4)}  # fmt: skip


@pytest.fixture
def line() -> Task:
    """Regression: support (1, 4) and (2, 6); queries (1, 4) and (-1, 0), and one without target."""
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [6.0]])
    new_x, new_y = torch.tensor([[1.0], [-1.0], [5.0]]), torch.tensor([[4.0], [0.0], [math.nan]])
    return Task(qs.examples(x, y), qs.examples(new_x, new_y), qs.regression(missing=True))


@pytest.fixture
def episode(squares: LabelledRows) -> Task:
    return episodes(squares, 4, 2, 5)(torch.Generator().manual_seed(3))


def test_adaptation_equal_hand_computed_values(line: Task) -> None:
    seen = adaptation(Doubling(), line)
    assert seen is not None
    assert seen.steps.tolist() == [0, 1, 2]
    assert seen.layers == ("0", "2")
    # |w_0|² of layer 0, weight and bias together, is 9 + 1 + 1; only the weight changes, by its own
    # length and then by three times its length.
    moved = math.sqrt(10 / 11)
    np.testing.assert_allclose(seen.weights, [[0, 0], [moved, 0], [3 * moved, 0]], rtol=1e-6)
    # Layer 0 gives (3, 0) for x = 1 and (-3, 2) for x = -1; then (6, -1), (-6, 3);
    # then (12, -3), (-12, 5). The row without a target is left out.
    first = np.sqrt(np.array([0, 9 + 1 + 9 + 1, 81 + 9 + 81 + 9]) / 22)
    # The last layer gives 3 and 2; then 6 and 3; then 12 and 5.
    last = np.sqrt(np.array([0, 9 + 1, 81 + 9]) / 13)
    np.testing.assert_allclose(seen.features, np.stack([first, last], 1), rtol=1e-6)
    # Predictions for the support are 3 and 6; then 6 and 12; then 12 and 24: errors from 4 and 6.
    np.testing.assert_allclose(seen.support_loss, [1 / 2, (4 + 36) / 2, (64 + 324) / 2])
    np.testing.assert_allclose(seen.query_score, [(1 + 4) / 2, (4 + 9) / 2, (64 + 25) / 2])
    assert (seen.score, seen.unit) == ("mse", "")


def test_adaptation_does_not_change_the_network(line: Task) -> None:
    learner = Doubling()
    before = {name: p.clone() for name, p in learner.backbone.named_parameters()}
    adaptation(learner, line)
    assert all(p.equal(before[name]) for name, p in learner.backbone.named_parameters())
    assert not any(m._forward_hooks for m in learner.modules())


def test_inner_steps_keep_no_graph(episode: Task) -> None:
    class Watched(qs.MAML):
        def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
            states.extend(super().trajectory(support, spec))
            return states

        def adapt(self, support: Examples, spec: TaskSpec) -> State:
            states.append(super().adapt(support, spec))
            return states[-1]

    torch.manual_seed(0)
    states: list[State] = []
    insights(Watched(qs.backbones.MLP(784, (8,), 4), steps=2, rate=0.1), episode)
    assert len(states) >= 4
    made = [w for state in states for w in state["weights"].values() if not w.is_leaf]
    assert not any(w.requires_grad for w in made)
    adapted = states[-1]["weights"]
    assert not any(w.requires_grad for w in adapted.values())


def test_a_layer_that_started_at_zero_has_no_ratio(line: Task) -> None:
    learner = Doubling()
    nn.init.zeros_(learner.backbone[2].weight)
    seen = insights(learner, line)
    assert seen.adaptation is not None
    assert np.isnan(seen.adaptation.weights[:, 1]).all()
    assert np.isnan(seen.adaptation.features[:, 1]).all()
    assert "What adaptation changed" in sections_of(seen)[1]


def test_maml_changes_weights_by_its_gradient_steps(episode: Task) -> None:
    torch.manual_seed(0)
    learner = qs.MAML(qs.backbones.MLP(784, (8,), 4), steps=3, rate=0.1, adapts="head.*")
    seen = adaptation(learner, episode)
    assert seen is not None
    assert seen.layers == ("layers.0", "head")
    assert (seen.weights[:, 0] == 0).all()
    assert (seen.features[:, 0] == 0).all()
    # One step of gradient descent by hand: the head's weight and bias move by 0.1 * gradient.
    with torch.no_grad():
        loss = nn.functional.cross_entropy
        features = learner.backbone.layers(episode.support.inputs.flatten(1))
    head = learner.backbone.head
    gradients = torch.autograd.grad(
        loss(head(features), episode.support.targets), list(head.parameters())
    )
    length = torch.cat([g.flatten() for g in gradients]).norm()
    start = torch.cat([p.flatten() for p in head.parameters()]).norm()
    assert seen.weights[1, 1] == pytest.approx(float(0.1 * length / start), rel=1e-4)
    assert (np.diff(seen.support_loss) < 0).all()
    predictor = learner(episode.support, episode.spec)
    right = predictor(episode.query.inputs).argmax(-1) == episode.query.targets
    assert seen.query_score[-1] == pytest.approx(float(right.float().mean()))


def test_features_that_a_context_changes_are_reported(episode: Task) -> None:
    torch.manual_seed(0)
    net = qs.backbones.Conv4(8, outputs=4)
    seen = adaptation(qs.CAVIA(net, steps=1, at="blocks.2.norm", film=True), episode)
    assert seen is not None
    moved = dict(zip(seen.layers, seen.features[-1], strict=True))
    assert moved["blocks.2.conv"] == 0
    assert all(moved[layer] > 0 for layer in ("blocks.2.norm", "blocks.3.conv", "head"))


def test_of_many_steps_some_are_selected(line: Task) -> None:
    torch.manual_seed(0)
    learner = qs.MAML(qs.backbones.MLP(outputs=1), steps=40, rate=0.001)
    seen = adaptation(learner, line)
    assert seen is not None
    assert seen.steps.tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40]


def test_names_of_weights_may_begin_with_backbone(line: Task) -> None:
    class Prefixed(Doubling):
        def trajectory(self, support: Examples, spec: TaskSpec) -> list[State]:
            states = super().trajectory(support, spec)
            return [{"weights": {f"backbone.{n}": w for n, w in s["weights"].items()}}
                    for s in states]  # fmt: skip

        def predict(self, state: State, inputs: Tensor, spec: TaskSpec) -> Tensor:
            own = {n.removeprefix("backbone."): w for n, w in state["weights"].items()}
            return call_with(self.backbone, own, inputs)

    seen, expected = adaptation(Prefixed(), line), adaptation(Doubling(), line)
    assert seen is not None
    assert expected is not None
    assert seen.layers == expected.layers
    np.testing.assert_array_equal(seen.weights, expected.weights)


def test_many_layers_are_merged() -> None:
    small = ("blocks.0.conv.weight", "blocks.0.conv.bias", "head.weight", "scale")
    assert list(layers_of(small).values()) == ["blocks.0.conv", "blocks.0.conv", "head", "scale"]
    many = [f"blocks.{i}.{j}.weight" for i in range(3) for j in range(MOST_LAYERS)]
    assert set(layers_of(many).values()) == {"blocks.0", "blocks.1", "blocks.2"}


def test_rates_equal_hand_computed_values() -> None:
    found = rates(Attending().learnt_rates())
    assert found is not None
    assert found.layers == ("conv", "head")
    # conv holds -0.1, 0.1, 0.2, 0.3, 0.5.
    np.testing.assert_allclose(found.low, [0.1, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found.median, [0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found.high, [0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(found.negative, [0.2, 0])
    assert rates({}) is None


def test_attention_is_given_for_the_rows_shown(episode: Task) -> None:
    shares = torch.rand(20, 8).softmax(-1)
    padded = episode._replace(
        support=episode.support._replace(weights=torch.tensor([0.0] + [1.0] * 7)),
        query=episode.query._replace(targets=episode.query.targets.clone().index_fill_(
            0, torch.tensor([2]), -1)),
    )  # fmt: skip
    seen = insights(Attending(shares), padded)
    assert seen.attention is not None
    kept = [row for row in range(20) if row != 2]
    np.testing.assert_array_equal(seen.attention, shares.numpy()[kept][:, 1:])


def test_attention_of_another_shape_is_refused(episode: Task) -> None:
    with pytest.raises(ValueError, match=r"support row, \(20, 8\); found \(3, 20, 8\)"):
        insights(Attending(torch.rand(3, 20, 8)), episode)


def test_nearest_equal_hand_computed_values() -> None:
    view = EpisodeView(
        None, None,
        np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]),
        np.array([0.9, 0.6, 0.7, 0.8]),
        np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [0.0, 1.0]]),
        np.array([[0.0, 0.0], [0.0, 0.0], [6.0, 8.0], [3.0, 4.0]]),
        ("a", "b"),
    )  # fmt: skip
    found = nearest(view, queries=3, neighbours=2)
    # Queries 1 (60%) and 3 (80%) are wrong; of the right ones, 2 is the less confident.
    assert [one.query for one in found] == [3, 1, 2]
    assert [one.support.tolist() for one in found] == [[1, 3], [0, 3], [2, 1]]
    distances = [[0, math.sqrt(18)], [0, 1], [0, 5]]
    np.testing.assert_allclose([one.by for one in found], distances)
    # By attention, query 3 attends most to row 0, then to 2; its other rows have share 0.
    shares = np.array([[0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1], [0.5, 0, 0, 0.5], [0.6, 0, 0.4, 0]])
    found = nearest(view, shares, queries=3)
    assert [one.query for one in found] == [3, 1, 2]
    assert [one.support.tolist() for one in found] == [[0, 2], [3], [0, 3]]
    assert [one.by.tolist() for one in found] == [[0.6, 0.4], [1], [0.5, 0.5]]


def sections_of(seen: Insights) -> tuple[str, list[str]]:
    """The HTML of the page, and the titles of the figures in it."""
    html = page(RunFacts("seen", evaluation_of(torch.rand(9)), insights=seen))
    return html, [title for title in TITLES if f"<h3>{title}</h3>" in html]


def test_figures_depend_on_the_methods_of_the_learner(episode: Task, line: Task) -> None:
    torch.manual_seed(0)
    maml = qs.MAML(qs.backbones.MLP(784, (8,), 4), steps=2, rate=0.1)
    metric = qs.Prototypical(qs.backbones.MLP(784, (8,)))
    attending = Attending(torch.full((20, 8), 1 / 8))
    assert sections_of(insights(maml, episode))[1] == [TITLES[0], TITLES[1], TITLES[4]]
    assert sections_of(insights(metric, episode))[1] == [TITLES[4]]
    assert sections_of(insights(attending, episode))[1] == [TITLES[2], TITLES[3], TITLES[4]]
    empty = sections_of(Insights(insights(metric, episode).view))
    assert empty[1] == []
    assert "What the learner did" not in empty[0]
    torch.manual_seed(0)
    curve = insights(qs.MAML(qs.backbones.MLP(outputs=1), steps=1, rate=0.01), line)
    assert sections_of(curve)[1] == [TITLES[0], TITLES[1]]


def test_captions_give_the_shares_of_attention(episode: Task) -> None:
    # All attention of each query is on its own class, then half of it is elsewhere.
    same = (episode.query.targets[:, None] == episode.support.targets).float()
    html, _ = sections_of(insights(Attending(same / 2), episode))
    assert "100% of it is on the query&#x27;s own class, where chance is 25%." in html
    html, _ = sections_of(insights(Attending((same / 2 + (1 - same) / 6) / 2), episode))
    assert "50% of it is on the query&#x27;s own class" in html
    assert len(re.findall('alt="50% of the attention"', html)) == 4
    assert len(re.findall('alt="17% of the attention"', html)) == 12


def test_nearest_rows_are_ranked_by_attention_where_there_is_some(episode: Task) -> None:
    same = (episode.query.targets[:, None] == episode.support.targets).float()
    html, _ = sections_of(insights(Attending(same * torch.tensor([0.75, 0.25]).repeat(4)), episode))
    assert "that get most of their attention; below each its class and its share" in html
    assert html.count(" attends most to</span>") == 6
    assert len(re.findall("<span>[A-D] 75%</span>", html)) == 6
    assert "Euclidean" not in html
    metric = qs.Prototypical(qs.backbones.MLP(784, (8,)))
    html, _ = sections_of(insights(metric, episode))
    assert "Euclidean distance, which may differ from the distance that the learner uses" in html
    assert html.count(" is nearest to</span>") == 6


def test_attention_of_a_regression_task_is_drawn(line: Task) -> None:
    class Weighing(Learner):
        def adapt(self, support: Examples, spec: TaskSpec) -> State:
            return support.targets

        def predict(self, state: State, inputs: Tensor, spec: TaskSpec) -> Tensor:
            return self.attention(state, inputs) @ state

        def attention(self, state: State, inputs: Tensor) -> Tensor:
            return torch.cat([inputs, -inputs], 1).softmax(-1)

    assert sections_of(insights(Weighing(), line))[1] == ["Attention over the support set"]


def test_a_learner_that_diverges_still_gets_a_page(episode: Task) -> None:
    torch.manual_seed(0)
    wild = insights(qs.MAML(qs.backbones.MLP(784, (8,), 4), steps=4, rate=1e30), episode)
    assert wild.adaptation is not None
    assert not np.isfinite(wild.adaptation.weights[-1]).all()
    assert "What adaptation changed" in sections_of(wild)[1]
    nowhere = insights(Attending(torch.full((20, 8), math.nan)), episode)
    assert "Attention over the support set" in sections_of(nowhere)[1]


def test_names_with_markup_are_escaped(episode: Task) -> None:
    hostile = '"><script>alert(1)</script>'
    html, _ = sections_of(insights(Attending(torch.full((20, 8), 1 / 8)), episode, [hostile] * 4))
    assert "<script" not in html
    assert "&lt;script&gt;" in html
