"""quickstudy: a learner maps a support set to a predictor.

Names are imported when first used, so that ``import quickstudy`` and the command line stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quickstudy.base.version import __version__

if TYPE_CHECKING:
    from quickstudy import backbones, datasets, testing, training
    from quickstudy.compute.plan import Compute
    from quickstudy.core import Examples, Learner, Predictor, Task, TaskSpec
    from quickstudy.evaluation.evaluate import Evaluation, evaluate
    from quickstudy.files.storage import load_learner, load_predictor, save_learner
    from quickstudy.interfaces.estimator import FewShotClassifier
    from quickstudy.learners.gradient.anil import ANIL
    from quickstudy.learners.gradient.boil import BOIL
    from quickstudy.learners.gradient.cavia import CAVIA
    from quickstudy.learners.gradient.lstm_meta_learner import LSTMMetaLearner
    from quickstudy.learners.gradient.maml import MAML
    from quickstudy.learners.gradient.maml_plus_plus import MAMLPlusPlus
    from quickstudy.learners.gradient.meta_sgd import MetaSGD
    from quickstudy.learners.gradient.proto_maml import ProtoMAML
    from quickstudy.learners.gradient.reptile import Reptile
    from quickstudy.learners.memory.in_context import InContext
    from quickstudy.learners.memory.mann import MANN
    from quickstudy.learners.memory.memory_network import MemoryNetwork
    from quickstudy.learners.memory.meta_networks import MetaNetworks
    from quickstudy.learners.memory.neural_process import (
        AttentiveNeuralProcess,
        ConditionalNeuralProcess,
    )
    from quickstudy.learners.memory.snail import SNAIL
    from quickstudy.learners.metric.matching import Matching
    from quickstudy.learners.metric.meta_opt_net import MetaOptNet
    from quickstudy.learners.metric.prototypical import Prototypical
    from quickstudy.learners.metric.r2d2 import R2D2
    from quickstudy.learners.metric.relation import Relation
    from quickstudy.learners.metric.siamese import Siamese
    from quickstudy.learners.transfer.linear_probe import LinearProbe
    from quickstudy.tasks.episodes import episodes
    from quickstudy.tasks.examples import classification, examples, regression
    from quickstudy.tasks.functions import Sinusoids
    from quickstudy.tasks.rows import Classes
    from quickstudy.training.fit import Validation, fit

_HOME = {
    "ANIL": "learners.gradient.anil",
    "AttentiveNeuralProcess": "learners.memory.neural_process",
    "BOIL": "learners.gradient.boil",
    "CAVIA": "learners.gradient.cavia",
    "Classes": "tasks.rows",
    "Compute": "compute.plan",
    "ConditionalNeuralProcess": "learners.memory.neural_process",
    "Evaluation": "evaluation.evaluate",
    "Examples": "core",
    "FewShotClassifier": "interfaces.estimator",
    "InContext": "learners.memory.in_context",
    "LSTMMetaLearner": "learners.gradient.lstm_meta_learner",
    "Learner": "core",
    "LinearProbe": "learners.transfer.linear_probe",
    "MAML": "learners.gradient.maml",
    "MAMLPlusPlus": "learners.gradient.maml_plus_plus",
    "MANN": "learners.memory.mann",
    "Matching": "learners.metric.matching",
    "MemoryNetwork": "learners.memory.memory_network",
    "MetaNetworks": "learners.memory.meta_networks",
    "MetaOptNet": "learners.metric.meta_opt_net",
    "MetaSGD": "learners.gradient.meta_sgd",
    "Predictor": "core",
    "ProtoMAML": "learners.gradient.proto_maml",
    "Prototypical": "learners.metric.prototypical",
    "R2D2": "learners.metric.r2d2",
    "Relation": "learners.metric.relation",
    "Reptile": "learners.gradient.reptile",
    "SNAIL": "learners.memory.snail",
    "Siamese": "learners.metric.siamese",
    "Sinusoids": "tasks.functions",
    "Task": "core",
    "TaskSpec": "core",
    "Validation": "training.fit",
    "classification": "tasks.examples",
    "episodes": "tasks.episodes",
    "evaluate": "evaluation.evaluate",
    "examples": "tasks.examples",
    "fit": "training.fit",
    "load_learner": "files.storage",
    "load_predictor": "files.storage",
    "regression": "tasks.examples",
    "save_learner": "files.storage",
}
_MODULES = ("backbones", "datasets", "testing", "training")

__all__ = [
    "ANIL",
    "BOIL",
    "CAVIA",
    "MAML",
    "MANN",
    "R2D2",
    "SNAIL",
    "AttentiveNeuralProcess",
    "Classes",
    "Compute",
    "ConditionalNeuralProcess",
    "Evaluation",
    "Examples",
    "FewShotClassifier",
    "InContext",
    "LSTMMetaLearner",
    "Learner",
    "LinearProbe",
    "MAMLPlusPlus",
    "Matching",
    "MemoryNetwork",
    "MetaNetworks",
    "MetaOptNet",
    "MetaSGD",
    "Predictor",
    "ProtoMAML",
    "Prototypical",
    "Relation",
    "Reptile",
    "Siamese",
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
