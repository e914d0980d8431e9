"""A view and a section for every kind of answer; and pages of several kinds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from report_samples import evaluation_of, evaluation_with, result_with, training_log
from sklearn.metrics import roc_auc_score
from torch import Tensor

from quickstudy.answers.actions import Actions
from quickstudy.answers.specs import (
    classification,
    detection,
    multilabel,
    regression,
    segmentation,
    spec,
    tokens,
)
from quickstudy.answers.tokens import Tokens
from quickstudy.core import Acting, Examples, Learner, State, Task, TaskSpec
from quickstudy.reports import view_types
from quickstudy.reports.insights import insights
from quickstudy.reports.page import RunFacts, page
from quickstudy.reports.protocols import (
    Attends,
    Embeds,
    GivesUncertainty,
    HasInnerSteps,
    LearnsRates,
)
from quickstudy.reports.view_types import (
    BoxesView,
    EpisodeView,
    GeneralView,
    LabelsView,
    Objects,
    PixelsView,
    RegressionView,
    TokensView,
    View,
)
from quickstudy.reports.views import view
from quickstudy.tasks.examples import examples

ViewType = TypeVar("ViewType")


class Predicting(Learner):
    """Predicts a given function of the inputs, whatever the support set is."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return {"rows": support.weights.sum()}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Any:
        return self.function(inputs)

    def prior(self, spec: TaskSpec) -> State:
        return {"rows": torch.zeros(())}


def view_as(
    kind: type[ViewType], function: Callable[[Any], Any], task: Task, **named: Any
) -> ViewType:
    shown = view(Predicting(function), task, **named)
    assert isinstance(shown, kind)
    return shown


def page_of(*views: View) -> str:
    return page(RunFacts("drawn", evaluation_of(torch.rand(9)), views=views))


def label_task() -> tuple[Task, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 2, generator=generator)
    targets = (torch.rand(30, 2, generator=generator) < 0.5).float()
    targets[::3, 1] = math.nan
    targets[5] = math.nan
    rows = examples(inputs, targets)
    return Task(rows, rows, multilabel(2)), inputs


def test_labels_have_a_table_with_roc_auc() -> None:
    task, inputs = label_task()
    shown = view_as(LabelsView, lambda x: x, task, names=["soluble", "toxic"])
    kept = [row for row in range(30) if row != 5]
    np.testing.assert_allclose(shown.probability, inputs.sigmoid()[kept], rtol=1e-6)
    assert len(shown.query_targets) == 29, "a row without known targets is left out"
    html = page_of(shown, shown)
    for column, name in enumerate(shown.names):
        known = ~np.isnan(shown.query_targets[:, column])
        true = shown.query_targets[known, column]
        area = roc_auc_score(true, shown.probability[known, column])
        yes, no = 2 * int(true.sum()), 2 * int((1 - true).sum())
        unknown = 2 * int((~known).sum())
        cells = re.search(rf">{name}</th>(.*?)</tr>", html)
        assert cells is not None
        numbers = re.findall(r"<td>([\d.,]+)</td>", cells[1])
        assert numbers == [f"{area:.3f}", str(yes), str(no), str(unknown)]


def test_labels_as_integers_and_labels_without_roc_auc() -> None:
    rows = examples(torch.randn(4, 1), torch.tensor([[1], [1], [-1], [1]]))
    shown = view_as(LabelsView, lambda x: x, Task(rows, rows, multilabel(1)))
    assert shown.query_targets[:, 0].tolist() == [1, 1, 1]
    assert "<td>–</td>" in page_of(shown)


def pixel_task() -> Task:
    targets = torch.zeros(4, 6, 6, dtype=torch.long)
    targets[:, 2:4] = 1
    targets[:, 5] = -1
    rows = examples(torch.rand(4, 3, 6, 6), targets)
    return Task(rows, rows, segmentation(2))


def all_ones(inputs: Any) -> Tensor:
    return torch.tensor([0.0, 1.0]).expand(4, 6, 6, 2)


def test_pixels_have_an_image_and_two_masks_for_each_query() -> None:
    shown = view_as(PixelsView, all_ones, pixel_task(), names=["ground", "road"])
    assert (shown.predicted == 1).all()
    html = page_of(shown)
    assert html.count('alt="True classes of its pixels"') == 4
    assert html.count("40% of pixels right</span>") == 4, "12 of 30 known pixels"
    assert "road" in html
    bare = view_as(PixelsView, all_ones, pixel_task()._replace(
        query=pixel_task().query._replace(inputs={"rays": torch.rand(4, 9)})))  # fmt: skip
    assert bare.query_images is None
    assert "are not images" in page_of(bare)


def test_tags_are_compared_position_by_position() -> None:
    true = torch.tensor([[0, 1, 2, -1], [2, -1, 1, 0]])
    predicted = torch.tensor([[0, 2, 2, 1], [2, 1, 1, 0]])
    rows = examples(torch.zeros(2, 1), true)
    shown = view_as(
        TokensView,
        lambda _: torch.nn.functional.one_hot(predicted, 3).float(),
        Task(rows, rows, tokens(3)),
        names=["a", "b", "c"],
    )
    html = page_of(shown)
    assert html.count('<span class="wrong">') == 1
    assert '<span>b</span><span class="wrong">✗ c</span>' in html
    assert "Right throughout: 1 of 2 rows." in html


def test_rows_right_throughout_are_those_of_exact_match() -> None:
    true = torch.tensor([[2, 3, 4, -1], [2, 4, -1, -1], [2, -1, 3, 4]])
    predicted = torch.tensor([[2, 3, 4, 0], [2, 3, 0, 0], [2, 1, 3, 4]])
    rows = examples(torch.zeros(3, 1), true)
    shown = view_as(
        TokensView,
        lambda _: torch.nn.functional.one_hot(predicted, 5).float(),
        Task(rows, rows, TaskSpec(Tokens(5, end=4))),
    )
    html = page_of(shown)
    assert "Right throughout: 2 of 3 rows." in html
    assert html.count('<span class="wrong">') == 1, "a token where the row should end"


def test_written_tokens_are_aligned_first() -> None:
    true = torch.tensor([[2, 3, 4, -1], [2, 3, -1, -1]])
    predicted = torch.tensor([[3, 4, 1, 1], [2, 4, 3, 1]])
    inputs = {"text": true.clamp_min(0), "before": torch.zeros_like(true)}
    rows = examples(inputs, true)
    written = TaskSpec(Tokens(5, before="before", end=1))
    shown = view_as(
        TokensView,
        lambda given: torch.nn.functional.one_hot(
            predicted[(given["text"][:, 2] == 0).long()], 5
        ).float(),
        Task(rows, rows, written),
    )
    html = page_of(shown)
    assert html.count('<span class="missed">2</span>') == 1, "a missing token is marked once"
    assert html.count('<span class="wrong">✗ 4</span>') == 1, "and so is an additional token"


def box_task() -> Task:
    nan = math.nan
    boxes = torch.tensor([[[0.1, 0.1, 0.5, 0.5], [nan] * 4], [[nan] * 4, [nan] * 4]])
    targets = {"boxes": boxes, "classes": torch.tensor([[1, -1], [-1, -1]])}
    rows = examples(torch.rand(2, 3, 8, 16), targets)
    return Task(rows, rows, detection(2))


def one_box(inputs: Any) -> dict[str, Tensor]:
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0]]).expand(2, 2, 4)
    return {
        "boxes": boxes,
        "logits": torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]).expand(2, 2, 3),
    }


def test_boxes_are_drawn_over_their_pictures() -> None:
    shown = view_as(BoxesView, one_box, box_task(), names=["dog", "cat"])
    assert [len(each.boxes) for each in shown.true] == [1, 0]
    assert [len(each.boxes) for each in shown.predicted] == [1, 1]
    html = page_of(shown)
    assert 'aria-label="1 true, 1 predicted box"' in html
    # The picture is twice as wide as high: 240 by 120 on the page.
    assert '<rect x="24.0" y="24.0" width="96.0" height="48.0"></rect><text' in html
    assert html.count("cat 79%</text>") == 2
    bare = BoxesView(None, shown.true, shown.predicted, shown.names)
    assert "drawn alone" in page_of(bare)


def test_unknown_numbers_are_left_out() -> None:
    x = torch.linspace(-1, 1, 8)[:, None]
    y = torch.cat([x, 2 * x], 1)
    y[::2, 1] = math.nan
    y[3] = math.nan
    rows = examples(x, y)
    shown = view_as(
        RegressionView,
        lambda x: torch.cat([x, 2 * x + 1], 1),
        Task(rows, rows, regression(2, True)),
    )
    assert len(shown.query_targets) == 7
    assert shown.error == pytest.approx(3 / 10), "of 10 known numbers, 3 are wrong by 1"
    assert "Predictions against true values" in page_of(shown)


def test_dense_reals_and_custom_answers_have_losses_and_scores() -> None:
    rows = examples(torch.rand(3, 1, 4, 4), torch.zeros(3, 4, 4, 1))
    depth = view_as(GeneralView, lambda x: torch.ones(3, 4, 4, 1), Task(rows, rows, regression(1)))
    assert depth.losses.tolist() == [1, 1, 1]
    assert depth.scores is not None
    assert depth.scores.tolist() == [1, 1, 1]
    flat = examples(torch.rand(3, 2), torch.tensor([[0.0], [1.0], [math.nan]]))
    own = spec(1, lambda predicted, true: (predicted - true).abs())
    custom = view_as(GeneralView, lambda x: torch.ones(3, 1), Task(flat, flat, own))
    assert custom.losses.tolist() == [1, 0]
    assert "see their scores" in page_of(custom)


@dataclass(frozen=True)
class OneStep:
    """A world of one step whose second action has reward 1."""

    actions: int = 2
    horizon: int = 1

    def begin(self, parameters: Any, episodes: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(episodes, 1), torch.ones(episodes, 1)

    def step(
        self, parameters: Any, state: Tensor, action: Tensor, noise: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return state, state, action.float(), torch.ones(len(action), dtype=torch.bool)


def test_tasks_of_acting_are_acted_and_explain_the_return() -> None:
    world = {"none": torch.zeros(6, 1)}
    acting = Acting({}, {"choice": torch.full((6, 1, 2), 0.5), "world": world})
    task = Task(acting, acting, TaskSpec(Actions(OneStep())))
    function = lambda x: torch.zeros(len(x), 2)  # noqa: E731
    shown = view_as(GeneralView, function, task)
    assert (len(shown.losses), shown.scores) == (6, None)
    assert "sum of rewards in an episode" in page_of(shown)
    assert isinstance(insights(Predicting(function), task).view, GeneralView)


def test_inputs_may_be_trees() -> None:
    inputs = {"ids": torch.zeros(4, 3, dtype=torch.long), "mask": torch.ones(4, 3)}
    rows = examples(inputs, torch.tensor([0, 1, 0, 1]))
    task = Task(rows, rows, classification(2))
    shown = view_as(EpisodeView, lambda x: torch.zeros(4, 2), task)
    assert shown.support_images is None
    assert "are not images, so none are shown" in page_of(shown)
    learnt = insights(Predicting(lambda x: torch.zeros(4, 2)), task)
    assert page(RunFacts("tree", evaluation_of(torch.rand(9)), insights=learnt))


def test_methods_for_reports_are_optional() -> None:
    plain = Predicting(lambda x: x)
    kinds = (Attends, Embeds, LearnsRates, HasInnerSteps, GivesUncertainty)
    assert not any(isinstance(plain, kind) for kind in kinds)

    class Embedding(Predicting):
        def embed(self, state: State, inputs: Any) -> Tensor | None:
            return None

    assert isinstance(Embedding(lambda x: x), Embeds)
    rows = examples(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    shown = view(Embedding(lambda x: x), Task(rows, rows, classification(2)))
    assert isinstance(shown, EpisodeView)
    assert shown.query_embeddings is None


def test_several_kinds_have_a_table_and_no_common_figure() -> None:
    evaluation = evaluation_with(
        result_with(torch.linspace(0.8, 1.0, 50), name="birds"),
        result_with(torch.linspace(1.0, 2.0, 40), "mse", "waves"),
        result_with(torch.linspace(0.2, 0.4, 30), "AP50", "cars", pooled=True),
    )
    labels, _ = label_task()
    pictures = pixel_task()
    views = [
        view(Predicting(all_ones), pictures._replace(spec=TaskSpec(pictures.spec.answer, name)))
        for name in ("first", "second")
    ]
    views.append(view(Predicting(lambda x: x), labels))
    html = page(RunFacts("several", evaluation, training_log(), views))
    assert 'class="score"' not in html
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    for phrase in ("birds accuracy 90.0% ± 1.6 50 test tasks", "lower is better",
                 "waves mse 1.5 ± 0.093 40 test tasks", "AP50 is pooled", "120",
                 "Scores of the test tasks: birds", "Test tasks: first",
                 "Test tasks: second"):  # fmt: skip
        assert phrase in text, phrase
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_views_hold_no_tensors() -> None:
    assert "torch" not in vars(view_types)
    assert isinstance(Objects(np.zeros((1, 4)), np.zeros(1)).boxes, np.ndarray)


def test_there_must_be_one_name_for_each_label() -> None:
    with pytest.raises(ValueError, match=r"3 names were given for 2 labels\. Give one name"):
        view(Predicting(lambda x: x), label_task()[0], ["a", "b", "c"])


def test_names_with_markup_are_escaped_everywhere() -> None:
    hostile = '"><script>alert(1)</script>'
    task, _ = label_task()
    views = [
        view(Predicting(lambda x: x), task, [hostile] * 2),
        view(Predicting(all_ones), pixel_task(), [hostile] * 2),
        view(Predicting(one_box), box_task(), [hostile] * 2),
        TokensView(np.array([[0, 1]]), np.array([[1, 1]]), True, (hostile, hostile), hostile),
    ]
    html = page_of(*views)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 6
