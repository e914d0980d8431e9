"""Comparisons for tests of reports, made by the library's own statistics from given scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from report_samples import evaluation_with, result_with
from torch import Tensor

from quickstudy.evaluation.paired import figures, mean_ranks, pairs
from quickstudy.evaluation.results import Evaluation
from quickstudy.selection.comparing.comparison import BASELINE, LEARNER, Comparison, Entry


def evaluations(
    scores: Sequence[Tensor], metric: str = "accuracy", transductive: bool = False
) -> tuple[Evaluation, ...]:
    return tuple(
        evaluation_with(result_with(each, metric), transductive=transductive) for each in scores
    )


def entry(name: str, scores: Sequence[Tensor], kind: str = LEARNER, **facts: Any) -> Entry:
    """A row with these scores (tasks,) of each training, and some costs."""
    metric = facts.pop("metric", "accuracy")
    found = evaluations(scores, metric, facts.pop("transductive", False))
    costs: dict[str, Any] = {"title": name, "parameters": 112_000, "bytes": 448_000, "steps": 500}
    if kind == LEARNER:
        costs |= {"train_seconds": (61.0, 62.0, 63.0)[: len(scores)],
                  "train_cpu_seconds": (118.0, 119.0, 120.0)[: len(scores)]}  # fmt: skip
    else:
        costs |= {"parameters": 0, "bytes": 0, "steps": 0}
    return Entry(name=name, kind=kind, evaluations=found, **costs | facts)


def comparison(
    entries: Sequence[Entry], matters: float = 0.005, protocol: str = "inductive", **facts: Any
) -> Comparison:
    """The comparison of ``entries``, failed ones ranked last."""
    done = [each for each in entries if not each.failed]
    trainings = max((len(each.evaluations) for each in done), default=0)
    results = {each.name: each.repeated(trainings) for each in done}
    ranks = dict(mean_ranks(results)) if done else {}
    ranks |= dict.fromkeys((e.name for e in entries if e.failed), float(len(entries)))
    return Comparison(
        tuple(entries),
        pairs(results, matters) if len(results) > 1 else (),
        matters,
        protocol,
        {name: figures(each) for name, each in results.items()},
        ranks,
        **facts,
    )


def sample_scores(
    means: Mapping[str, float], trainings: int = 3, tasks: int = 100, noise: float = 0.03
) -> dict[str, list[Tensor]]:
    """For each name scores in multiples of 1/75: tasks differ alike for all, and by themselves."""
    generator = torch.Generator().manual_seed(0)
    shared = 0.06 * torch.randn(tasks, generator=generator, dtype=torch.float64)
    found = {}
    for name, mean in means.items():
        found[name] = [
            ((mean + shared + noise * torch.randn(tasks, generator=generator)) * 75)
            .round().clamp(0, 75) / 75
            for _ in range(trainings)
        ]  # fmt: skip
    return found


def usual() -> Comparison:
    """Four learners, one of which failed, and three baselines."""
    scores = sample_scores({
        "prototypical": 0.84, "maml": 0.80, "r2d2": 0.838,
        "untrained": 0.55, "nearest_mean": 0.45, "chance": 0.2,
    })  # fmt: skip
    return comparison([
        entry("prototypical", scores["prototypical"], title="Prototypical networks"),
        entry("maml", scores["maml"], title="MAML", train_seconds=(300.0, 310.0, 320.0)),
        entry("r2d2", scores["r2d2"], title="R2-D2", parameters=400_000, bytes=1_600_000),
        Entry("snail", "SNAIL", LEARNER, failure="ValueError: the loss is NaN at step 40"),
        entry("untrained", scores["untrained"], BASELINE, title="untrained Conv4",
              parameters=112_000, bytes=448_000),
        entry("chance", [torch.full((100,), 0.2)], BASELINE),
        entry("nearest_mean", scores["nearest_mean"][:1], BASELINE,
              title="nearest mean of the inputs"),
    ], settings={"budget": {"minutes": 1.0}})  # fmt: skip


def with_shots(table: Comparison) -> Comparison:
    """The same, with scores for other numbers of shots."""
    generator = torch.Generator().manual_seed(1)
    entries = []
    for place, each in enumerate(table.entries):
        if each.failed or each.kind == BASELINE:
            entries.append(each)
            continue
        shots = {
            k: result_with(
                1 - (0.2 + 0.05 * place) / k + 0.02 * torch.randn(50, generator=generator)
            )
            for k in (1, 2, 5, 10)
        }
        entries.append(replace(each, over_shots=shots))
    return replace(table, entries=tuple(entries))
