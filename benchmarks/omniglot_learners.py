"""How each learner is trained for the Omniglot table, and what its paper reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

import quickstudy as qs
from quickstudy.learners.gradient.meta_gradients import FirstOrder, Implicit
from quickstudy.training.optimisers import sgd

Figures = tuple[float | None, float | None, float | None]
"""Published accuracy in percent: 5-way 1-shot, 5-way 5-shot, 20-way 1-shot."""


@dataclass(frozen=True)
class Entry:
    """One learner's row.

    ``make``        (Conv4, most ways, shots of a test) -> learner.
    ``published``   by its paper or, as the note says, by another.
    ``head``        whether the Conv4 ends in a head.
    ``train_ways``  ways of the one training for all columns; None: one training for each number of
                    ways, at 1 shot, also for the 5-shot column.
    ``own_shots``   whether the 5-shot column has a separate training.
    """

    title: str
    make: Callable[[nn.Module, int, int], qs.Learner]
    published: Figures
    head: bool = False
    train_ways: int | None = None
    own_shots: bool = False
    queries: int = 5
    tasks_per_step: int = 1
    rate: float = 1e-3
    norm: str = "group"
    optimiser: Callable[[Iterable[Tensor]], Optimizer] | None = None
    note: str = ""

    def outputs(self, ways: int) -> int | None:
        """Size of the Conv4's head."""
        return ways if self.head else None


# Settings of metric learners: 20-way tasks, used for all columns.
_METRIC: dict[str, Any] = {"train_ways": 20}
# Gradient learners use the outer steps that were best for MAML on training tasks in two CPU
# minutes: with 2 tasks a step at rate 0.002 it reaches 87%, with 4 at 0.001 76%.
_PACE: dict[str, Any] = {"queries": 3, "tasks_per_step": 2, "rate": 2e-3}
_GRADIENT: dict[str, Any] = {"head": True, **_PACE}
_NONE: Figures = (None, None, None)

# Without a note, the figure is of the learner's own paper and, as far as is known, inductive.
ENTRIES = {
    "siamese": Entry(
        "Siamese", lambda net, ways, _: qs.Siamese(net), (97.3, 98.4, 88.1), **_METRIC,
        note="published: Koch et al. (2015), fine-tuned, in Vinyals et al. (2016), table 1",
    ),
    "matching": Entry(
        "Matching", lambda net, ways, _: qs.Matching(net), (98.1, 98.9, 93.8), **_METRIC
    ),
    "prototypical": Entry(
        "Prototypical", lambda net, ways, _: qs.Prototypical(net), (98.8, 99.7, 96.0), **_METRIC,
        note="published: trained at 60 ways",
    ),
    "relation": Entry(
        "Relation", lambda net, ways, _: qs.Relation(qs.backbones.Conv4(pools=2, flat=False)),
        (99.6, 99.8, 97.6), train_ways=5,
        note="a Conv4 that pools twice, as the paper's, so that maps are compared; "
        "published: transductive, by its code",
    ),
    "r2d2": Entry(
        "R2D2", lambda net, ways, _: qs.R2D2(net), (98.6, 99.7, 94.7), **_METRIC,
        note="published: trained at 60 ways, its network of 64 channels",
    ),
    "meta_opt_net": Entry(
        "MetaOptNet-SVM", lambda net, ways, _: qs.MetaOptNet(net), _NONE, **_METRIC
    ),
    "maml": Entry(
        "MAML", lambda net, ways, _: qs.MAML(net, 1, 0.4), (98.7, 99.9, 95.8), **_GRADIENT,
        note="published: transductive",
    ),
    "fomaml": Entry(
        "FOMAML", lambda net, ways, _: qs.MAML(net, 5, 0.1, FirstOrder()), (98.3, 99.2, 89.4),
        **_GRADIENT, note="published: transductive, in Nichol et al. (2018), table 2",
    ),
    "imaml": Entry(
        "iMAML", lambda net, ways, _: qs.MAML(net, 8, 0.1, Implicit(solver_steps=2, damping=22)),
        (99.5, 99.74, 96.18),
        **_GRADIENT, note="published: Rajeswaran et al. (2019), Hessian-free; transductive",
    ),
    "anil": Entry(
        "ANIL", lambda net, ways, _: qs.ANIL(net, 1, 0.4), (None, None, 96.2), **_GRADIENT,
        note="published: in MAML's setting, so presumably transductive; its paper's MAML has 93.7",
    ),
    "boil": Entry("BOIL", lambda net, ways, _: qs.BOIL(net, 1, 0.4), _NONE, **_GRADIENT),
    "reptile": Entry(
        "Reptile", lambda net, ways, _: qs.Reptile(net), (95.4, 98.9, 88.1),
        head=True, queries=9, tasks_per_step=5, optimiser=sgd(1.0),
    ),
    "meta_sgd": Entry(
        "Meta-SGD", lambda net, ways, _: qs.MetaSGD(net), (99.5, 99.9, 95.9), **_GRADIENT,
        note="published: in MAML's setting, so presumably transductive",
    ),
    "maml_plus_plus": Entry(
        "MAML++", lambda net, ways, _: qs.MAMLPlusPlus(net), (99.47, 99.93, 97.65), **_GRADIENT,
        note="published: transductive",
    ),
    "cavia": Entry(
        "CAVIA", lambda net, ways, _: qs.CAVIA(net, 100, 2, 30.0, "blocks.2.norm", film=True),
        _NONE, **_GRADIENT,
    ),
    "proto_maml": Entry(
        "ProtoMAML", lambda net, ways, _: qs.ProtoMAML(net), _NONE, **_PACE
    ),
    "lstm_meta_learner": Entry(
        "LSTM meta-learner", lambda net, ways, _: qs.LSTMMetaLearner(net), _NONE, **_GRADIENT
    ),
    "mann": Entry(
        "MANN", lambda net, ways, _: qs.MANN(net, ways), (82.8, 94.9, None), own_shots=True,
        note="published: the second and the fifth instance of a class in one sequence",
    ),
    "memory_network": Entry(
        "Memory network", lambda net, ways, _: qs.MemoryNetwork(net), _NONE, **_METRIC
    ),
    "meta_networks": Entry(
        "Meta networks", lambda net, ways, _: qs.MetaNetworks(net, ways), (98.95, None, 97.0),
    ),
    "snail": Entry(
        "SNAIL", lambda net, ways, shots: qs.SNAIL(net, ways, ways * shots + 1),
        (99.07, 99.78, 97.64), own_shots=True,
    ),
    "in_context": Entry("In-context transformer", lambda net, ways, _: qs.InContext(net), _NONE),
    "linear_probe": Entry(
        "Linear probe (ridge)", lambda net, ways, _: qs.LinearProbe(net), _NONE, **_METRIC
    ),
}  # fmt: skip
