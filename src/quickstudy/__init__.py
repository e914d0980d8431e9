"""quickstudy: a learner maps a support set to a predictor.

Names are imported when first used, so that ``import quickstudy`` and the command line stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quickstudy.base.version import __version__ as __version__

if TYPE_CHECKING:
    from quickstudy import backbones as backbones
    from quickstudy import datasets as datasets
    from quickstudy import testing as testing
    from quickstudy import training as training
    from quickstudy.core import Examples as Examples
    from quickstudy.core import Learner as Learner
    from quickstudy.core import Predictor as Predictor
    from quickstudy.core import Task as Task
    from quickstudy.core import TaskSpec as TaskSpec
    from quickstudy.evaluation.evaluate import Evaluation as Evaluation
    from quickstudy.evaluation.evaluate import evaluate as evaluate
    from quickstudy.files.storage import load_learner as load_learner
    from quickstudy.files.storage import load_predictor as load_predictor
    from quickstudy.files.storage import save_learner as save_learner
    from quickstudy.interfaces.estimator import FewShotClassifier as FewShotClassifier
    from quickstudy.tasks.episodes import episodes as episodes
    from quickstudy.tasks.examples import classification as classification
    from quickstudy.tasks.examples import examples as examples
    from quickstudy.tasks.examples import regression as regression
    from quickstudy.tasks.functions import Sinusoids as Sinusoids
    from quickstudy.tasks.rows import Classes as Classes
    from quickstudy.training.fit import Validation as Validation
    from quickstudy.training.fit import fit as fit

# learners, written by `python -m quickstudy.learners.cards`
if TYPE_CHECKING:
    from quickstudy.learners.gradient.anil import ANIL as ANIL
    from quickstudy.learners.gradient.boil import BOIL as BOIL
    from quickstudy.learners.gradient.cavia import CAVIA as CAVIA
    from quickstudy.learners.gradient.lstm_meta_learner import LSTMMetaLearner as LSTMMetaLearner
    from quickstudy.learners.gradient.maml import MAML as MAML
    from quickstudy.learners.gradient.maml_plus_plus import MAMLPlusPlus as MAMLPlusPlus
    from quickstudy.learners.gradient.meta_sgd import MetaSGD as MetaSGD
    from quickstudy.learners.gradient.proto_maml import ProtoMAML as ProtoMAML
    from quickstudy.learners.gradient.reptile import Reptile as Reptile
    from quickstudy.learners.memory.in_context import InContext as InContext
    from quickstudy.learners.memory.mann import MANN as MANN
    from quickstudy.learners.memory.memory_network import MemoryNetwork as MemoryNetwork
    from quickstudy.learners.memory.meta_networks import MetaNetworks as MetaNetworks
    from quickstudy.learners.memory.neural_process import (
        AttentiveNeuralProcess as AttentiveNeuralProcess,
    )
    from quickstudy.learners.memory.neural_process import (
        ConditionalNeuralProcess as ConditionalNeuralProcess,
    )
    from quickstudy.learners.memory.snail import SNAIL as SNAIL
    from quickstudy.learners.metric.matching import Matching as Matching
    from quickstudy.learners.metric.meta_opt_net import MetaOptNet as MetaOptNet
    from quickstudy.learners.metric.prototypical import Prototypical as Prototypical
    from quickstudy.learners.metric.r2d2 import R2D2 as R2D2
    from quickstudy.learners.metric.relation import Relation as Relation
    from quickstudy.learners.metric.siamese import Siamese as Siamese
    from quickstudy.learners.transfer.linear_probe import LinearProbe as LinearProbe
# end of the learners

_HOME = {
    "Classes": "tasks.rows",
    "Evaluation": "evaluation.evaluate",
    "Examples": "core",
    "FewShotClassifier": "interfaces.estimator",
    "Learner": "core",
    "Predictor": "core",
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


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"quickstudy.{name}")
    value: Any
    if name == "__all__":
        value = sorted({"__version__", *_HOME, *_MODULES, *_learners()})
    elif name in _HOME:
        value = getattr(import_module(f"quickstudy.{_HOME[name]}"), name)
    elif not name.startswith("_") and name in (learners := _learners()):
        value = getattr(import_module(learners[name]), name)
    else:
        raise AttributeError(f"module 'quickstudy' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))


def _learners() -> dict[str, str]:
    """The learners' classes, and the modules that have them, as their cards say."""
    from quickstudy.learners.cards import cards

    return {card.class_name: card.home for card in cards().values()}
