"""Samples for tests of reports: a learner that needs no training, evaluations, a log."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quickstudy.answers.classes import one_hot
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.evaluation.result import Result
from quickstudy.evaluation.results import Evaluation
from quickstudy.reports.view_types import EpisodeView
from quickstudy.reports.views import view
from quickstudy.tasks.episodes import Episodes
from quickstudy.tasks.rows import LabelledRows


class NearestMeanPixels(Learner):
    """Predicts the class whose mean of raw pixels is nearest."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        weights = one_hot(support.targets, spec.outputs, torch.float32) * support.weights[:, None]
        return (weights.T @ support.inputs.flatten(1)) / weights.sum(0)[:, None].clamp_min(1)

    def predict(self, state: State, inputs: Tensor, spec: TaskSpec) -> Tensor:
        differences = inputs.flatten(1)[:, None] - state
        return -self.sharpness * differences.square().mean(-1)

    def embed(self, state: State, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)


def result_with(
    values: Tensor, score: str = "accuracy", name: str = "", *, pooled: bool = False
) -> Result:
    """A row with these values, in percent unless the score is mse."""
    error = score == "mse"
    return Result(
        name=name,
        score=score,
        unit="" if error else "%",
        higher_is_better=not error,
        pooled=pooled,
        first=True,
        statistics=tuple({"value": value} for value in values),
        values=values.double(),
        mean=float(values.mean()),
        half_width=float(1.96 * values.std() / math.sqrt(len(values))),
    )


def evaluation_of(
    scores: Tensor, metric: str = "accuracy", transductive: bool = False
) -> Evaluation:
    return evaluation_with(result_with(scores, metric), transductive=transductive)


def evaluation_with(*rows: Result, transductive: bool = False) -> Evaluation:
    return Evaluation(
        rows=rows,
        calibration_error=0.081 if rows[0].score == "accuracy" else None,
        seconds_per_adaptation=0.00132,
        transductive=transductive,
        norm="batch" if transductive else "group",
        seed=0,
        fingerprint="3f9ac1d27b60",
        tasks=sum(row.tasks for row in rows if row.first),
    )


def training_log(steps: int = 2000) -> list[dict[str, float]]:
    """A training log: noisy curves, with validation every 240 steps."""
    noise = np.random.default_rng(0)
    rows: list[dict[str, float]] = []
    for step in range(20, steps + 1, 20):
        loss = 0.25 + 1.3 * math.exp(-step / 300) + 0.05 * noise.normal()
        score = 0.92 - 0.6 * math.exp(-step / 300) + 0.015 * noise.normal()
        rows.append({"step": step, "loss": loss, "score": score, "seconds": step / 40})
        if step % 240 == 0:
            valid = 0.86 - 0.5 * math.exp(-step / 350) + 0.004 * noise.normal()
            rows.append({"step": step, "validation": valid, "half_width": 0.008})
    return rows


def emoji(folder: Path) -> LabelledRows:
    """The emoji of the test split: each in four designs, RGBA, 32 x 32."""
    described = json.loads(gzip.decompress((folder / "classes.json.gz").read_bytes()))["classes"]
    chosen = [i for i, c in enumerate(described) if c["split"] == "test"]
    designs = [
        np.load(folder / f"{design}_32.npz")["images"][chosen]
        for design in ("noto", "twemoji", "fluent3d", "openmoji")
    ]
    images = torch.from_numpy(np.stack(designs, 1)).flatten(0, 1).permute(0, 3, 1, 2).contiguous()
    names = [described[i]["name"] for i in chosen]
    return LabelledRows.from_labels(images, np.repeat(names, 4))


def views_of(source: Episodes, learner: Learner, tasks: int) -> list[EpisodeView]:
    views = []
    for seed in range(tasks):
        names = source.names(torch.Generator().manual_seed(seed))
        shown = view(learner, source(torch.Generator().manual_seed(seed)), names)
        assert isinstance(shown, EpisodeView)
        views.append(shown)
    return views
