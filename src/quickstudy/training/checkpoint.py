"""Checkpoints: one file, written atomically, from which a run resumes with bit-equal results."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quickstudy.balancing.combine import Combine, HasState
from quickstudy.base.atomic import remove_abandoned
from quickstudy.base.modules import device_of
from quickstudy.compute.plan import Plan
from quickstudy.core import Learner
from quickstudy.evaluation.result import Result
from quickstudy.files.checks import refuse_other_tensors, refuse_wrong_weights, to_device
from quickstudy.files.sources import (
    Originals,
    check_networks,
    named_networks,
    with_originals,
    without_originals,
)
from quickstudy.files.trees import errors_name, load_tree, save_tree

_FORMAT = "quickstudy checkpoint 5"
_EARLIER = "quickstudy checkpoint 4"
"""Still loads: it does not name pretrained networks, but holds their weights."""


@dataclass
class Progress:
    """The progress of a run. Tasks are numbered, so ``step`` determines which tasks come next."""

    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
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
        self._originals = Originals()
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
        """Write the checkpoint atomically: after a crash the previous one is still complete.

        Weights by :func:`quickstudy.pretrained` that are as they were made are named, not written.
        """
        if self._path is None:
            return
        networks = named_networks(learner)
        facts = {k: v for k, v in vars(progress).items() if k not in ("best_weights", "plan")}
        facts["plan"] = progress.plan.to_json() if progress.plan else None
        tree = {
            "learner": without_originals(learner.state_dict(), networks, self._originals),
            "optimiser": optimiser.state_dict(),
            "combine": combine.state_dict() if isinstance(combine, HasState) else None,
            "best": without_originals(progress.best_weights, networks, self._originals),
        }
        about = {
            "format": _FORMAT, "progress": facts, "settings": settings, "pretrained": networks,
        }  # fmt: skip
        save_tree(self._checkpoint, tree, about)

    def refuse_stopped(self) -> None:
        """ValueError where validation has stopped the run early: more steps would change nothing.

        Raises ValueError that names the checkpoint where it is damaged.
        """
        if self._path is None or not self._checkpoint.exists():
            return
        _, about = load_tree(self._checkpoint)
        with self.errors():
            self._refuse_stopped(about["progress"])

    def _refuse_stopped(self, progress: Mapping[str, Any]) -> None:
        if progress["stopped_early"]:
            raise ValueError(
                f"resume: {self._checkpoint} was stopped early by its validation, after "
                f"{progress['step']} steps, so more steps would change nothing. Start a new run "
                "with more patience."
            )

    def restore(
        self,
        learner: Learner,
        optimiser: torch.optim.Optimizer,
        combine: Combine,
        settings: dict[str, Any],
    ) -> Progress:
        """Load the checkpoint into ``learner``, ``optimiser`` and ``combine``, if there is one.

        Raises ValueError that names each setting that differs from the run's first start, and
        ValueError that names the file where it is damaged.
        """
        path = self._checkpoint if self._resume else None
        if path is None or not path.exists():
            return Progress()
        tree, about = load_tree(path)
        if about.get("format") == _EARLIER:
            about["pretrained"] = {}
        elif about.get("format") != _FORMAT:
            raise ValueError(
                f"{path}: is not a checkpoint of this version (format {about.get('format')!r}). "
                "Start the run in a new folder."
            )
        with self.errors():
            saved = dict(about["settings"])
            if about["pretrained"]:
                self._complete(tree, about, learner)
            progress = _progress(about["progress"], tree["best"], saved, learner)
        changed = [k for k in settings if saved.get(k) != settings[k]]
        if settings["steps"] > saved["steps"]:
            changed.remove("steps")  # trained further
        if changed:
            listed = ", ".join(f"{k}={saved.get(k)!r} (now {settings[k]!r})" for k in changed)
            raise ValueError(
                f"resume: {path} was started with {listed}. "
                "Give the same settings, or a new folder."
            )
        if settings["steps"] > saved["steps"]:
            self._refuse_stopped(vars(progress))
        with self.errors():
            _check_weights(tree["learner"], learner)
            _restore_optimiser(optimiser, tree["optimiser"])
            if isinstance(combine, HasState):
                _restore_combine(combine, tree["combine"], device_of(learner))
            learner.load_state_dict(tree["learner"])
        return progress

    def _complete(self, tree: Any, about: Mapping[str, Any], learner: Learner) -> None:
        """Add the pretrained weights that the checkpoint names to those that it holds."""
        networks = check_networks(about["pretrained"], learner)
        tree["learner"] = with_originals(tree["learner"], networks, self._originals)
        if about["progress"]["best_score"] is not None:
            tree["best"] = with_originals(tree["best"], networks, self._originals)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of code inside, which handles what was read, become one that names the file."""
        with errors_name(self._checkpoint, remedy="Start the run in a new folder."):
            yield


def _check_weights(weights: Any, learner: Learner) -> None:
    """ValueError unless these are finite tensors of the learner's names, shapes and types."""
    own = learner.state_dict()
    refuse_other_tensors(weights, own)
    refuse_wrong_weights(weights, dict(learner.named_buffers()))
    other = [name for name, tensor in own.items() if tensor.dtype != weights[name].dtype]
    if other:
        raise ValueError(
            f"{other[0]} is {weights[other[0]].dtype}, but the learner's is {own[other[0]].dtype}"
        )


def _progress(values: Any, best: Any, settings: Mapping[str, Any], learner: Learner) -> Progress:
    """What :meth:`RunFolder.save` wrote of the progress; ValueError for impossible values."""
    facts, steps, tasks = dict(values), settings["steps"], settings["tasks_per_step"]
    plan = facts.pop("plan")
    progress = Progress(**facts, best_weights=best)
    counts = (progress.step, progress.best_step, progress.fruitless, progress.summed)
    numbers = [progress.seconds, progress.cpu_seconds, progress.loss_sum]
    if progress.best_score is not None:
        numbers.append(progress.best_score)
        _check_weights(best, learner)
    right = (
        all(type(count) is int and 0 <= count <= steps for count in counts)
        and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        and type(progress.score_sum) in (int, float)  # NaN where tasks have no score
        and type(progress.stopped_early) is bool
        and min(progress.seconds, progress.cpu_seconds) >= 0
        and (best == {}) == (progress.best_score is None)
    )
    if not right:
        raise ValueError(f"its progress is {facts}")
    progress.plan = Plan.from_json(plan, tasks)
    return progress


def _restore_optimiser(optimiser: torch.optim.Optimizer, saved: Any) -> None:
    """Load ``saved``, and try a step; ValueError where it is not of an optimiser made like this."""
    own = optimiser.state_dict()["param_groups"]
    of_torch = type(optimiser).__module__.startswith("torch.optim.")
    for mine, group in zip(own, saved["param_groups"], strict=True):
        same = mine["params"] == group["params"] and type(mine["lr"]) is type(group["lr"])
        # The learning rate is set in every step. An optimiser of the user's may count in a group.
        if of_torch:
            same &= all(group[key] == mine[key] for key in mine if key != "lr")
        if not same:
            raise ValueError("its optimiser has other parameters or settings")
    places = {place for group in own for place in group["params"]}
    if not (saved["state"].keys() <= places and all(map(_is_dict, saved["state"].values()))):
        raise ValueError("its optimiser has other parameters")
    optimiser.load_state_dict(saved)
    _try_step(optimiser)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _try_step(optimiser: torch.optim.Optimizer) -> None:
    """Raise what a step of a copy raises, with gradients of zero, or ValueError if it gives NaN."""
    try:
        trial = copy.deepcopy(optimiser)
    except Exception:  # an optimiser of the user's may hold what cannot be copied
        return
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    parameters = [parameter for group in trial.param_groups for parameter in group["params"]]
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        raise ValueError("the state of its optimiser makes weights NaN or infinite")


def _restore_combine(combine: HasState, saved: Any, device: torch.device) -> None:
    """Load ``saved``, which must have the entries of a new combiner, and their types."""
    own = combine.state_dict()
    if own.keys() != saved.keys() or any(
        not isinstance(saved[key], type(value)) for key, value in own.items() if value is not None
    ):
        raise ValueError(f"the state of {type(combine).__name__} has other entries")
    combine.load_state_dict(to_device(saved, device))
