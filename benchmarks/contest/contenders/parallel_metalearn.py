"""parallel-metalearn: ``step`` of its algorithms, which maps tasks with vmap, or one by one.

A step ends with an optimiser's, at a rate of zero here.
"""

from __future__ import annotations

from importlib import import_module
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contest.work import Contest, Method, NotOffered, Tasks, Weights, Workload, gradient_of, network

MAML = import_module("metalearn.algorithms").MAML
PrototypicalNetwork = import_module("metalearn.algorithms").PrototypicalNetwork
MAML_Model = import_module("metalearn.model_wrappers").MAML_Model
ProtoNet_Model = import_module("metalearn.model_wrappers").ProtoNet_Model
InnerSGD = import_module("metalearn.inner_optimizers").InnerSGD
BaseLoss = import_module("metalearn.loss.base").BaseLoss
BatchNorm = import_module("metalearn.nn_models.basic_layers.BatchNormalization").BatchNorm

TASKS_AT_ONCE = 8  # for images: all tasks of a step would take gigabytes; its default is 80


def vmapped(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """Its default: all tasks of a chunk at once."""
    return _prepare(work, weights, tasks, "vmap")


def sequential(work: Workload, weights: Weights, tasks: Tasks) -> Contest:
    """Its recommendation for large networks, and for many inner steps of second order."""
    return _prepare(work, weights, tasks, "sequential")


def _prepare(work: Workload, weights: Weights, tasks: Tasks, backend: str) -> Contest:
    if work.method is Method.REPTILE:
        raise NotOffered("its Reptile takes no minibatches: every inner step sees all rows")
    names = {name: _name(name) for name in weights}
    plain, loss = network(work), _Loss(work)
    if work.method is Method.PROTOTYPICAL:
        model = ProtoNet_Model(_Body(plain), work.ways, latent_dim=work.channels)
    else:
        model = MAML_Model(backbone=_Body(plain), head=_Head(plain.get_submodule("head")))
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict({names[name]: weight for name, weight in weights.items()})
    how = {
        "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.0),
        "backend": backend, "chunk_size": work.tasks if work.image is None else TASKS_AT_ONCE,
    }  # fmt: skip
    if work.method is Method.PROTOTYPICAL:
        algorithm = PrototypicalNetwork(loss_fn=loss, **how)
    else:
        inner = InnerSGD(
            model.get_fast_weights(), inner_lr=work.rate, learn_lr=False,
            first_order=work.method is Method.FOMAML, max_inner_steps=work.steps,
        )  # fmt: skip
        algorithm = MAML(
            inner_optimizer=inner, support_loss_fn=loss, inner_steps=work.steps, **how
        )  # fmt: skip
    same = repeat((
        tasks.support, {"labels": tasks.support_targets},
        tasks.query, {"labels": tasks.query_targets},
    ))  # fmt: skip

    def step() -> Weights:
        algorithm.step(same, training=True)
        found = gradient_of(model)
        return {name: found[own] for name, own in names.items()}

    return step


def _name(name: str) -> str:
    return name.replace("head.", "head.linear.") if name.startswith("head.") else f"backbone.{name}"


class _Body(nn.Module):
    """The network before its head, with norms of the library's own, which vmap can map."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        for name, part in plain.named_children():
            if name != "head":  # empty for a metric learner
                self.add_module(name, part)
        for module in list(self.modules()):
            for name, part in module.named_children():
                if isinstance(part, nn.BatchNorm2d):
                    norm = BatchNorm(part.num_features, track_running_stats=False)
                    setattr(module, name, norm)

    def forward(self, inputs: Tensor, **_: Any) -> Tensor:
        for part in self.children():
            inputs = part(inputs)
        return inputs


class _Head(nn.Module):
    """A linear layer that accepts the further arguments of the library's wrapper."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, features: Tensor, **_: Any) -> Tensor:
        result: Tensor = self.linear(features)
        return result


class _Loss(BaseLoss):  # type: ignore[misc, valid-type]
    """The workload's loss in the library's form; without a metric, as for all contenders."""

    def __init__(self, work: Workload) -> None:
        super().__init__()
        self.loss = F.mse_loss if work.image is None else F.cross_entropy

    def forward(
        self, out_dict: dict[str, Tensor], targets: dict[str, Tensor],
        model_states: Any = None, **_: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        loss = self.loss(out_dict["logits"], targets["labels"])
        return loss, loss.detach()
