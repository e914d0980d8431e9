"""quickstudy: a learner maps a support set to a predictor.

Names are imported at first use, so that ``import quickstudy`` and the command line start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quickstudy.base.version import __version__ as __version__

if TYPE_CHECKING:
    from quickstudy import answers as answers
    from quickstudy import backbones as backbones
    from quickstudy import balancing as balancing
    from quickstudy import datasets as datasets
    from quickstudy import relations as relations
    from quickstudy import tasks as tasks
    from quickstudy import testing as testing
    from quickstudy import training as training
    from quickstudy.answers.specs import classification as classification
    from quickstudy.answers.specs import clustering as clustering
    from quickstudy.answers.specs import detection as detection
    from quickstudy.answers.specs import multilabel as multilabel
    from quickstudy.answers.specs import ranking as ranking
    from quickstudy.answers.specs import regression as regression
    from quickstudy.answers.specs import segmentation as segmentation
    from quickstudy.answers.specs import spans as spans
    from quickstudy.answers.specs import spec as spec
    from quickstudy.answers.specs import tokens as tokens
    from quickstudy.backbones.pretrained.features import featurise as featurise
    from quickstudy.backbones.pretrained.load import pretrained as pretrained
    from quickstudy.base.frozen import frozen as frozen
    from quickstudy.compute.plan import Compute as Compute
    from quickstudy.core import Acting as Acting
    from quickstudy.core import Answer as Answer
    from quickstudy.core import Examples as Examples
    from quickstudy.core import Learner as Learner
    from quickstudy.core import Predictor as Predictor
    from quickstudy.core import Score as Score
    from quickstudy.core import Task as Task
    from quickstudy.core import TaskSpec as TaskSpec
    from quickstudy.evaluation import transfer_scores as transfer_scores
    from quickstudy.evaluation.abstention import abstain as abstain
    from quickstudy.evaluation.calibrate import Calibration as Calibration
    from quickstudy.evaluation.calibrate import calibrate as calibrate
    from quickstudy.evaluation.calibrate import calibrate_on_support as calibrate_on_support
    from quickstudy.evaluation.evaluate import evaluate as evaluate
    from quickstudy.evaluation.multitask import judge_multitask as judge_multitask
    from quickstudy.evaluation.multitask import judge_runs as judge_runs
    from quickstudy.evaluation.negative_transfer import negative_transfer as negative_transfer
    from quickstudy.evaluation.prediction_sets import PredictionSets as PredictionSets
    from quickstudy.evaluation.prediction_sets import prediction_sets as prediction_sets
    from quickstudy.evaluation.results import Evaluation as Evaluation
    from quickstudy.evaluation.strangers import stranger_score as stranger_score
    from quickstudy.evaluation.transferability import transferability as transferability
    from quickstudy.evaluation.validation import Validation as Validation
    from quickstudy.files.export import export as export
    from quickstudy.files.storage import load as load
    from quickstudy.files.storage import save as save
    from quickstudy.interfaces.estimator import FewShotClassifier as FewShotClassifier
    from quickstudy.interfaces.estimator import FewShotRegressor as FewShotRegressor
    from quickstudy.learners.cards import Range as Range
    from quickstudy.learners.gradient import descend as updates  # noqa: F401
    from quickstudy.learners.gradient import meta_gradients as meta_gradients
    from quickstudy.learners.gradient.multi_step import MultiStep as MultiStep
    from quickstudy.learners.metric import distances as distances
    from quickstudy.learners.metric.siamese import contrastive as contrastive
    from quickstudy.learners.metric.siamese import linear_contrastive as linear_contrastive
    from quickstudy.learners.metric.siamese import verification as verification
    from quickstudy.learners.transfer import heads as heads
    from quickstudy.learners.with_backbone import with_backbone as with_backbone
    from quickstudy.selection.comparing.budget import Minutes as Minutes
    from quickstudy.selection.comparing.compare import compare as compare
    from quickstudy.selection.comparing.compared import Comparisons as Comparisons
    from quickstudy.selection.recommending.recommend import recommend as recommend
    from quickstudy.selection.recommending.recommendation import Recommendation as Recommendation
    from quickstudy.selection.tuning.tune import tune as tune
    from quickstudy.tasks.episodes import episodes as episodes
    from quickstudy.tasks.examples import examples as examples
    from quickstudy.tasks.functions import Sinusoids as Sinusoids
    from quickstudy.tasks.rows import LabelledRows as LabelledRows
    from quickstudy.training import optimisers as optimisers
    from quickstudy.training import schedules as schedules
    from quickstudy.training.fit import fit as fit

# learners, written by `python -m quickstudy.learners.listing`
if TYPE_CHECKING:
    from quickstudy.learners.domains.chosen_without_labels import (
        ChosenWithoutLabels as ChosenWithoutLabels,
    )
    from quickstudy.learners.domains.coral import CORAL as CORAL
    from quickstudy.learners.domains.dan import DAN as DAN
    from quickstudy.learners.domains.dann import DANN as DANN
    from quickstudy.learners.domains.deep_coral import DeepCORAL as DeepCORAL
    from quickstudy.learners.domains.entropic_transport import (
        EntropicTransport as EntropicTransport,
    )
    from quickstudy.learners.domains.linear_transport import LinearTransport as LinearTransport
    from quickstudy.learners.domains.reweight import Reweighted as Reweighted
    from quickstudy.learners.domains.safe_gate import SafeGate as SafeGate
    from quickstudy.learners.domains.subspace_alignment import (
        SubspaceAlignment as SubspaceAlignment,
    )
    from quickstudy.learners.domains.tca import TCA as TCA
    from quickstudy.learners.domains.tradaboost import TrAdaBoost as TrAdaBoost
    from quickstudy.learners.domains.tradaboost_r2 import TrAdaBoostR2 as TrAdaBoostR2
    from quickstudy.learners.gradient.adkf_ift import ADKFIFT as ADKFIFT
    from quickstudy.learners.gradient.anil import ANIL as ANIL
    from quickstudy.learners.gradient.boil import BOIL as BOIL
    from quickstudy.learners.gradient.cavia import CAVIA as CAVIA
    from quickstudy.learners.gradient.lstm_meta_learner import LSTMMetaLearner as LSTMMetaLearner
    from quickstudy.learners.gradient.maml import MAML as MAML
    from quickstudy.learners.gradient.maml_plus_plus import MAMLPlusPlus as MAMLPlusPlus
    from quickstudy.learners.gradient.meta_sgd import MetaSGD as MetaSGD
    from quickstudy.learners.gradient.proto_maml import ProtoMAML as ProtoMAML
    from quickstudy.learners.gradient.reptile import Reptile as Reptile
    from quickstudy.learners.memory.convolutional_process import (
        ConvolutionalConditionalNeuralProcess as ConvolutionalConditionalNeuralProcess,
    )
    from quickstudy.learners.memory.in_context import InContext as InContext
    from quickstudy.learners.memory.lstm import LSTM as LSTM
    from quickstudy.learners.memory.mann import MANN as MANN
    from quickstudy.learners.memory.memory_network import MemoryNetwork as MemoryNetwork
    from quickstudy.learners.memory.meta_networks import MetaNetworks as MetaNetworks
    from quickstudy.learners.memory.neural_process import (
        AttentiveConditionalNeuralProcess as AttentiveConditionalNeuralProcess,
    )
    from quickstudy.learners.memory.neural_process import (
        ConditionalNeuralProcess as ConditionalNeuralProcess,
    )
    from quickstudy.learners.memory.neural_statistician import (
        NeuralStatistician as NeuralStatistician,
    )
    from quickstudy.learners.memory.snail import SNAIL as SNAIL
    from quickstudy.learners.metric.dense_matching import DenseMatching as DenseMatching
    from quickstudy.learners.metric.matching import Matching as Matching
    from quickstudy.learners.metric.meta_opt_net import MetaOptNet as MetaOptNet
    from quickstudy.learners.metric.nearest_neighbours import NearestNeighbours as NearestNeighbours
    from quickstudy.learners.metric.prototypical import Prototypical as Prototypical
    from quickstudy.learners.metric.prototypical_mahalanobis import (
        PrototypicalMahalanobis as PrototypicalMahalanobis,
    )
    from quickstudy.learners.metric.prototypical_segmentation import (
        PrototypicalSegmentation as PrototypicalSegmentation,
    )
    from quickstudy.learners.metric.r2d2 import R2D2 as R2D2
    from quickstudy.learners.metric.relation import Relation as Relation
    from quickstudy.learners.metric.siamese import Siamese as Siamese
    from quickstudy.learners.metric.span_scorer import SpanScorer as SpanScorer
    from quickstudy.learners.multitask.cross_stitch import CrossStitch as CrossStitch
    from quickstudy.learners.multitask.hard_sharing import HardSharing as HardSharing
    from quickstudy.learners.multitask.mean_regularised import MeanRegularised as MeanRegularised
    from quickstudy.learners.multitask.mmoe import MMoE as MMoE
    from quickstudy.learners.multitask.multitask_features import (
        MultitaskFeatures as MultitaskFeatures,
    )
    from quickstudy.learners.multitask.named_heads import NamedHeads as NamedHeads
    from quickstudy.learners.multitask.ple import PLE as PLE
    from quickstudy.learners.multitask.pooled import Pooled as Pooled
    from quickstudy.learners.multitask.single_task import SingleTask as SingleTask
    from quickstudy.learners.multitask.sluice import Sluice as Sluice
    from quickstudy.learners.multitask.soft_sharing import SoftSharing as SoftSharing
    from quickstudy.learners.multitask.trace_norm import TraceNorm as TraceNorm
    from quickstudy.learners.transfer.baseline_plus_plus import BaselinePlusPlus as BaselinePlusPlus
    from quickstudy.learners.transfer.crop_detection import CropDetection as CropDetection
    from quickstudy.learners.transfer.early_stopping import EarlyStopping as EarlyStopping
    from quickstudy.learners.transfer.feature_cache import FeatureCache as FeatureCache
    from quickstudy.learners.transfer.fine_tune import FineTune as FineTune
    from quickstudy.learners.transfer.gaussian_mixture import GaussianMixture as GaussianMixture
    from quickstudy.learners.transfer.k_means import KMeans as KMeans
    from quickstudy.learners.transfer.linear_probe import LinearProbe as LinearProbe
    from quickstudy.learners.transfer.linear_svm import LinearSVM as LinearSVM
    from quickstudy.learners.transfer.lora import LoRA as LoRA
    from quickstudy.learners.transfer.pixel_head import PixelHead as PixelHead
    from quickstudy.learners.transfer.random_forest import RandomForest as RandomForest
    from quickstudy.learners.transfer.rank_ensemble import RankEnsemble as RankEnsemble
    from quickstudy.learners.transfer.self_training import SelfTraining as SelfTraining
    from quickstudy.learners.transfer.simple_shot import SimpleShot as SimpleShot
    from quickstudy.learners.transfer.support_vectors import SVM as SVM
    from quickstudy.learners.transfer.two_stage_detection import (
        TwoStageDetection as TwoStageDetection,
    )
# end of the learners

_DEFINED_IN = {
    "Acting": "core",
    "Answer": "core",
    "Calibration": "evaluation.calibrate",
    "Comparisons": "selection.comparing.compared",
    "Compute": "compute.plan",
    "Evaluation": "evaluation.results",
    "Examples": "core",
    "FewShotClassifier": "interfaces.estimator",
    "FewShotRegressor": "interfaces.estimator",
    "LabelledRows": "tasks.rows",
    "Learner": "core",
    "Minutes": "selection.comparing.budget",
    "MultiStep": "learners.gradient.multi_step",
    "PredictionSets": "evaluation.prediction_sets",
    "Predictor": "core",
    "Range": "learners.cards",
    "Recommendation": "selection.recommending.recommendation",
    "Score": "core",
    "Sinusoids": "tasks.functions",
    "Task": "core",
    "TaskSpec": "core",
    "Validation": "evaluation.validation",
    "abstain": "evaluation.abstention",
    "calibrate": "evaluation.calibrate",
    "calibrate_on_support": "evaluation.calibrate",
    "classification": "answers.specs",
    "clustering": "answers.specs",
    "compare": "selection.comparing.compare",
    "contrastive": "learners.metric.siamese",
    "detection": "answers.specs",
    "episodes": "tasks.episodes",
    "evaluate": "evaluation.evaluate",
    "examples": "tasks.examples",
    "export": "files.export",
    "featurise": "backbones.pretrained.features",
    "fit": "training.fit",
    "frozen": "base.frozen",
    "judge_multitask": "evaluation.multitask",
    "judge_runs": "evaluation.multitask",
    "linear_contrastive": "learners.metric.siamese",
    "load": "files.storage",
    "multilabel": "answers.specs",
    "prediction_sets": "evaluation.prediction_sets",
    "pretrained": "backbones.pretrained.load",
    "negative_transfer": "evaluation.negative_transfer",
    "ranking": "answers.specs",
    "recommend": "selection.recommending.recommend",
    "regression": "answers.specs",
    "save": "files.storage",
    "segmentation": "answers.specs",
    "spans": "answers.specs",
    "spec": "answers.specs",
    "stranger_score": "evaluation.strangers",
    "tokens": "answers.specs",
    "transferability": "evaluation.transferability",
    "tune": "selection.tuning.tune",
    "verification": "learners.metric.siamese",
    "with_backbone": "learners.with_backbone",
}
_MODULES = {
    "answers": "answers",
    "backbones": "backbones",
    "balancing": "balancing",
    "datasets": "datasets",
    "distances": "learners.metric.distances",
    "heads": "learners.transfer.heads",
    "meta_gradients": "learners.gradient.meta_gradients",
    "optimisers": "training.optimisers",
    "relations": "relations",
    "schedules": "training.schedules",
    "tasks": "tasks",
    "testing": "testing",
    "training": "training",
    "transfer_scores": "evaluation.transfer_scores",
    "updates": "learners.gradient.descend",
}
"""Public name -> module path below ``quickstudy``, so that users need no deep imports."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"quickstudy.{_MODULES[name]}")
    value: Any
    if name == "__all__":
        value = sorted({"__version__", *_DEFINED_IN, *_MODULES, *_learner_modules()})
    elif name in _DEFINED_IN:
        value = getattr(import_module(f"quickstudy.{_DEFINED_IN[name]}"), name)
    elif not name.startswith("_") and name in (learners := _learner_modules()):
        value = getattr(import_module(learners[name]), name)
    else:
        raise AttributeError(f"module 'quickstudy' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))


def _learner_modules() -> dict[str, str]:
    """Learner class -> the module that defines it, read from the cards."""
    from quickstudy.learners.cards import cards

    return {card.class_name: card.home for card in cards().values()}
