"""Rows of different sizes, between tasks and within one, through fit and evaluate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import Detector
from quickstudy.base.trees import leaves, map_tree
from quickstudy.core import Learner, Task
from quickstudy.objectives import query_loss
from quickstudy.tasks.numbering import draw
from quickstudy.tasks.stacks import stack, unstack

SHOTS, ROWS = 4, 7


def halves(inputs: Any, targets: Any, spec: qs.TaskSpec) -> Task:
    rows = qs.examples(inputs, targets)
    support, query = (
        map_tree(lambda leaf, part=part: leaf[part], rows)
        for part in (slice(SHOTS), slice(SHOTS, ROWS))
    )
    return Task(support, query, spec)


def detection(generator: torch.Generator) -> Task:
    """Rows of 1 to 3 boxes, another largest number in each task; the input is their mean."""
    most = int(torch.randint(1, 4, (), generator=generator))
    corners = torch.rand(ROWS, most, 2, generator=generator) / 2
    boxes = torch.cat([corners, corners + 0.4], -1)
    counts = torch.randint(1, most + 1, (ROWS, 1), generator=generator)
    absent = torch.arange(most) >= counts
    classes = torch.zeros(absent.shape, dtype=torch.long).masked_fill(absent, -1)
    boxes = boxes.masked_fill(absent.unsqueeze(-1), torch.nan)
    return halves(boxes.nanmean(1), {"boxes": boxes, "classes": classes}, qs.detection(1))


def tagging(generator: torch.Generator) -> Task:
    """Sentences of 1 to 6 tokens, of different lengths in one task too; tags are their parity."""
    longest = int(torch.randint(3, 7, (), generator=generator))
    ids = torch.randint(0, 10, (ROWS, longest), generator=generator)
    lengths = torch.randint(1, longest + 1, (ROWS, 1), generator=generator)
    mask = torch.arange(longest) < lengths
    tags = (ids % 2).masked_fill(~mask, -1)
    return halves({"ids": ids.masked_fill(~mask, 0), "mask": mask}, tags, qs.tokens(2))


class Tagger(nn.Module):
    """Tags from each token and the mean of its sentence, for which the mask matters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 8), nn.Linear(16, 2)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        mask = inputs["mask"].unsqueeze(-1)
        words = self.embed(inputs["ids"]) * mask
        mean = words.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)
        tags: Tensor = self.head(torch.cat([words, mean.expand_as(words)], -1))
        return tags


CASES: dict[str, Any] = {
    "boxes": (detection, lambda: Detector(4, slots=2), "AP50"),
    "tokens": (tagging, Tagger, "token accuracy"),
}


def made(name: str) -> Learner:
    torch.manual_seed(0)
    return qs.MAML(CASES[name][1](), steps=1, rate=0.05)


@pytest.mark.parametrize("name", CASES)
def test_tasks_of_ragged_rows_have_the_losses_in_a_stack_that_they_have_alone(name: str) -> None:
    learner, source = made(name), CASES[name][0]
    tasks = [draw(source, 0, i) for i in range(8)]
    assert len({next(leaves(task.query.targets)).shape for task in tasks}) > 1
    expected = torch.stack([query_loss(learner, task).loss for task in tasks])
    found = torch.stack([query_loss(learner, task).loss for task in unstack(stack(tasks))])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_ragged_rows_train_and_are_scored_as_if_alone(name: str) -> None:
    source, _, score = CASES[name]
    learner = made(name)
    before = qs.evaluate(learner, source, 16)
    trained = qs.fit(learner, source, 40, 4, log_every=1, progress=False,
                     optimiser=qs.optimisers.adam(0.02))  # fmt: skip
    losses = [row["loss"] for row in trained.rows if "loss" in row]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    after = qs.evaluate(learner, source, 16)
    assert after.metric == score
    assert before.mean < after.mean <= 1
    alone = qs.evaluate(learner, source, 16, tasks_per_batch=1)
    assert alone.mean == pytest.approx(after.mean, abs=1e-6)
    torch.testing.assert_close(alone.main.values, after.main.values, equal_nan=True)
