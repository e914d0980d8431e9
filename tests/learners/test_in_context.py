"""InContext equals attention computed in loops, one query, output and head at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import clouds, examples_of
from quickstudy.backbones import MLP
from quickstudy.core import TaskSpec
from quickstudy.learners.memory.equiangular import equiangular
from quickstudy.testing import LAWS, check_learner

HEADS, WIDTH = 2, 4


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made() -> qs.InContext:
    torch.manual_seed(0)
    learner = qs.InContext(MLP(4, (6, 5)), HEADS * WIDTH, layers=2, heads=HEADS).double()
    with torch.no_grad():  # keys start equal to queries, and the unknown label at zero
        for parameter in learner.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return learner


def equiangular_learner() -> qs.InContext:
    torch.manual_seed(0)
    learner = qs.InContext(MLP(4, (6, 5)), HEADS * WIDTH, layers=2, heads=HEADS, ways=4).double()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return learner


def normal(row: Tensor) -> Tensor:
    return (row - row.mean()) / (row.var(correction=0) + 1e-5).sqrt()


def heads_of(layer: torch.nn.Linear, token: Tensor) -> list[Tensor]:
    result = layer.weight @ normal(token)
    result = result if layer.bias is None else result + layer.bias
    return [result[h * WIDTH : (h + 1) * WIDTH] for h in range(HEADS)]


def after(block: torch.nn.Module, token: Tensor, seen: list[Tensor], counts: list[float]) -> Tensor:
    """``token`` after one layer in which it attends to the tokens ``seen``."""
    reads = []
    for h, query in enumerate(heads_of(block.query, token)):
        scores = [
            count * (query @ heads_of(block.key, s)[h] / math.sqrt(WIDTH)).exp()
            for s, count in zip(seen, counts, strict=True)
        ]
        values = [heads_of(block.value, s)[h] for s in seen]
        reads.append(sum(w * v for w, v in zip(scores, values, strict=True)) / sum(scores))
    token = token + block.mix.weight @ torch.cat(reads) + block.mix.bias
    first, _, second = block.feed_forward
    hidden = first.weight @ normal(token) + first.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
    return token + second.weight @ hidden + second.bias


def in_loops(learner: qs.InContext, support: qs.Examples, labels: Tensor, query: Tensor) -> Tensor:
    """The logit of one output for one query; ``labels`` (n,) as encoded for that output."""
    embed = learner.embedding.weight
    label = learner.label
    tokens = [
        embed @ normal(row) + label.weight[:, 0] * value + label.bias
        for row, value in zip(learner.backbone(support.inputs), labels, strict=True)
    ]
    query_token = embed @ normal(learner.backbone(query[None])[0]) + learner.unknown
    counts = support.weights.tolist()
    for block in learner.blocks:
        following = [after(block, token, tokens, counts) for token in tokens]
        query_token = after(block, query_token, [*tokens, query_token], [*counts, 1.0])
        tokens = following
    return learner.head.weight[0] @ normal(query_token)


def with_labels_in_loops(learner: qs.InContext, support: qs.Examples, query: Tensor) -> Tensor:
    """All logits (4,) for one query, where tokens hold features beside an equiangular label."""
    embed, label = learner.embedding.weight, learner.label
    tokens = [
        torch.cat([embed @ normal(row), label.length * label.vectors[y]])
        for row, y in zip(learner.backbone(support.inputs), support.targets.tolist(), strict=True)
    ]
    features = embed @ normal(learner.backbone(query[None])[0])
    query_token = torch.cat([features, learner.unknown])
    counts = support.weights.tolist()
    for block in learner.blocks:
        following = [after(block, token, tokens, counts) for token in tokens]
        query_token = after(block, query_token, [*tokens, query_token], [*counts, 1.0])
        tokens = following
    return learner.head.weight @ normal(query_token)


CLASSES = torch.tensor([0, 2, 1, 2, 0])
REALS = numbers(5, 5, 2)


@pytest.mark.parametrize(
    ("targets", "spec"), [(CLASSES, qs.classification(3)), (REALS, qs.regression(2))]
)
def test_predictions_equal_those_of_loops(targets: Tensor, spec: TaskSpec) -> None:
    learner, queries = made(), numbers(2, 2, 4)
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0], dtype=torch.float64)
    support = examples_of(numbers(1, 5, 4), targets, weights)
    with torch.no_grad():
        found = learner(support, spec)(queries)
        for k in range(spec.outputs):
            labels = targets[:, k] if targets.is_floating_point() else (targets == k).double()
            for query, answers in zip(queries, found, strict=True):
                expected = in_loops(learner, support, labels, query)
                torch.testing.assert_close(answers[k], expected, rtol=1e-9, atol=1e-11)


def test_attention_over_present_rows_sums_to_one() -> None:
    learner, queries = made(), numbers(2, 4, 4)
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    support = examples_of(numbers(1, 5, 4), CLASSES, weights)
    share = learner.attention(learner(support, qs.classification(4)).state, queries)
    torch.testing.assert_close(share.sum(-1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(share[:, 2], torch.zeros(4, dtype=torch.float64))


def test_a_regression_without_support_rows_is_finite() -> None:
    support = examples_of(numbers(1, 5, 4), REALS, torch.zeros(5, dtype=torch.float64))
    assert made()(support, qs.regression(2))(numbers(2, 3, 4)).isfinite().all()


def test_heads_must_divide_the_size() -> None:
    with pytest.raises(ValueError, match=r"heads=3 and size=8"):
        qs.InContext(MLP(4), size=8, heads=3)


def test_predictions_from_equiangular_labels_equal_those_of_loops() -> None:
    learner, queries = equiangular_learner(), numbers(2, 2, 4)
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0], dtype=torch.float64)
    support = examples_of(numbers(1, 5, 4), CLASSES, weights)
    with torch.no_grad():
        found = learner(support, qs.classification(3))(queries)
        for query, answers in zip(queries, found, strict=True):
            expected = with_labels_in_loops(learner, support, query)[:3]
            torch.testing.assert_close(answers, expected, rtol=1e-9, atol=1e-11)
    share = learner.attention(learner(support, qs.classification(3)).state, queries)
    assert torch.equal(share[:, 4], torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(("labels", "size"), [(2, 2), (3, 3), (5, 32), (20, 64)])
def test_equiangular_vectors_are_the_corners_of_a_regular_simplex(labels: int, size: int) -> None:
    """Length 1, every cosine -1 / (C - 1), the least that all pairs can have, and sum 0."""
    vectors = equiangular(labels, size).double()
    cosines = vectors @ vectors.mT
    expected = torch.full_like(cosines, -1 / (labels - 1)).fill_diagonal_(1)
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.sum(0), torch.zeros(size).double(), atol=1e-5, rtol=0)
    assert torch.equal(equiangular(labels, size), equiangular(labels, size))


def test_a_learner_with_equiangular_labels_keeps_the_contract_but_for_class_names() -> None:
    kept = check_learner(equiangular_learner().eval(), clouds())
    assert set(LAWS) - set(kept) == {"relabelling_permutes_outputs"}


def test_more_classes_than_labels_and_too_small_tokens_are_refused() -> None:
    learner = equiangular_learner()
    rows = examples_of(numbers(1, 5, 4), torch.arange(5))
    with pytest.raises(ValueError, match=r"5 outputs, but the learner has 4. Build it with ways=5"):
        learner(rows, qs.classification(5))
    with pytest.raises(ValueError, match="found ways=5 and size=8"):
        qs.InContext(MLP(4), size=8, heads=2, ways=5)
    with pytest.raises(ValueError, match="found labels=3, size=2"):
        equiangular(3, 2)
    with pytest.raises(ValueError, match="gives answers of the kind Classes"):
        learner(examples_of(numbers(1, 5, 4), REALS), qs.regression(2))
