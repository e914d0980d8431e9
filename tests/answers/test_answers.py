"""Every answer: unknown elements count as absent, answers join, errors name the remedy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.answers import Boxes, Classes, Custom, Labels, Pixels, Reals, Tokens
from quickstudy.base.known import unknown_value
from quickstudy.base.trees import concatenate, leaves, map_tree
from quickstudy.core import Answer, Examples, Learner, Predictor
from quickstudy.objectives import mean_loss, score_of
from quickstudy.tasks.examples import one_place, pad_rows

NAN = torch.nan


def rows(targets: Any, weights: Tensor | None = None) -> Examples:
    n = len(next(leaves(targets)))
    weights = torch.ones(n, dtype=torch.float64) if weights is None else weights
    return Examples(torch.zeros(n, 1), targets, weights, one_place(weights))


def absolute(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions - targets).abs()


def case(answer: Answer, seed: int = 0) -> tuple[Any, Any]:
    """Predictions in float64, and targets of which some elements are unknown."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    def ids(most: int, *shape: int) -> Tensor:
        return torch.randint(-1, most, shape, generator=draw)

    match answer:
        case Classes():
            return normal(6, answer.ways), ids(answer.ways, 6)
        case Reals() | Labels() | Custom():
            targets = normal(6, answer.outputs)
            if isinstance(answer, Labels):
                targets = (targets > 0).double()
            targets[normal(6, answer.outputs) > 0.8] = NAN
            return normal(6, answer.outputs), targets
        case Pixels():
            return normal(6, 3, 4, answer.k), ids(answer.k, 6, 3, 4)
        case Tokens():
            return normal(6, 5, answer.vocabulary), ids(answer.vocabulary, 6, 5)
        case Boxes():
            classes, first = ids(answer.k, 6, 3), normal(6, 3, 2)
            true = torch.cat([first, first + 1 + normal(6, 3, 2) ** 2], -1)
            near = true[:, [0, 1, 2, 0]] + 0.1 * normal(6, 4, 4)
            logits = normal(6, 4, answer.k + 1)
            return {"boxes": near, "logits": logits}, {"boxes": true, "classes": classes}
    raise NotImplementedError(answer)


ELEMENTWISE = [
    Classes(3), Reals(2, missing=True), Labels(3), Pixels(3), Tokens(7), Custom(2, absolute),
]  # fmt: skip


@pytest.mark.parametrize("answer", ELEMENTWISE, ids=lambda a: a.kind)
def test_a_mean_loss_counts_each_known_element_as_often_as_its_row(answer):
    """Expected value: a sum over elements in plain Python."""
    predictions, targets = case(answer)
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 3.0, 1.0], dtype=torch.float64)
    known = answer.known(targets)
    elements = answer.element_losses(predictions, answer.fill(targets))
    total = count = 0.0
    for i in range(6):
        for value, is_known in zip(elements[i].flatten(), known[i].flatten(), strict=True):
            if is_known:
                total, count = total + float(weights[i] * value), count + float(weights[i])
    found = mean_loss(predictions, rows(targets, weights), answer)
    assert float(found) == pytest.approx(total / count, abs=1e-12)


@pytest.mark.parametrize("answer", ELEMENTWISE, ids=lambda a: a.kind)
def test_the_mean_loss_differs_from_a_mean_of_row_means(answer):
    """Shows that the test above can fail: rows have different shares of known elements."""
    predictions, targets = case(answer)
    if answer.known(targets).ndim == 1:
        pytest.skip("a row of this answer is one element")
    means, share = answer.loss_and_share(predictions, targets)
    by_rows = means[share > 0].mean()
    assert abs(float(by_rows - mean_loss(predictions, rows(targets), answer))) > 1e-3


@pytest.mark.parametrize("answer", ELEMENTWISE, ids=lambda a: a.kind)
def test_second_derivatives_through_vmap_are_finite_with_unknown_elements(answer):
    """Masking only after the arithmetic would make them NaN."""
    predictions, targets = case(answer)
    scale = torch.ones((), dtype=torch.float64)

    def loss(scale: Tensor, predictions: Tensor, targets: Tensor) -> Tensor:
        return mean_loss(scale * predictions**2, rows(targets), answer)

    second = torch.func.hessian(loss)
    both = [torch.stack([t, t.flip(0)]) for t in (predictions, targets)]
    found = torch.vmap(second, in_dims=(None, 0, 0))(scale, *both)
    assert found.isfinite().all()
    alone = torch.stack([second(scale, *(t[i] for t in both)) for i in range(2)])
    assert torch.allclose(found, alone, atol=1e-12)


@pytest.mark.parametrize("answer", ELEMENTWISE, ids=lambda a: a.kind)
def test_predictions_for_unknown_elements_get_no_gradient(answer):
    predictions, targets = case(answer)
    predictions.requires_grad_()
    mean_loss(predictions, rows(targets), answer).backward()
    gradient = predictions.grad
    if gradient.ndim > answer.known(targets).ndim:
        gradient = gradient.abs().sum(-1)
    assert gradient[~answer.known(targets)].abs().max() == 0
    assert gradient[answer.known(targets)].abs().min() > 0


def test_unknown_targets_in_one_column_scale_all_gradients_of_another_column_equally():
    """With a mean of row means, the other elements of rows with unknown ones would count more."""
    answer = Reals(2, missing=True)
    predictions, targets = case(answer)
    targets = targets.nan_to_num()
    partly_unknown = targets.clone()
    partly_unknown[:3, 0] = NAN

    def gradient_of_second_column(targets: Tensor) -> Tensor:
        p = predictions.clone().requires_grad_()
        mean_loss(p, rows(targets), answer).backward()
        return p.grad[:, 1]

    before, after = gradient_of_second_column(targets), gradient_of_second_column(partly_unknown)
    ratio = after / before
    assert torch.allclose(ratio, ratio[0].expand(6), atol=1e-14)  # 12 elements, then 9
    assert float(ratio[0]) == pytest.approx(12 / 9)


@pytest.mark.parametrize("answer", [Classes(3), Pixels(3)], ids=lambda a: a.kind)
def test_queries_of_an_absent_class_are_left_out_of_the_loss_but_scored_as_wrong(answer):
    predictions, targets = case(answer)
    targets = targets.clamp_min(0)
    present = torch.tensor([True, False, True])
    masked = torch.where(present, predictions, -1e30)
    loss = mean_loss(masked, rows(targets), answer, present)
    assert float(loss) < 100  # above 1e27 if absent classes were part of the loss
    hidden = answer.hide_absent(targets, present)
    assert torch.equal(answer.known(hidden), targets != 1)
    best = torch.where(present, torch.nn.functional.one_hot(targets, 3), -1e30).double()
    if isinstance(answer, Classes):
        right = (targets != 1).double().mean()
        assert float(score_of(best, rows(targets), answer)) == pytest.approx(float(right))
    else:
        assert float(score_of(best, rows(targets), answer)) < 1


def test_answers_join_where_their_tasks_can_share_a_stack():
    assert Classes(3).join(Classes(5)) == Classes(5).join(Classes(3)) == Classes(5)
    assert Reals(2).join(Reals(2, missing=True)) == Reals(2, missing=True)
    assert Reals(2).join(Reals(3)) is None
    assert Classes(3).join(Pixels(3)) is None
    assert Pixels(2).join(Pixels(4)) == Pixels(4)
    assert Pixels(2).join(Pixels(4, background=True)) is None
    assert Labels(2).join(Labels(2)) == Labels(2)
    assert Labels(2).join(Labels(3)) is None


@dataclass(frozen=True)
class Huber(Reals):
    def element_losses(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.huber_loss(predictions, targets, reduction="none", delta=0.01)


@dataclass(frozen=True)
class Smooth(Classes):
    smoothing: float = 0.5


@dataclass(frozen=True)
class Weighted(Pixels):
    weight: float = 1.0


@pytest.mark.parametrize(
    ("narrow", "wide", "base", "differs"),
    [
        (Huber(2), Huber(2, missing=True), Reals(2), Huber(3)),
        (Smooth(3), Smooth(5), Classes(5), Smooth(5, 0.1)),
        (Weighted(3), Weighted(4), Pixels(3), Weighted(3, 2.0)),
    ],
    ids=["reals", "classes", "pixels"],
)
def test_a_subclass_joins_its_own_class_only(narrow, wide, base, differs):
    """Joined with the base class, tasks would be trained with the other's loss."""
    assert narrow.join(narrow) == narrow
    assert narrow.join(wide) == wide.join(narrow) == wide
    assert type(narrow.join(wide)) is type(narrow)
    for other in (base, differs):
        assert narrow.join(other) is None
        assert other.join(narrow) is None


def test_a_subclass_cannot_override_the_loss_that_training_does_not_call():
    with pytest.raises(TypeError, match=r"Constant overrides it\. Override element_losses"):

        class Constant(Reals):
            def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
                return torch.zeros(len(targets))


def test_specs_are_equal_by_value():
    assert qs.classification(5) == qs.classification(5) != qs.classification(4)
    assert qs.regression(2, name="a") != qs.regression(2, name="b")
    assert qs.spec(2, absolute) == qs.spec(2, absolute)
    assert len({qs.multilabel(3), qs.multilabel(3), qs.segmentation(3)}) == 2


@pytest.mark.parametrize(
    ("spec", "targets", "words"),
    [
        (qs.classification(3), torch.rand(4, 1), "Use integer ids"),
        (qs.classification(3), torch.tensor([0, 3]), "found 3"),
        (qs.regression(2), torch.rand(4, 3), r"qs.regression\(3\)"),
        (qs.regression(), torch.rand(4), r"targets\[:, None\]"),
        (qs.regression(), torch.tensor([[1.0], [NAN]]), "missing=True"),
        (qs.multilabel(2), torch.tensor([[0.0, 2.0]]), "found 2"),
        (qs.multilabel(2), torch.tensor([[0.0, -0.5]]), "found -0.5"),
        (qs.multilabel(2), torch.tensor([[0, -2]]), "found -2"),
        (qs.multilabel(2), torch.zeros(3, 3), "column for each label"),
        (qs.segmentation(2), torch.zeros(3, 4), "integer class ids"),
        (qs.segmentation(2), torch.full((1, 2, 2), 2), "found 2"),
        (qs.tokens(9), torch.zeros(3, dtype=torch.long), "length"),
        (qs.detection(2), torch.zeros(3, 4), "dict of boxes"),
        (qs.detection(2), {"boxes": torch.tensor([[[1.0, 0, 0, 1]]]),
                           "classes": torch.zeros(1, 1, dtype=torch.long)}, "end before"),
    ],
)  # fmt: skip
def test_wrong_targets_are_refused_with_the_remedy(spec, targets, words):
    def check() -> None:
        spec.answer.check(targets)
        spec.answer.check_values(targets)

    with pytest.raises(ValueError, match=words):
        check()


@pytest.mark.parametrize("unknown", [NAN, -1.0, -1])
def test_unknown_labels_may_be_nan_or_minus_one(unknown):
    answer = Labels(2)
    predictions = torch.tensor([[0.3, -2.0], [1.0, 0.5]], dtype=torch.float64)
    targets = torch.tensor([[1, unknown], [unknown, 0]])
    answer.check_values(targets)
    assert answer.known(targets).tolist() == [[True, False], [False, True]]
    expected = -(torch.sigmoid(predictions[0, 0]).log() + torch.sigmoid(-predictions[1, 1]).log())
    assert float(mean_loss(predictions, rows(targets), answer)) == pytest.approx(
        float(expected) / 2
    )
    assert answer.encode(targets).tolist() == [[1, 0], [0, -1]]
    by_label = rows(torch.tensor([[1, unknown], [0, unknown], [unknown, unknown]]))
    scores = all_scores(answer, torch.tensor([[0.2, 0], [0.1, 0], [0.3, 0]]), by_label)
    assert scores == [1, 1]


@pytest.mark.parametrize("make", [Classes, Reals, Labels, Pixels, Tokens, Boxes])
@pytest.mark.parametrize("wrong", [0, 2.0, "5", True])
def test_a_width_that_is_not_a_positive_whole_number_is_refused(make, wrong):
    with pytest.raises(ValueError, match="must be a whole number"):
        make(wrong)


def test_a_custom_loss_may_be_per_row_or_per_element():
    predictions, targets = case(Reals(2, missing=True))
    by_element = qs.spec(2, absolute).answer
    by_row = qs.spec(2, lambda p, t: (p - t).abs().mean(-1)).answer
    full = targets.nan_to_num()
    both = [float(mean_loss(predictions, rows(full), a)) for a in (by_element, by_row)]
    assert both[0] == pytest.approx(both[1])
    known_rows = ~targets.isnan().any(1)  # a loss per row counts only rows known in full
    expected = (predictions - full).abs().mean(1)[known_rows].mean()
    assert float(mean_loss(predictions, rows(targets), by_row)) == pytest.approx(float(expected))
    scalar = qs.spec(2, lambda p, t: (p - t).abs().mean()).answer
    with pytest.raises(ValueError, match="Leave out the mean over rows"):
        mean_loss(predictions, rows(targets), scalar)


def of_two_parts(predictions: Any, targets: Any) -> Tensor:
    """One loss per row for dicts of predictions and of targets."""
    return (predictions["a"] - targets["a"]).abs().mean(-1) + (predictions["b"] - targets["b"]) ** 2


def test_a_row_of_a_tree_is_known_where_all_its_leaves_are():
    answer = qs.spec(3, of_two_parts).answer
    draw = torch.Generator().manual_seed(0)
    predictions, targets = (
        {"a": torch.randn(5, 2, generator=draw), "b": torch.randn(5, generator=draw)}
        for _ in range(2)
    )
    targets["a"][1, 0], targets["b"][3] = NAN, NAN
    known = torch.tensor([True, False, True, False, True])
    assert torch.equal(answer.known(targets), known)
    weights = torch.tensor([1.0, 1.0, 2.0, 1.0, 0.0])
    losses = of_two_parts(predictions, targets)
    expected = float(losses[0] + 2 * losses[2]) / 3
    predictions = map_tree(Tensor.requires_grad_, predictions)
    loss = mean_loss(predictions, rows(targets, weights), answer)
    assert float(loss) == pytest.approx(expected)
    assert all_scores(answer, predictions, rows(targets, weights)) == pytest.approx([expected])
    loss.backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves(predictions))


@pytest.mark.parametrize("which", ["loss", "score"])
def test_a_loss_or_score_of_a_wrong_shape_is_refused(which):
    """Of trees there is no element, so their losses and scores are per row; a column is neither."""
    tree = {"a": torch.zeros(5, 2), "b": torch.zeros(5, 2)}
    for targets, shape in ((tree, (5, 2)), (torch.zeros(5), (5, 1)), (torch.zeros(5, 2), ())):
        wrong = lambda p, t, shape=shape: torch.zeros(shape)  # noqa: E731
        right = lambda p, t: torch.zeros(5)  # noqa: E731
        spec = qs.spec(2, *((wrong, right) if which == "loss" else (right, wrong)))
        of = mean_loss if which == "loss" else score_of
        with pytest.raises(ValueError, match=rf"spec: {which} must give one {which} for each row"):
            of(torch.zeros(5, 2), rows(targets), spec.answer)


class NextToken(Learner):
    """Predicts the token before, plus one."""

    def adapt(self, support: Examples, spec: qs.TaskSpec) -> Any:
        return {}

    def predict(self, state: Any, inputs: Any, spec: qs.TaskSpec) -> Tensor:
        return torch.nn.functional.one_hot((inputs["before"] + 1) % spec.outputs, spec.outputs)


def test_tokens_are_decoded_from_left_to_right_until_the_end():
    answer = Tokens(6, before="before", start=1, end=4)
    predictor = Predictor(NextToken(), {}, qs.TaskSpec(answer))
    given = {"before": torch.zeros(2, 5, dtype=torch.long)}
    assert answer.decode(predictor, given).tolist() == [[2, 3, -1, -1, -1]] * 2


def boxes(*edges: tuple[float, ...]) -> Tensor:
    return torch.tensor([edges], dtype=torch.float64)


def test_the_loss_of_boxes_matches_each_true_box_to_a_different_slot():
    answer = Boxes(2)
    true = {"boxes": boxes((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (NAN,) * 4),
            "classes": torch.tensor([[0, 1, -1]])}  # fmt: skip
    logits = torch.tensor([[[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0], [0, 0, 9.0]]]).double()
    right = {"boxes": boxes((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0, 0, 1, 1), (0, 0, 1, 1)),
             "logits": logits}  # fmt: skip
    assert float(answer.loss(right, true)) < 0.01
    order = [2, 1, 0]  # the order of true boxes must not matter
    reordered = map_tree(lambda leaf: leaf[:, order], true)
    assert torch.allclose(answer.loss(right, reordered), answer.loss(right, true))
    both_on_one = map_tree(lambda leaf: leaf[:, [0, 0, 2, 3]], right)
    assert float(answer.loss(both_on_one, true)) > 1
    nothing = map_tree(lambda leaf: leaf[:, 2:], true)  # an image without objects
    assert float(answer.loss(right, nothing)) > 0.1  # two slots predict objects


@pytest.mark.parametrize("edges", [(NAN,) * 4, (0, 0, 0, 0), (0.2, 0.2, 0.9, 0.9), (1, 1, 0, 0)])
def test_a_box_of_class_minus_one_is_absent_whatever_its_edges(edges):
    answer = Boxes(1)
    logits = torch.tensor([[[2.0, 0], [0, 2.0]]], dtype=torch.float64)
    found = {"boxes": boxes((0, 0, 0.5, 0.5), (0.4, 0.4, 0.6, 0.6)), "logits": logits}
    alone = {"boxes": boxes((0, 0, 0.5, 0.5)), "classes": torch.tensor([[0]])}
    padded = {"boxes": boxes((0, 0, 0.5, 0.5), edges), "classes": torch.tensor([[0, -1]])}
    answer.check_values(padded)
    assert torch.equal(answer.loss(found, padded), answer.loss(found, alone))
    assert all_scores(answer, found, rows(padded)) == all_scores(answer, found, rows(alone)) == [1]
    encoded = answer.encode(padded)
    assert torch.equal(encoded[:, :1], answer.encode(alone))
    assert not encoded[:, 1].any()


def test_ap50_matches_each_true_box_once_and_pools_images():
    """By hand, in rank order: right, wrong (a duplicate), right; recall 1/2, 1/2, 1."""
    true = {"boxes": boxes((0, 0, 0.4, 0.4), (0.6, 0.6, 1, 1)), "classes": torch.tensor([[0, 0]])}
    confidence = torch.tensor([0.9, 0.8, 0.7])
    found = {
        "boxes": boxes((0, 0, 0.4, 0.4), (0, 0, 0.4, 0.42), (0.6, 0.6, 1, 0.98)),
        "logits": torch.stack([confidence.log(), (1 - confidence).log()], -1)[None].double(),
    }
    score = Boxes(1).score
    statistic = score.statistic(found, rows(true))
    levels = 51 * 1 + 50 * 2 / 3  # of recall, from 0 to 1/2 and from there to 1
    assert float(score.value(statistic)) == pytest.approx(levels / 101)
    missed = score.statistic(map_tree(lambda leaf: leaf[:, 1:2], found), rows(true))
    pooled = score.value(score.merge([statistic, missed]))
    # Four slots for four true boxes: 0.9 and 0.7 of one image right, 0.8 of the other.
    assert 0.5 < float(pooled) < 0.84


class Echo(Learner):
    """Predicts its inputs."""

    def adapt(self, support: Examples, spec: qs.TaskSpec) -> Any:
        return {}

    def predict(self, state: Any, inputs: Any, spec: qs.TaskSpec) -> Any:
        return inputs


def all_scores(answer: Answer, predictions: Any, query: Examples) -> list[float]:
    """Every score of ``answer``, of the decoded predictions where it asks for these."""
    decoded = answer.decode(Predictor(Echo(), {}, qs.TaskSpec(answer)), predictions)
    pairs = ((s, s.statistic(decoded if s.decoded else predictions, query)) for s in answer.scores)
    return [float(score.value(statistic)) for score, statistic in pairs]


def longer(tree: Any, with_unknown: bool) -> Any:
    """``tree`` with two more entries in the second dimension: unknown ones, or the first again."""

    def pad(leaf: Tensor) -> Tensor:
        more = leaf[:, :1].repeat(1, 2, *[1] * (leaf.ndim - 2))
        return torch.cat([leaf, torch.full_like(more, unknown_value(leaf)) if with_unknown
                          else more], 1)  # fmt: skip

    return map_tree(pad, tree)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("answer", ELEMENTWISE, ids=lambda a: a.kind)
def test_predictions_for_unknown_elements_do_not_change_a_score(answer, seed):
    predictions, targets = case(answer, seed)
    before = all_scores(answer, predictions, rows(targets))
    known = answer.known(targets)
    changed = predictions.clone()
    changed[~known] = -7 * changed[~known]
    assert all_scores(answer, changed, rows(targets)) == pytest.approx(before, abs=1e-12)


SCORED = [*ELEMENTWISE, Boxes(2), Tokens(7, end=3)]


@pytest.mark.parametrize("answer", SCORED, ids=lambda a: a.kind)
def test_padding_does_not_change_a_score(answer):
    """Rows of weight 0 and, for ragged answers, unknown elements at the end of every row."""
    predictions, targets = case(answer)
    before = all_scores(answer, predictions, rows(targets))
    assert not any(math.isnan(score) for score in before)
    query = pad_rows(rows(targets), 8)
    padded = concatenate(predictions, map_tree(lambda leaf: leaf[:2].flip(-1), predictions))
    assert all_scores(answer, padded, query) == pytest.approx(before, abs=1e-12)
    if answer.ragged:
        query = query._replace(targets=longer(query.targets, with_unknown=True))
        if isinstance(answer, Tokens):
            padded = longer(padded, with_unknown=False)
        assert all_scores(answer, padded, query) == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("answer", SCORED, ids=lambda a: a.kind)
def test_a_row_of_weight_two_scores_as_two_equal_rows(answer):
    predictions, targets = case(answer)
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    repeated = [0, 1, 1, 3, 4, 4, 5]
    twice = [map_tree(lambda leaf: leaf[repeated], tree) for tree in (predictions, targets)]
    expected = all_scores(answer, twice[0], rows(twice[1]))
    found = all_scores(answer, predictions, rows(targets, weights))
    assert found == pytest.approx(expected, abs=1e-12)
    assert found != pytest.approx(all_scores(answer, predictions, rows(targets)), abs=1e-6)


def decoded_scores(answer: Tokens, predicted: list[list[int]], true: list[list[int]]) -> Any:
    """Exact match and F1 of decoded rows."""
    query, decoded = rows(torch.tensor(true)), torch.tensor(predicted)
    scores = answer.scores[1:3]
    return [float(score.value(score.statistic(decoded, query))) for score in scores]


WRITTEN = Tokens(6, before="before", end=4)


@pytest.mark.parametrize(
    ("answer", "predicted", "true", "expected"),
    [
        (Tokens(6), [1, 2, 3, 3], [1, 2, -1, -1], 1),  # padding
        (Tokens(6), [1, 2, 3, 3], [1, -1, 3, 3], 1),  # an unknown tag
        (Tokens(6, end=4), [1, 2, -1, -1], [1, 2, 4, -1], 1),
        (Tokens(6, end=4), [1, 2, 3, -1], [1, 2, 4, -1], 0),  # no end where it should be
        (Tokens(6, "before"), [1, 2, 3, 3], [1, 2, -1, -1], 1),  # cannot end by itself
        (WRITTEN, [1, 2, -1, -1], [1, 2, 4, -1], 1),
        (WRITTEN, [1, 2, -1, -1], [1, 2, -1, -1], 1),
        (WRITTEN, [1, 2, -1, -1], [1, -1, 4, -1], 1),  # an unknown token
        (WRITTEN, [-1, -1, -1, -1], [4, -1, -1, -1], 1),  # an empty text
        (WRITTEN, [1, 2, 3, -1], [1, 2, 4, -1], 0),
        (WRITTEN, [1, -1, -1, -1], [1, 2, 4, -1], 0),
    ],
)  # fmt: skip
def test_decoded_rows_match_where_all_known_tokens_are_right(answer, predicted, true, expected):
    match, f1 = decoded_scores(answer, [predicted], [true])
    assert match == expected
    assert (f1 == 1) == bool(expected)


def test_generated_text_that_does_not_end_counts_to_the_end_of_the_longest_true_row():
    """Two tokens too many in the first row; padding has no true row, so nothing there counts."""
    true = [[1, 4, -1, -1, -1, -1], [1, 2, 3, 4, -1, -1]]
    predicted = [[1, 1, 1, 1, 1, 1], [1, 2, 3, -1, -1, -1]]
    match, f1 = decoded_scores(WRITTEN, predicted, true)
    assert match == 0.5
    assert f1 == pytest.approx((2 * 1 / (4 + 1) + 1) / 2)
