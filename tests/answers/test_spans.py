"""Spans: scores and loss by counting places one by one."""

from __future__ import annotations

import pytest
import torch

import quickstudy as qs
from made_up import examples_of
from quickstudy.answers.spans import SpanExactMatch, SpanF1, Spans, best_spans, overlap_f1


@pytest.mark.parametrize("longest", [1, 3, 20])
def test_the_best_span_is_that_of_all_spans_one_by_one(longest: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 9, 2, generator=generator, dtype=torch.float64)
    found = best_spans(logits, longest)
    for row, span in zip(logits.tolist(), found.tolist(), strict=True):
        sums = {
            (first, last): row[first][0] + row[last][1]
            for first in range(9)
            for last in range(first, min(9, first + longest))
        }
        assert tuple(span) == max(sums, key=sums.__getitem__)


def test_f1_is_that_of_the_sets_of_places() -> None:
    spans = [(a, b) for a in range(5) for b in range(a, 5)]
    for found in spans:
        for true in spans:
            p, t = ({*range(span[0], span[1] + 1)} for span in (found, true))
            precision, recall = len(p & t) / len(p), len(p & t) / len(t)
            expected = 2 * precision * recall / (precision + recall) if p & t else 0.0
            assert float(overlap_f1(torch.tensor(found), torch.tensor(true))) == pytest.approx(
                expected
            )


def test_scores_count_rows_by_weight_and_leave_out_unknown_ones() -> None:
    logits = torch.zeros(3, 4, 2)
    logits[:, 1, 0] = logits[:, 2, 1] = 5.0  # places 1 and 2
    query = examples_of(
        torch.zeros(3, 1), torch.tensor([[1, 2], [2, 3], [-1, -1]]), torch.tensor([3.0, 1.0, 7.0])
    )
    for score, expected in ((SpanF1(), (3 * 1 + 0.5) / 4), (SpanExactMatch(), 3 / 4)):
        assert float(score.value(score.statistic(logits, query))) == pytest.approx(expected)


def test_the_loss_is_the_mean_of_two_cross_entropies_over_places() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
    targets = torch.tensor([[0, 2], [5, 5], [-1, -1]])
    found = Spans().loss(logits, targets)
    for row in range(2):
        ends = [
            torch.nn.functional.cross_entropy(logits[row, :, end], targets[row, end])
            for end in range(2)
        ]
        assert float(found[row]) == pytest.approx(float(sum(ends)) / 2)
    assert float(found[2]) == 0.0


def check_both(answer: Spans, targets: torch.Tensor) -> None:
    answer.check(targets)
    answer.check_values(targets)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([[2, 1]], r"end before it begins.*found \[2, 1\] in row 0"),
        ([[0, 1], [-1, 3], [4, 3]], r"end before it begins; found \[4, 3\] in row 2"),
        ([[0, 1, 2]], r"a span is two places"),
        ([[0.0, 1.0]], r"integer class ids"),
    ],
)
def test_wrong_targets_are_refused(targets: list[list[float]], message: str) -> None:
    given, answer = torch.tensor(targets), Spans()
    with pytest.raises(ValueError, match=message):
        check_both(answer, given)


def test_guesses_are_the_spans_of_the_support() -> None:
    support = examples_of(torch.zeros(2, 1), torch.tensor([[0, 1], [3, 3]]))
    query = examples_of(torch.zeros(4, 1), torch.tensor([[2, 5]] * 4))
    found = Spans().guesses(support, query)
    assert [best_spans(each, 10)[0].tolist() for each in found] == [[0, 1], [3, 3]]
    assert found[0].shape == (4, 6, 2)


def test_a_spec_of_spans() -> None:
    assert qs.spans(longest=4).answer == Spans(4)
    with pytest.raises(ValueError, match="longest must be a whole number of at least 1"):
        qs.spans(longest=0)


def test_a_span_beyond_its_text_is_refused():
    words = torch.cat([torch.rand(2, 5, 4), torch.ones(2, 5, 2)], -1)
    learner = qs.SpanScorer(qs.backbones.Features(6), size=4, hidden=8)
    with pytest.raises(ValueError, match=r"within the 5 places of its text, 0 to 4; found 5"):
        learner(qs.examples(words, [[0, 1], [2, 5]]), qs.spans())
    predictions = learner(qs.examples(words, [[0, 1], [2, 4]]), qs.spans())(words)
    with pytest.raises(ValueError, match=r"0 to 4; found 7"):
        qs.spans().answer.loss(predictions, torch.tensor([[0, 1], [2, 7]]))
