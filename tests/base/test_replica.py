"""``call_with``: a module called with other weights in place of its parameters."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import quickstudy as qs
from made_up import clouds
from quickstudy.backbones import MLP, Conv4, ResNet12
from quickstudy.base.replica import Replica, call_with


def perturbed_weights(net: nn.Module) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(1)
    return {
        name: p.detach() + 0.1 * torch.randn(p.shape, generator=noise, dtype=p.dtype)
        for name, p in net.named_parameters()
    }


class SharedWeights(nn.Module):
    """One layer registered under two names, whose weight a third layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(3, 3)
        self.third = nn.Linear(3, 3)
        self.third.weight = self.first.weight
        self.none = None
        self.register_parameter("nothing", None)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.third(self.second(self.first(x)))
        return result


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (MLP(4, (8, 8), outputs=2), (4,)),
        (Conv4(8, outputs=5), (1, 28, 28)),
        (ResNet12((4, 4, 8, 8)), (3, 16, 16)),
        (nn.LSTM(4, 6), (4,)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_calling_with_weights_equals_loading_them(net: nn.Module, shape: tuple[int, ...]) -> None:
    own, weights, x = dict(net.named_parameters()), perturbed_weights(net), torch.randn(3, *shape)
    other = copy.deepcopy(net)
    other.load_state_dict(weights, strict=False)
    with torch.no_grad():
        found, expected, by_torch = (
            call_with(net, weights, x),
            other(x),
            functional_call(net, weights, x),
        )
    if isinstance(found, tuple):
        found, expected, by_torch = found[0], expected[0], by_torch[0]
    assert torch.equal(found, expected)
    assert torch.equal(found, by_torch)
    assert not torch.equal(found, net(x)[0] if isinstance(net, nn.LSTM) else net(x))
    for name, p in net.named_parameters():
        assert p is own[name]


@pytest.mark.parametrize("name", ["first.weight", "second.weight", "third.weight"])
def test_a_shared_parameter_is_replaced_in_every_layer(name: str) -> None:
    net, x, weight = (
        SharedWeights().double(),
        torch.randn(2, 3).double(),
        torch.randn(3, 3).double(),
    )
    own, bias, last = net.first.weight, net.first.bias, net.third.bias
    found = call_with(net, {name: weight}, x)
    expected = ((x @ weight.T + bias) @ weight.T + bias) @ weight.T + last
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert net.first.weight is own
    assert net.third.weight is own


def test_parameters_are_restored_after_an_error_and_when_given_under_two_names() -> None:
    net = SharedWeights()
    own = dict(net.named_parameters(remove_duplicate=False))
    weight = torch.randn(3, 3)
    with pytest.raises(RuntimeError):
        call_with(net, {"first.weight": weight}, torch.randn(2, 4))
    with pytest.raises(KeyError):
        call_with(net, {"third.bias": weight[0], "fourth.weight": weight}, torch.randn(2, 3))
    call_with(net, {"first.weight": weight, "third.weight": weight}, torch.randn(2, 3))
    for name, p in net.named_parameters(remove_duplicate=False):
        assert p is own[name]


def test_a_layer_replaced_after_a_call_is_used_in_the_next() -> None:
    net, x = MLP(4, (8,), outputs=2), torch.randn(3, 4)
    call_with(net, perturbed_weights(net), x)
    net.head = nn.Linear(8, 3)
    weights = perturbed_weights(net)
    features = net.layers[0](x).relu()
    layers = {name: p.detach() for name, p in net.named_parameters() if "layers" in name}
    found = call_with(net, weights | layers, x)
    expected = features @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(found, expected)


def test_vmap_grad_and_compile_use_the_given_weights() -> None:
    net, x = MLP(4, (8,), outputs=2).double(), torch.randn(3, 4).double()
    weights = perturbed_weights(net)

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        predictions: Tensor = call_with(net, weights, x)
        return predictions.square().sum()

    def by_torch(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, weights, x).square().sum()  # type: ignore[no-any-return]

    rows = x.unsqueeze(1)
    found = vmap(grad(loss), (None, 0))(weights, rows)
    expected = vmap(grad(by_torch), (None, 0))(weights, rows)
    compiled = torch.compile(loss, backend="eager")
    torch.testing.assert_close(compiled(weights, x), by_torch(weights, x))
    for name in weights:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)


class Holder:
    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


@dataclass(frozen=True, slots=True)
class Slotted:
    layer: nn.Module


class Unregistered(nn.Module):
    """A layer that the module calls through ``attribute``, which is no registration."""

    def __init__(self, attribute: Callable[[nn.Linear], Any], call: Callable[[Any, Tensor], Any]):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.attribute, self.call = attribute(self.layer), call

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.call(self.attribute, x)
        return result


Pair = namedtuple("Pair", ["first", "second"])
REFERENCES: dict[str, tuple[Callable[[nn.Linear], Any], Callable[[Any, Tensor], Any]]] = {
    "list": (lambda layer: [layer], lambda a, x: a[0](x)),
    "tuple in a dict": (lambda layer: {"a": (1, layer)}, lambda a, x: a["a"][1](x)),
    "ordered dict": (lambda layer: OrderedDict(a=layer), lambda a, x: a["a"](x)),
    "named tuple": (lambda layer: Pair(0, layer), lambda a, x: a.second(x)),
    "set": (lambda layer: {layer}, lambda a, x: next(iter(a))(x)),
    "bound method": (lambda layer: layer.forward, lambda a, x: a(x)),
    "list of bound methods": (lambda layer: [layer.forward], lambda a, x: a[0](x)),
    "partial": (lambda layer: partial(layer), lambda a, x: a(x)),
    "partial's argument": (
        lambda layer: partial(lambda module, x: module(x), layer), lambda a, x: a(x),
    ),
    "closure": (lambda layer: lambda x: layer(x), lambda a, x: a(x)),
    "default of a function": (lambda layer: lambda x, m=layer: m(x), lambda a, x: a(x)),
    "plain object": (lambda layer: Holder(layer), lambda a, x: a.layer(x)),
    "object in an object": (lambda layer: Holder(Holder(layer)), lambda a, x: a.layer.layer(x)),
    "object with slots": (lambda layer: Slotted(layer), lambda a, x: a.layer(x)),
    "weak reference": (lambda layer: weakref.ref(layer), lambda a, x: a()(x)),
    "deque": (lambda layer: deque([layer], 1), lambda a, x: a[0](x)),
    "key": (lambda layer: {layer: 1}, lambda a, x: next(iter(a))(x)),
    "parameters in a list": (
        lambda layer: [layer.weight, layer.bias], lambda a, x: nn.functional.linear(x, a[0], a[1]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFERENCES)
def test_weights_reach_layers_that_attributes_refer_to_without_registering_them(kind: str) -> None:
    net, x = Unregistered(*REFERENCES[kind]), torch.randn(2, 3)
    own, attribute = net(x), net.attribute
    replica = Replica(net)
    for shift in (1, 2):  # the reference must follow the weights of each call
        weights = {name: p.detach() + shift for name, p in net.named_parameters()}
        expected = x @ weights["layer.weight"].T + weights["layer.bias"]
        torch.testing.assert_close(replica(weights, x), expected)
    assert net.attribute is attribute
    assert torch.equal(net(x), own)


def test_weights_reach_compiled_modules_and_hooks() -> None:
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), torch.randn(2, 3)
    net[1].register_forward_pre_hook(lambda _, inputs: (inputs[0] * net[0].weight.sum(),))
    weights = perturbed_weights(net)
    hidden = (x @ weights["0.weight"].T + weights["0.bias"]) * weights["0.weight"].sum()
    expected = hidden @ weights["1.weight"].T + weights["1.bias"]
    torch.testing.assert_close(call_with(net, weights, x), expected)
    compiled = torch.compile(nn.Sequential(nn.Linear(3, 2)), backend="eager")
    weights = {name: torch.zeros_like(p) for name, p in compiled.named_parameters()}
    assert not call_with(compiled, weights, x).any()


def test_a_scripted_module_is_refused_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        net = nn.Sequential(torch.jit.script(nn.Linear(3, 3)))
    with pytest.raises(TypeError, match=r"scripted module.*Use the module that was scripted"):
        call_with(net, {}, torch.zeros(1, 3))


def test_long_containers_and_values_of_its_own_do_not_make_a_replica_slow_or_wrong() -> None:
    net = nn.Linear(3, 3)
    net.vocabulary = [str(i) for i in range(5000)]
    net.itself = [net]
    net.itself.append(net.itself)  # a list that contains itself
    found = call_with(net, {"bias": torch.zeros(3)}, torch.zeros(1, 3))
    assert not found.any()


def test_threads_that_evaluate_one_learner_leave_its_mode_alone() -> None:
    learner = qs.MAML(MLP(4, (6,), outputs=2), rate=0.1)
    learner.backbone.layers[0].eval()
    modes = [module.training for module in learner.modules()]
    source = clouds(ways=2)
    alone = qs.evaluate(learner, source, tasks=4)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: qs.evaluate(learner, source, tasks=4), range(8)))
    assert {result.mean for result in found} == {alone.mean}
    assert [module.training for module in learner.modules()] == modes
