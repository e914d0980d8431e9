"""SpanScorer against its equations, computed row by row and word by word in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from made_up import examples_of
from quickstudy.contract.check import check_learner
from quickstudy.core import Task, TaskSource

D, MARKS, WORDS, FARTHEST = 4, 2, 7, 3


def texts(n: int, generator: torch.Generator) -> Tensor:
    """Features (n, WORDS, D + MARKS + 2) of texts of 4 words or more, with a head of two."""
    words = torch.randn(n, WORDS, D + MARKS, generator=generator, dtype=torch.float64)
    lengths = torch.randint(4, WORDS + 1, (n,), generator=generator)
    first = torch.randint(0, 3, (n,), generator=generator)
    place = torch.arange(WORDS)
    exists = (place < lengths[:, None]).double()
    head = ((place >= first[:, None]) & (place <= first[:, None] + 1)).double() * exists
    return torch.cat([words * exists[..., None], exists[..., None], head[..., None]], -1)


def task(generator: torch.Generator) -> Task:
    rows, spans = texts(9, generator), torch.randint(0, 2, (9, 2), generator=generator).cumsum(1)
    support, query = (examples_of(rows[part], spans[part]) for part in (slice(4), slice(4, None)))
    return Task(support, query, qs.spans())


def learner() -> qs.SpanScorer:
    torch.manual_seed(0)
    made = qs.SpanScorer(qs.backbones.Features(D + MARKS + 2), MARKS, 3, 5, 6, FARTHEST)
    torch.nn.init.normal_(made.second.weight)  # what is 0 at first would hide mistakes
    return made.double().eval()


def read(model: qs.SpanScorer, text: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """s (D,), u (2, size) and b (2,) of each word of one text, by the equations."""
    words = [row for row in text if row[-2] == 1]
    s = [row[:D] / row[:D].norm() for row in words]
    of_head = [place for place, row in enumerate(words) if row[-1] == 1]
    projected = [model.projection(each) for each in s]
    h = sum(projected[place] for place in of_head) / len(of_head)
    nothing = torch.zeros(MARKS, dtype=torch.float64)
    marks = [nothing, *(row[D : D + MARKS] for row in words), nothing]
    found = []
    for place, row in enumerate(words):
        distance = max(-FARTHEST, min(FARTHEST, place - of_head[0]))
        e = model.places.weight[distance + FARTHEST]
        z = torch.cat(
            [projected[place], h, projected[place] * h, *marks[place : place + 3], row[-1:], e]
        )
        out = model.second(model.first(z).relu())
        found.append((s[place], out[: 2 * model.size].view(2, -1), out[2 * model.size :]))
    return found


def test_logits_are_those_of_the_equations() -> None:
    model, (support, query, spec) = learner(), task(torch.Generator().manual_seed(1))
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5], dtype=torch.float64)
    found = model(support._replace(weights=weights), spec)(query.inputs)
    p, n, q = [0.0, 0.0], 0.0, [0.0, 0.0]
    for text, span, weight in zip(support.inputs, support.targets.tolist(), weights, strict=True):
        words = read(model, text)
        share = weight / weights.sum()
        n += share * sum(s for s, _, _ in words) / len(words)
        for end in range(2):
            p[end] += share * words[span[end]][0]
            mean = sum(u[end] for _, u, _ in words) / len(words)
            q[end] += share * (words[span[end]][1][end] - mean)
    for text, logits in zip(query.inputs, found, strict=True):
        words = read(model, text)
        for place, (s, u, b) in enumerate(words):
            for end in range(2):
                like = s @ (p[end] / p[end].norm() - n / n.norm())
                expected = model.scale[end] * like + u[end] @ q[end] / model.size**0.5 + b[end]
                torch.testing.assert_close(logits[place, end], expected)
        assert bool((logits[len(words) :] < -1e3).all()), "places without a word"


def test_the_contract() -> None:
    source: TaskSource = task
    kept = check_learner(learner(), source)
    assert {"extending_equals_adapting_to_all", "vmap_equals_loop"} <= {*kept}


def test_training_finds_what_is_asked() -> None:
    """The answer is the word that has the task's own feature; which one, only the support says."""

    def marked(generator: torch.Generator) -> Task:
        which = int(torch.randint(0, D, (), generator=generator))
        rows = 0.1 * torch.randn(10, WORDS, D, generator=generator)
        places = torch.stack([torch.randperm(WORDS, generator=generator)[:D] for _ in range(10)])
        for feature in range(D):  # each feature is at one word; the task asks for one feature
            rows[torch.arange(10), places[:, feature], feature] += 1.0
        ones = torch.ones(10, WORDS, 1)
        inputs, spans = torch.cat([rows, ones, 0 * ones], -1), places[:, [which, which]]
        support, query = (
            examples_of(inputs[part], spans[part]) for part in (slice(4), slice(4, None))
        )
        return Task(support, query, qs.spans())

    torch.manual_seed(0)
    model = qs.SpanScorer(qs.backbones.Features(D + 2), size=8, hidden=32)
    qs.fit(model, marked, 150, 8, optimiser=qs.optimisers.adam(0.01), progress=False)
    assert qs.evaluate(model, marked, tasks=50, baselines=False).mean > 0.9


def test_a_backbone_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 feature beside its 0 marks"):
        qs.SpanScorer(qs.backbones.Features(2))
    with pytest.raises(ValueError, match="hidden must be at least 1"):
        qs.SpanScorer(qs.backbones.Features(6), hidden=0)
