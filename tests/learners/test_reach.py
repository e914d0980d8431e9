"""Networks whose parameters adapted weights cannot replace are refused by the parameters' names."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.core import Learner
from quickstudy.tasks.numbering import draw

SOURCE = qs.Sinusoids(4, 3)
TASK = draw(SOURCE, 0, 0)


STORE: list[Tensor] = []


class Variable:
    """Names a tensor of a store outside of the module, as other frameworks do."""

    def __init__(self, value: Tensor) -> None:
        self.place = len(STORE)
        STORE.append(value)

    @property
    def value(self) -> Tensor:
        return STORE[self.place]


class KerasLike(nn.Module):
    """Registers its variables as parameters, but computes with the variables themselves."""

    def __init__(self) -> None:
        super().__init__()
        first = Variable(nn.Parameter(torch.randn(1, 4)))
        second = Variable(nn.Parameter(torch.randn(4, 1)))
        self.variables = (first, second)
        self.torch_params = nn.ParameterDict({"first": first.value, "second": second.value})

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.variables
        result: Tensor = (x @ first.value).tanh() @ second.value
        return result


class ByReference(nn.Linear):
    """Reads its weight through a reference that no copy follows."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.weakly = weakref.ref(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weakly()
        assert weight is not None
        return x @ weight.T + self.bias


GLOBAL: dict[str, nn.Parameter] = {}


class Global(nn.Module):
    """Reads its weight from a variable of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = GLOBAL["weight"] = nn.Parameter(torch.randn(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x @ GLOBAL["weight"]


class Cached(nn.Module):
    """Computes with what it once computed from its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 1))
        self.twice = 2 * self.weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.twice


class CachedWhenCalled(nn.Module):
    """Computes with what its first call computed from its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 1))

    @cached_property
    def twice(self) -> Tensor:
        return 2 * self.weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.twice


UNREACHED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "Keras-like": (KerasLike, r"place of torch_params\.first, torch_params\.second, since"),
    "a part": (lambda: nn.Sequential(nn.Linear(1, 1), KerasLike()), r"of 1\.torch_params\.first"),
    "weak reference": (ByReference, "place of weight, since forward"),
    "global": (Global, "place of weight"),
    "cached": (Cached, "place of weight"),
    "cached when called": (CachedWhenCalled, "place of weight"),
}

LEARNERS: dict[str, Callable[[nn.Module], Learner]] = {
    "maml": lambda net: qs.MAML(net, 1, 0.01),
    "maml, first order": lambda net: qs.MAML(net, 1, 0.01, qs.meta_gradients.FirstOrder()),
    "maml++": lambda net: qs.MAMLPlusPlus(net, 2, 0.01),
    "reptile": lambda net: qs.Reptile(net, 2, 0.01),
    "meta_sgd": lambda net: qs.MetaSGD(net),
    "lstm": lambda net: qs.LSTMMetaLearner(net, steps=1, hidden=4),
}


@pytest.mark.parametrize("name", UNREACHED)
@pytest.mark.parametrize("kind", LEARNERS)
def test_calling_such_a_learner_is_refused_by_name(name: str, kind: str) -> None:
    make, message = UNREACHED[name]
    learner = LEARNERS[kind](make())
    for _ in range(2):  # it is not forgotten after the first time
        with pytest.raises(ValueError, match=message):
            learner(TASK.support, TASK.spec)


@pytest.mark.parametrize("name", UNREACHED)
def test_fit_and_evaluate_refuse_it_too(name: str) -> None:
    make, message = UNREACHED[name]
    with pytest.raises(ValueError, match=message):
        qs.fit(qs.MAML(make(), 1, 0.01), SOURCE, 1, 2, progress=False)
    with pytest.raises(ValueError, match=message):
        qs.evaluate(qs.MAML(make(), 1, 0.01), SOURCE, 2)


def closure() -> nn.Module:
    class Closure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer = nn.Linear(1, 1)
            self.call = lambda x: layer(x)

        def forward(self, x: Tensor) -> Any:
            return self.call(x)

    return Closure()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.core(x[:, None])[0][:, -1])
        return result


REACHED: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)),
    "closure": closure,
    "recurrent": Recurrent,
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(1, 1)),
    "data parallel": lambda: nn.DataParallel(nn.Linear(1, 1)),
    "a frozen part is Keras-like": lambda: nn.Sequential(qs.frozen(KerasLike()), nn.Linear(1, 1)),
    "an unused part": lambda: qs.backbones.MLP(1, (4,), outputs=1),
}


@pytest.mark.parametrize("name", REACHED)
def test_networks_whose_weights_can_be_replaced_adapt(name: str) -> None:
    learner = qs.MAML(REACHED[name](), 1, 0.5)
    predictor = learner(TASK.support, TASK.spec)
    with torch.no_grad():
        before = learner.backbone(TASK.query.inputs)
    assert not torch.allclose(predictor(TASK.query.inputs), before)


def test_a_part_that_is_left_out_of_adapting_may_be_unreachable() -> None:
    net = nn.Sequential(KerasLike(), nn.Linear(1, 1))
    learner = qs.MAML(net, 1, 0.1, adapts="1.*")
    assert learner(TASK.support, TASK.spec)(TASK.query.inputs).isfinite().all()


def test_the_test_changes_no_statistics_and_runs_once() -> None:
    calls = []

    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(1, 1)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            self.get_buffer("count").add_(1)
            return super().forward(x)

    learner = qs.MAML(Counting(), 1, 0.1).eval()
    learner(TASK.support, TASK.spec)
    first, counted = len(calls), float(learner.backbone.get_buffer("count"))
    learner(TASK.support, TASK.spec)
    assert first - counted == 2  # the test computes on copies of the buffers
    assert len(calls) - first == first - 2
