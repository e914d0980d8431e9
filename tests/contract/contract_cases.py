"""Learners on which the contract is tested, and the comparison with their exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import quickstudy as qs
from made_up import PixelNet, clouds, random_classes
from quickstudy.backbones import MLP, Conv4
from quickstudy.base.errors import BrokenLaw
from quickstudy.contract.check import LAWS, applicable, doubled
from quickstudy.core import Examples, Learner, Task, TaskSource
from quickstudy.learners.gradient.descend import Adam, Momentum
from quickstudy.learners.gradient.meta_gradients import (
    Exact,
    FiniteDifference,
    FirstOrder,
    Implicit,
)
from quickstudy.learners.metric.distances import cosine
from quickstudy.learners.metric.siamese import linear_contrastive, verification
from quickstudy.learners.transfer.heads import logistic, ridge
from quickstudy.learners.transfer.starting_heads import zero_head
from quickstudy.tasks.numbering import draw

Net = Callable[..., nn.Module]
WAYS = 3

CLASSIFIERS: dict[str, Callable[[Net], Learner]] = {
    "prototypical": lambda net: qs.Prototypical(net()),
    "prototypical, cosine": lambda net: qs.Prototypical(net(), cosine, scale=10),
    "siamese": lambda net: qs.Siamese(net()),
    "siamese, linear": lambda net: qs.Siamese(net(), linear_contrastive),
    "siamese, verification": lambda net: qs.Siamese(net(), verification),
    "matching": lambda net: qs.Matching(net()),
    "matching, full context": lambda net: qs.Matching(net(), reads=2),
    "relation": lambda net: qs.Relation(net()),
    "relation, maps": lambda net: qs.Relation(net(pools=2, flat=False)),
    "r2d2": lambda net: qs.R2D2(net()),
    "meta_opt_net": lambda net: qs.MetaOptNet(net()),
    "mann": lambda net: qs.MANN(net(), WAYS, hidden=8, slots=16, width=6, reads=2),
    "lstm": lambda net: qs.LSTM(net(), WAYS, hidden=8),
    "memory_network": lambda net: qs.MemoryNetwork(net(), width=8),
    "memory_network, key-value": lambda net: qs.MemoryNetwork(net(), width=8, key_value=True),
    "memory_network, one hop": lambda net: qs.MemoryNetwork(net(), hops=1, width=8),
    "meta_networks": lambda net: qs.MetaNetworks(net(), outputs=WAYS, hidden=8),
    "probe, ridge": lambda net: qs.LinearProbe(net(), ridge),
    "probe, logistic": lambda net: qs.LinearProbe(net(), logistic),
    "fine_tune, last layer by batches": lambda net: qs.FineTune(
        net(), "last:1", zero_head, steps=3, rate=0.1, batch=4
    ),
    "maml": lambda net: qs.MAML(net(outputs=WAYS), rate=0.1),
    "maml, 2 steps, first order": lambda net: qs.MAML(net(outputs=WAYS), 2, 0.1, FirstOrder()),
    "maml, recomputed": lambda net: qs.MAML(net(outputs=WAYS), 2, 0.1, Exact(recompute=True)),
    "maml, differences": lambda net: qs.MAML(net(outputs=WAYS), 2, 0.1, FiniteDifference()),
    "maml, implicit": lambda net: qs.MAML(net(outputs=WAYS), 2, 0.1, Implicit()),
    "maml, adam, clipped": lambda net: qs.MAML(net(outputs=WAYS), 2, 0.01, update=Adam(), clip=1.0),
    "maml, learnt rates": lambda net: qs.MAML(
        net(outputs=WAYS), 2, 0.1, update=Momentum(), clip=1.0, learn_rates=True
    ),
    "maml++": lambda net: qs.MAMLPlusPlus(net(outputs=WAYS), 2, 0.1),
    "anil": lambda net: qs.ANIL(net(outputs=WAYS), 2, 0.1),
    "boil": lambda net: qs.BOIL(net(outputs=WAYS), 2, 0.1),
    "maml, head only": lambda net: qs.MAML(net(outputs=WAYS), 2, 0.1, adapts=("head.*",)),
    "reptile": lambda net: qs.Reptile(net(outputs=WAYS), 2, 0.01, test_steps=3),
    "meta_sgd": lambda net: qs.MetaSGD(net(outputs=WAYS)),
    "meta_sgd, head only": lambda net: qs.MetaSGD(net(outputs=WAYS), adapts="head.*"),
    "cavia": lambda net: qs.CAVIA(net(outputs=WAYS), steps=2),
    "cavia, film": lambda net: qs.CAVIA(net(outputs=WAYS), at="blocks.2.norm", film=True),
    "proto_maml": lambda net: qs.ProtoMAML(net(), steps=2),
    "proto_maml, a part at learnt rates": lambda net: qs.ProtoMAML(
        net(), steps=2, adapts="blocks.3.*", learn_rates=True
    ),
    "lstm_meta_learner": lambda net: qs.LSTMMetaLearner(net(outputs=WAYS), steps=2, hidden=4),
    "snail": lambda net: qs.SNAIL(net(), length=2 * WAYS + 1, filters=8),
    "in context": lambda net: qs.InContext(net(), size=8, heads=2),
    "conditional neural process": lambda net: qs.ConditionalNeuralProcess(net(), size=8),
    "attentive neural process": lambda net: qs.AttentiveConditionalNeuralProcess(
        net(), size=8, heads=2
    ),
}

OF_VECTORS = {
    name for name in CLASSIFIERS
    if name.startswith("maml, ") or name in (
        "prototypical, cosine", "siamese, linear", "siamese, verification",
        "matching, full context", "memory_network, key-value", "memory_network, one hop",
        "probe, logistic", "meta_sgd, head only", "fine_tune, last layer by batches",
    )
}  # fmt: skip
"""Variants that have nothing to do with pictures, which would cost them most of their time."""

NORMS = ("group", "batch", "support", "running")
ONE_OF_A_FAMILY = ("prototypical", "maml", "snail", "probe, ridge")
CLASSIFIER_CASES = [
    (name, norm)
    for name in CLASSIFIERS
    for norm in (NORMS if name in ONE_OF_A_FAMILY else NORMS[:1])
    if (name, norm) != ("maml", "running")  # refused: tests/learners
]
"""All norms for one learner of each family, the default one for the others."""


def small() -> MLP:
    return MLP(4, (6, 6))


def small_with_head(outputs: int) -> MLP:
    return MLP(4, (6, 6), outputs=outputs)


VECTORS: dict[str, Callable[[int], Learner]] = {
    "meta_networks": lambda k: qs.MetaNetworks(small(), outputs=k, hidden=8),
    "probe, ridge": lambda k: qs.LinearProbe(small(), ridge),
    "mean_regularised": lambda k: qs.MeanRegularised(small(), outputs=k),
    "mean_regularised, offsets": lambda k: qs.MeanRegularised(small(), outputs=k, l2_offset=3.0),
    "trace_norm": lambda k: qs.TraceNorm(small()),
    "fine_tune": lambda k: qs.FineTune(small(), head=zero_head, steps=2),
    "maml": lambda k: qs.MAML(small_with_head(k), steps=2, rate=0.01),
    "maml, first order": lambda k: qs.MAML(small_with_head(k), 2, 0.01, FirstOrder()),
    "maml, implicit": lambda k: qs.MAML(small_with_head(k), 2, 0.01, Implicit()),
    "maml++": lambda k: qs.MAMLPlusPlus(small_with_head(k), 2, 0.01),
    "anil": lambda k: qs.ANIL(small_with_head(k), 2, 0.01),
    "boil": lambda k: qs.BOIL(small_with_head(k), 2, 0.01),
    "reptile": lambda k: qs.Reptile(small_with_head(k), 2, 0.01, test_steps=3),
    "meta_sgd": lambda k: qs.MetaSGD(small_with_head(k), steps=2),
    "cavia": lambda k: qs.CAVIA(small_with_head(k)),
    "lstm_meta_learner": lambda k: qs.LSTMMetaLearner(small_with_head(k), 2, hidden=4),
    "mann": lambda k: qs.MANN(small(), k, hidden=8, slots=16, width=6, reads=2),
    "lstm": lambda k: qs.LSTM(small(), k, hidden=8),
    "snail": lambda k: qs.SNAIL(small(), outputs=k, filters=8),
    "in context": lambda k: qs.InContext(small(), size=8, heads=2),
    "conditional neural process": lambda k: qs.ConditionalNeuralProcess(small(), 8),
    "attentive neural process": lambda k: qs.AttentiveConditionalNeuralProcess(small(), 8, 2),
}
"""Learners of vectors of ``k`` targets."""


def classifier(name: str, norm: str = "group") -> Learner:
    torch.manual_seed(0)

    def net(**options: Any) -> nn.Module:
        if name in OF_VECTORS:
            return MLP(4, (6, 6), **options)
        return Conv4(channels=4, norm=norm, image_size=16, **options)

    return CLASSIFIERS[name](net).double().eval()


def of_vectors(name: str, outputs: int = 1) -> Learner:
    torch.manual_seed(0)
    return VECTORS[name](outputs).double().eval()


def of_pixels(steps: int = 2) -> Learner:
    torch.manual_seed(0)
    return qs.MAML(PixelNet(), steps, 0.1).double().eval()


def pictures(ways: int = WAYS, shots: int = 2) -> TaskSource:
    return qs.episodes(random_classes(), ways, shots, queries=2, shuffled=True)


def pictures_with_numbers() -> TaskSource:
    """The number of a picture's class, and noise, as a real target: for learners of reals alone."""
    source = pictures()

    def drawn(generator: torch.Generator) -> Task:
        task = source(generator)

        def numbered(rows: Examples) -> Examples:
            noise = 0.1 * torch.randn(len(rows.targets), 1, generator=generator)
            return rows._replace(targets=rows.targets.unsqueeze(-1) + noise)

        return Task(numbered(task.support), numbered(task.query), qs.regression())

    return drawn


def source_for(name: str, ways: int = WAYS, shots: int = 2) -> TaskSource:
    """Tasks that the classifier of this name takes."""
    return clouds(ways, shots) if name in OF_VECTORS else pictures(ways, shots)


def misjudged(learner: Learner, source: TaskSource) -> dict[str, str]:
    """Laws that are broken but not excepted, and exceptions that are not needed."""
    task = doubled(draw(source, 0, 0))
    found = {}
    kept = applicable(learner)
    for name, law in LAWS.items():
        if name not in kept and name not in learner.exceptions:
            continue  # waived
        try:
            law(learner, task)
        except BrokenLaw as error:
            if name not in learner.exceptions:
                found[name] = str(error)
        else:
            if name in learner.exceptions:
                found[name] = "excepted, but kept"
    return found
