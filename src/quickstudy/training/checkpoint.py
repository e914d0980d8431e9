"""Checkpoints: one file, written atomically, from which a run resumes with bit-equal results."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.atomic import remove_abandoned
from quickstudy.base.modules import device_of
from quickstudy.base.trees import map_tree
from quickstudy.compute.plan import Plan
from quickstudy.core import Learner
from quickstudy.evaluation.result import Result
from quickstudy.files.storage import load_tree, save_tree
from quickstudy.training.combine import Combine, HasState

_FORMAT = "quickstudy checkpoint 3"


@dataclass
class Progress:
    """The progress of a run. Tasks are numbered, so ``step`` determines which tasks come next."""

    step: int = 0
    seconds: float = 0.0
    best_score: float | None = None
    best_step: int = 0
    fruitless: int = 0  # validations since the best one
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stopped_early: bool = False
    loss_sum: float = 0.0  # over the steps since the last row of the log
    score_sum: float = 0.0
    summed: int = 0
    plan: Plan | None = None  # stored, since another chunk size rounds differently

    def count(self, loss: float, score: float) -> None:
        """Count an optimiser step with its mean loss and score."""
        self.step += 1
        self.loss_sum, self.score_sum = self.loss_sum + loss, self.score_sum + score
        self.summed += 1

    def means(self) -> dict[str, float]:
        """Mean loss and score since the last call, without those that are not finite."""
        means = {"loss": self.loss_sum / self.summed, "score": self.score_sum / self.summed}
        self.loss_sum = self.score_sum = 0.0
        self.summed = 0
        return {name: round(mean, 6) for name, mean in means.items() if math.isfinite(mean)}

    def record_validation(self, result: Result, learner: Learner, patience: int | None) -> None:
        """Store the weights if ``result`` is the best; else stop after ``patience`` validations."""
        best = self.best_score
        if not math.isfinite(result.mean):
            better = False
        elif best is None:
            better = True
        else:
            better = result.mean > best if result.higher_is_better else result.mean < best
        if better:
            self.best_score, self.best_step, self.fruitless = result.mean, self.step, 0
            self.best_weights = {n: v.clone() for n, v in learner.state_dict().items()}
        else:
            self.fruitless += 1
            self.stopped_early = patience is not None and self.fruitless >= patience


class RunFolder:
    """The folder of a run: ``checkpoint.safetensors``, ``metrics.jsonl``; ``path`` may be None.

    Raises FileExistsError where the folder holds another run and ``resume`` is False.
    """

    def __init__(self, path: str | Path | None, resume: bool) -> None:
        self._path = None if path is None else Path(path)
        self._resume = resume
        if self._path is None:
            if resume:
                raise ValueError("fit: resume=True needs the run's folder. Give run=...")
            return
        remove_abandoned(self._path)
        if not resume and (self._checkpoint.exists() or (self._path / "metrics.jsonl").exists()):
            raise FileExistsError(
                f"{self._path}: holds another run. Give resume=True to continue it, "
                "or another folder."
            )

    @property
    def _checkpoint(self) -> Path:
        assert self._path is not None
        return self._path / "checkpoint.safetensors"

    @property
    def log(self) -> Path | None:
        """The path of the training log."""
        return None if self._path is None else self._path / "metrics.jsonl"

    def save(
        self,
        learner: Learner,
        optimiser: torch.optim.Optimizer,
        combine: Combine,
        progress: Progress,
        settings: dict[str, Any],
    ) -> None:
        """Write the checkpoint atomically: after a crash the previous one is still complete."""
        if self._path is None:
            return
        facts = {k: v for k, v in vars(progress).items() if k not in ("best_weights", "plan")}
        facts["plan"] = progress.plan.to_json() if progress.plan else None
        tree = {
            "learner": dict(learner.state_dict()),
            "optimiser": optimiser.state_dict(),
            "combine": combine.state_dict() if isinstance(combine, HasState) else None,
            "best": progress.best_weights,
        }
        about = {"format": _FORMAT, "progress": facts, "settings": settings}
        save_tree(self._checkpoint, tree, about)

    def restore(
        self,
        learner: Learner,
        optimiser: torch.optim.Optimizer,
        combine: Combine,
        settings: dict[str, Any],
    ) -> Progress:
        """Load the checkpoint into ``learner``, ``optimiser`` and ``combine``, if there is one.

        Raises ValueError that names each setting that differs from the run's first start.
        """
        if not self._resume or not self._checkpoint.exists():
            return Progress()
        tree, about = load_tree(self._checkpoint)
        if about.get("format") != _FORMAT:
            raise ValueError(
                f"{self._checkpoint}: is not a checkpoint. Start the run in a new folder."
            )
        saved = about["settings"]
        changed = [k for k in settings if saved.get(k) != settings[k]]
        if changed:
            listed = ", ".join(f"{k}={saved.get(k)!r} (now {settings[k]!r})" for k in changed)
            raise ValueError(
                f"resume: {self._checkpoint} was started with {listed}. "
                "Give the same settings, or a new folder."
            )
        learner.load_state_dict(tree["learner"])
        optimiser.load_state_dict(tree["optimiser"])
        if isinstance(combine, HasState):
            device = device_of(learner)
            combine.load_state_dict(map_tree(
                lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree["combine"]
            ))  # fmt: skip
        facts = about["progress"]
        plan = facts.pop("plan")
        return Progress(**facts, plan=Plan.from_json(plan), best_weights=tree["best"])
