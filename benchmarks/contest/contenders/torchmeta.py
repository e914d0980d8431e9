"""torchmeta: ``gradient_update_parameters`` and ``prototypical_loss``, as its examples use them."""

from __future__ import annotations

from collections import OrderedDict
from importlib import import_module

from torch import Tensor, nn

from contest.work import (
    Contest,
    Method,
    Tasks,
    Weights,
    Workload,
    gradient_of,
    loaded,
    loss_of,
    network,
    only,
)

modules = import_module("torchmeta.modules")
gradient_update_parameters = import_module("torchmeta.utils").gradient_update_parameters
prototypes = import_module("torchmeta.utils.prototype")


def loop(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """One task after the other."""
    only(work, Method.MAML, Method.FOMAML, Method.PROTOTYPICAL, library="torchmeta")
    return (_metric if work.method is Method.PROTOTYPICAL else _adapted)(work, weights, tasks)


def _metric(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """One task in each call: in one call for all tasks, batch norm would mix them."""
    net = loaded(work, weights)

    def step() -> Weights:
        net.zero_grad()
        for task in tasks.each():
            support, query = net(task.support).unsqueeze(0), net(task.query).unsqueeze(0)
            ids, query_ids = task.support_targets.unsqueeze(0), task.query_targets.unsqueeze(0)
            means = prototypes.get_prototypes(support, ids, work.ways)
            (prototypes.prototypical_loss(means, query, query_ids) / work.tasks).backward()
        return gradient_of(net)

    return step


def _adapted(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """The updated parameters are given to each call."""
    net = _Body(network(work)).to(next(iter(weights.values())).dtype)
    net.load_state_dict(weights)
    loss, first_order = loss_of(work), work.method is Method.FOMAML

    def step() -> Weights:
        net.zero_grad()
        for task in tasks.each():
            fast = None
            for _ in range(work.steps):
                inner = loss(net(task.support, params=fast), task.support_targets)
                fast = gradient_update_parameters(
                    net, inner, params=fast, step_size=work.rate, first_order=first_order
                )
            outer = loss(net(task.query, params=fast), task.query_targets)
            (outer / work.tasks).backward()
        return gradient_of(net)

    return step


class _Body(modules.MetaModule):  # type: ignore[name-defined, misc]
    """The network with every layer that has parameters replaced by torchmeta's own."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.parts = [name for name, _ in plain.named_children()]
        for name, part in plain.named_children():
            self.add_module(name, _translated(part))

    def forward(self, inputs: Tensor, params: OrderedDict[str, Tensor] | None = None) -> Tensor:
        body, head = (self.get_submodule(name) for name in self.parts)
        of_body, of_head = (self.get_subdict(params, name) for name in self.parts)
        answers: Tensor = head(body(inputs, params=of_body).flatten(1), params=of_head)
        return answers


def _translated(module: nn.Module) -> nn.Module:
    found: nn.Module = module
    if isinstance(module, nn.Sequential):
        parts = ((name, _translated(part)) for name, part in module.named_children())
        found = modules.MetaSequential(OrderedDict(parts))
    elif isinstance(module, nn.Conv2d):
        sizes = (module.in_channels, module.out_channels, 3)
        found = modules.MetaConv2d(*sizes, padding=1, bias=False)
    elif isinstance(module, nn.BatchNorm2d):
        found = modules.MetaBatchNorm2d(module.num_features, track_running_stats=False)
    elif isinstance(module, nn.Linear):
        found = modules.MetaLinear(module.in_features, module.out_features)
    return found
