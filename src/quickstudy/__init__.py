"""quickstudy: a learner maps a support set to a predictor.

Names are imported when first used, so that ``import quickstudy`` and the command line stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quickstudy.version import __version__

if TYPE_CHECKING:
    from quickstudy import backbones, datasets, testing, training
    from quickstudy.core import Examples, Learner, Predictor, Task, TaskSpec
    from quickstudy.estimator import FewShotClassifier
    from quickstudy.evaluation.evaluate import Evaluation, evaluate
    from quickstudy.learners.gradient.maml import MAML
    from quickstudy.learners.metric.prototypical import Prototypical
    from quickstudy.learners.transfer.linear_probe import LinearProbe
    from quickstudy.storage import load_learner, load_predictor, save_learner
    from quickstudy.tasks.classes import Classes
    from quickstudy.tasks.episodes import episodes
    from quickstudy.tasks.examples import classification, examples, regression
    from quickstudy.tasks.functions import Sinusoids
    from quickstudy.training.trainer import Validation, fit

_HOME = {
    "Classes": "tasks.classes",
    "Evaluation": "evaluation.evaluate",
    "Examples": "core",
    "FewShotClassifier": "estimator",
    "Learner": "core",
    "LinearProbe": "learners.transfer.linear_probe",
    "MAML": "learners.gradient.maml",
    "Predictor": "core",
    "Prototypical": "learners.metric.prototypical",
    "Sinusoids": "tasks.functions",
    "Task": "core",
    "TaskSpec": "core",
    "Validation": "training.trainer",
    "classification": "tasks.examples",
    "episodes": "tasks.episodes",
    "evaluate": "evaluation.evaluate",
    "examples": "tasks.examples",
    "fit": "training.trainer",
    "load_learner": "storage",
    "load_predictor": "storage",
    "regression": "tasks.examples",
    "save_learner": "storage",
}
_MODULES = ("backbones", "datasets", "testing", "training")

__all__ = [
    "MAML",
    "Classes",
    "Evaluation",
    "Examples",
    "FewShotClassifier",
    "Learner",
    "LinearProbe",
    "Predictor",
    "Prototypical",
    "Sinusoids",
    "Task",
    "TaskSpec",
    "Validation",
    "__version__",
    "backbones",
    "classification",
    "datasets",
    "episodes",
    "evaluate",
    "examples",
    "fit",
    "load_learner",
    "load_predictor",
    "regression",
    "save_learner",
    "testing",
    "training",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"quickstudy.{name}")
    if name in _HOME:
        value = getattr(import_module(f"quickstudy.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'quickstudy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
