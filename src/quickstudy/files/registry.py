"""Names of what can be built: learners, backbones, and the functions they are given.

Importing this module imports no torch, so that the command line lists names at once. Only what
stands here is ever built from a file or a command line: a loaded name cannot run foreign code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class LearnerCard:
    """What is known of a learner before it is imported."""

    name: str
    title: str
    family: str
    year: int
    paper: str
    learns: str
    target: str
    answers: bool = False
    """Whether its backbone ends in a head of the task's outputs, instead of giving features."""
    maps: bool = False
    """Whether, on images, it wants feature maps, (n, channels, height, width), for vectors."""


LEARNERS = {
    card.name: card
    for card in (
        LearnerCard(
            "prototypical", "Prototypical Networks", "metric", 2017, "Snell, Swersky and Zemel",
            "a feature space in which class means classify",
            "quickstudy.learners.metric.prototypical:Prototypical",
        ),
        LearnerCard(
            "siamese", "Siamese networks", "metric", 2015, "Koch, Zemel and Salakhutdinov",
            "a distance that is small within a class and large between classes",
            "quickstudy.learners.metric.siamese:Siamese",
        ),
        LearnerCard(
            "matching", "Matching Networks", "metric", 2016, "Vinyals et al.",
            "a feature space in which attention over the support rows classifies",
            "quickstudy.learners.metric.matching:Matching",
        ),
        LearnerCard(
            "relation", "Relation Networks", "metric", 2018, "Sung et al.",
            "features, and a network that compares them",
            "quickstudy.learners.metric.relation:Relation", maps=True,
        ),
        LearnerCard(
            "r2d2", "R2D2", "metric", 2019, "Bertinetto, Henriques, Torr and Vedaldi",
            "features on which ridge regression classifies, and its penalty",
            "quickstudy.learners.metric.r2d2:R2D2",
        ),
        LearnerCard(
            "meta_opt_net", "MetaOptNet", "metric", 2019,
            "Lee, Maji, Ravichandran and Soatto",
            "features on which a support vector machine classifies",
            "quickstudy.learners.metric.meta_opt_net:MetaOptNet",
        ),
        LearnerCard(
            "maml", "MAML", "gradient", 2017, "Finn, Abbeel and Levine",
            "an initialisation that a few gradient steps adapt",
            "quickstudy.learners.gradient.maml:MAML", answers=True,
        ),
        LearnerCard(
            "anil", "ANIL", "gradient", 2020, "Raghu, Raghu, Bengio and Vinyals",
            "features under a head that a few gradient steps adapt",
            "quickstudy.learners.gradient.anil:ANIL", answers=True,
        ),
        LearnerCard(
            "boil", "BOIL", "gradient", 2021, "Oh, Yoo, Kim and Yun",
            "a head, and features that a few gradient steps bring to it",
            "quickstudy.learners.gradient.boil:BOIL", answers=True,
        ),
        LearnerCard(
            "maml_plus_plus", "MAML++", "gradient", 2019, "Antoniou, Edwards and Storkey",
            "an initialisation, and a learning rate for each step and layer",
            "quickstudy.learners.gradient.maml_plus_plus:MAMLPlusPlus", answers=True,
        ),
        LearnerCard(
            "reptile", "Reptile", "gradient", 2018, "Nichol, Achiam and Schulman",
            "an initialisation near the weights that each task descends to",
            "quickstudy.learners.gradient.reptile:Reptile", answers=True,
        ),
        LearnerCard(
            "meta_sgd", "Meta-SGD", "gradient", 2017, "Li, Zhou, Chen and Li",
            "an initialisation, and a learning rate for each of its weights",
            "quickstudy.learners.gradient.meta_sgd:MetaSGD", answers=True,
        ),
        LearnerCard(
            "cavia", "CAVIA", "gradient", 2019, "Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson",
            "a network that a small adapted context vector steers",
            "quickstudy.learners.gradient.cavia:CAVIA", answers=True,
        ),
        LearnerCard(
            "proto_maml", "Proto-MAML", "gradient", 2020, "Triantafillou and others",
            "features whose class means start a head that gradient steps improve",
            "quickstudy.learners.gradient.proto_maml:ProtoMAML",
        ),
        LearnerCard(
            "lstm_meta_learner", "LSTM meta-learner", "gradient", 2017, "Ravi and Larochelle",
            "an initialisation and the rule that updates it, an LSTM's gates",
            "quickstudy.learners.gradient.lstm_meta_learner:LSTMMetaLearner", answers=True,
        ),
        LearnerCard(
            "mann", "MANN", "memory", 2016, "Santoro et al.",
            "a controller that binds late labels to rows in an external memory",
            "quickstudy.learners.memory.mann:MANN",
        ),
        LearnerCard(
            "memory_network", "Memory Network", "memory", 2015, "Sukhbaatar et al.",
            "questions to the support set, refined in several hops",
            "quickstudy.learners.memory.memory_network:MemoryNetwork",
        ),
        LearnerCard(
            "meta_networks", "Meta Networks", "memory", 2017, "Munkhdalai and Yu",
            "slow weights, and maps from gradients to fast ones beside them",
            "quickstudy.learners.memory.meta_networks:MetaNetworks",
        ),
        LearnerCard(
            "snail", "SNAIL", "memory", 2018, "Mishra, Rohaninejad, Chen and Abbeel",
            "temporal convolutions and attention that read the support as a sequence",
            "quickstudy.learners.memory.snail:SNAIL",
        ),
        LearnerCard(
            "in_context", "In-context learner", "memory", 2022,
            "Kirsch, Harrison, Sohl-Dickstein and Metz",
            "a transformer that reads the support as a set",
            "quickstudy.learners.memory.in_context:InContext",
        ),
        LearnerCard(
            "conditional_neural_process", "Conditional Neural Process", "memory", 2018,
            "Garnelo et al.",
            "an encoder of the support, and a decoder that says how sure it is",
            "quickstudy.learners.memory.neural_process:ConditionalNeuralProcess",
        ),
        LearnerCard(
            "attentive_neural_process", "Attentive Neural Process", "memory", 2019, "Kim et al.",
            "what each query reads of the support, and a decoder that says how sure it is",
            "quickstudy.learners.memory.neural_process:AttentiveNeuralProcess",
        ),
        LearnerCard(
            "linear_probe", "Linear probe", "transfer", 2016, "Alain and Bengio",
            "features on which a closed-form linear head classifies",
            "quickstudy.learners.transfer.linear_probe:LinearProbe",
        ),
    )
}  # fmt: skip

BACKBONES = {
    "conv4": "quickstudy.backbones.conv4:Conv4",
    "resnet12": "quickstudy.backbones.resnet12:ResNet12",
    "mlp": "quickstudy.backbones.mlp:MLP",
}

FUNCTIONS = {
    "squared_euclidean": "quickstudy.learners.metric.distances:squared_euclidean",
    "cosine": "quickstudy.learners.metric.distances:cosine",
    "contrastive": "quickstudy.learners.metric.siamese:contrastive",
    "linear_contrastive": "quickstudy.learners.metric.siamese:linear_contrastive",
    "verification": "quickstudy.learners.metric.siamese:verification",
    "sgd": "quickstudy.learners.gradient.descend:sgd",
    "ridge": "quickstudy.learners.transfer.heads:ridge",
    "logistic": "quickstudy.learners.transfer.heads:logistic",
    "cross_entropy": "quickstudy.tasks.examples:cross_entropy",
    "squared_error": "quickstudy.tasks.examples:squared_error",
}

PARTS = {
    "momentum": "quickstudy.learners.gradient.descend:Momentum",
    "adam": "quickstudy.learners.gradient.descend:Adam",
    "exact": "quickstudy.learners.gradient.meta_gradients:Exact",
    "first_order": "quickstudy.learners.gradient.meta_gradients:FirstOrder",
    "finite_difference": "quickstudy.learners.gradient.meta_gradients:FiniteDifference",
    "implicit": "quickstudy.learners.gradient.meta_gradients:Implicit",
    "annealed": "quickstudy.learners.gradient.annealed:Annealed",
}
"""Small classes that learners are given: inner optimisers, ways of the meta-gradient."""

_TARGETS = {name: card.target for name, card in LEARNERS.items()} | BACKBONES | FUNCTIONS | PARTS
_NAMES = {target: name for name, target in _TARGETS.items()}


def nearest(kind: str, name: str, valid: Mapping[str, Any]) -> ValueError:
    """The error for an unknown ``name``: it lists the valid ones, the closest first."""
    close = get_close_matches(name.lower().replace("-", "_"), valid, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return ValueError(f"{kind}: {name!r} is unknown. {hint}Valid names: {', '.join(valid)}.")


def resolve(kind: str, name: str, valid: Mapping[str, Any]) -> Any:
    """The class or function called ``name``; ValueError names the nearest valid ones."""
    if name not in valid:
        raise nearest(kind, name, valid)
    module, attribute = _TARGETS[name].split(":")
    return getattr(import_module(module), attribute)


def describe(thing: Any) -> Any:
    """A learner, backbone or function as JSON from which :func:`build` makes it again.

    Constructors keep their arguments as attributes of the same names, as scikit-learn's do.
    Raises ValueError for anything that is not in this registry, and for a module whose parts were
    changed after it was made, which no arguments tell of.
    """
    description = _describe(thing)
    if isinstance(description, dict) and "name" in description:
        rebuilt, found = repr(build_empty(description)).splitlines(), repr(thing).splitlines()
        if rebuilt != found:
            changed = next((line.strip() for line in found if line not in rebuilt), "its parts")
            raise ValueError(
                f"describe: this {type(thing).__name__} was changed after it was made ({changed}), "
                "so it cannot be rebuilt from a file. Keep the code that changes it, and give the "
                "learner when loading."
            )
    return description


def _describe(thing: Any) -> Any:
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, (list, tuple)):
        return [_describe(item) for item in thing]
    of = thing if inspect.isfunction(thing) else type(thing)
    name = _NAMES.get(f"{of.__module__}:{of.__qualname__}")
    if name is None:
        raise ValueError(
            f"describe: {of.__module__}.{of.__qualname__} is not one of quickstudy's own, so it "
            "cannot be rebuilt from a file. Keep the code that builds it, and give the learner "
            "when loading."
        )
    if inspect.isfunction(thing):
        return {"function": name}
    arguments = list(inspect.signature(of).parameters)
    return {"name": name, **{a: _describe(getattr(thing, a)) for a in arguments}}


def build(description: Any) -> Any:
    """What :func:`describe` described; parameters are freshly initialised.

    Raises ValueError for names that are not in this registry, and for arguments of another kind
    than the constructor says.
    """
    if isinstance(description, list):
        return tuple(build(item) for item in description)
    if not isinstance(description, dict):
        return description
    if "function" in description:
        return resolve("function", str(description["function"]), FUNCTIONS)
    arguments = {k: build(v) for k, v in description.items() if k != "name"}
    name = str(description.get("name"))
    of = resolve("build", name, {**LEARNERS, **BACKBONES, **PARTS})
    kinds = get_type_hints(of.__init__)
    for argument, value in arguments.items():
        if argument not in kinds or not _is_a(value, kinds[argument]):
            raise ValueError(f"build: {name} takes no {argument}={value!r}.")
    return of(**arguments)


def build_empty(description: Any) -> Any:
    """Like :func:`build`, with parameters of shape and type alone.

    Takes no memory, however large a file says that they are, and no random numbers.
    """
    import torch

    with torch.device("meta"):
        return build(description)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of the annotated ``kind``, for those that constructors here use."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in parts)
    if origin is Callable:
        return callable(value)
    if origin in (tuple, Sequence):
        return isinstance(value, tuple) and all(_is_a(item, parts[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)
