"""``qs.frozen``: a module that stays in evaluation mode, and whose parameters do not move."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones.norms import norm_policy
from quickstudy.base.frozen import frozen_names, is_frozen
from quickstudy.base.replica import replica_of
from quickstudy.core import Learner
from quickstudy.files.registry import build, describe
from quickstudy.tasks.numbering import draw

ROWS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
SOURCE = qs.episodes(qs.LabelledRows.from_labels(ROWS, [i % 6 for i in range(60)]), 3, 2, 2)


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8))


def stays(module: nn.Module) -> bool:
    """Whether no way of asking for training mode changes any part."""
    module.train()
    for part in module.modules():
        part.train()
    return not any(part.training for part in module.modules())


def by_pickle(module: nn.Module) -> nn.Module:
    result: nn.Module = pickle.loads(pickle.dumps(module))
    return result


def by_torch(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    result: nn.Module = torch.load(file, weights_only=False)
    return result


COPIES: dict[str, Callable[[Any], nn.Module]] = {
    "itself": lambda module: module,
    "frozen again": qs.frozen,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": by_pickle,
    "torch.save": by_torch,
    "replica": replica_of,
    "double": lambda module: copy.deepcopy(module).double(),
    "inside another": lambda module: nn.Sequential(module)[0],
    "parts of it": lambda module: nn.Sequential(*list(module.children())[:3])[1],
    "a slice": lambda module: module[:3],
}


@pytest.mark.parametrize("name", COPIES)
def test_no_copy_of_a_frozen_module_can_train(name: str) -> None:
    module = COPIES[name](qs.frozen(body()))
    assert is_frozen(module)
    assert stays(module)
    assert not any(p.requires_grad for p in module.parameters())


def test_it_is_the_same_module_of_the_same_class_to_its_users() -> None:
    module, other = body(), body()
    x = torch.randn(5, 4)
    expected = other.eval()(x)
    assert qs.frozen(module) is module
    assert isinstance(module, nn.Sequential)
    assert repr(module) == repr(other)
    assert [*module.state_dict()] == [*other.state_dict()]
    assert torch.equal(module(x), expected)
    assert not is_frozen(other)


def test_norms_are_named_in_reports_as_before() -> None:
    for norm in ("group", "running"):
        net = qs.backbones.Conv4(4, norm)
        assert norm_policy(qs.frozen(net)) == norm


def test_what_cannot_be_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match="found Parameter"):
        qs.frozen(nn.Parameter(torch.zeros(1)))  # type: ignore[type-var]
    with pytest.raises(ValueError, match="0 is a LazyLinear"):
        qs.frozen(nn.Sequential(nn.LazyLinear(3)))


LEARNERS: dict[str, Callable[[nn.Module], Learner]] = {
    "metric": lambda net: qs.Prototypical(nn.Sequential(net, nn.Linear(8, 8))),
    "gradient": lambda net: qs.MAML(nn.Sequential(net, nn.Linear(8, 3)), 2, 0.1),
    "reptile": lambda net: qs.Reptile(nn.Sequential(net, nn.Linear(8, 3)), 2, 0.01),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_training_and_adapting_leave_a_frozen_part_as_it_is(name: str) -> None:
    part = qs.frozen(body())
    learner = LEARNERS[name](part)
    before = {n: v.clone() for n, v in learner.state_dict().items()}
    for _ in range(2):
        qs.fit(learner, SOURCE, 2, 2, progress=False)
    after = learner.state_dict()
    assert all(after[n].equal(v) for n, v in before.items() if n.startswith("backbone.0."))
    assert not after["backbone.1.weight"].equal(before["backbone.1.weight"])
    task = draw(SOURCE, 0, 0)
    state = learner.train().adapt(task.support, task.spec)
    if name != "metric":
        assert not any(n.startswith("0.") for n in state["weights"])
    assert not any(m.training for m in part.modules())


def conv(norm: str) -> qs.Learner:
    torch.manual_seed(0)
    learner = qs.Prototypical(qs.backbones.Conv4(4, norm, image_size=16))
    qs.frozen(learner.backbone.get_submodule("blocks.0"))
    return learner


@pytest.mark.parametrize("norm", ["group", "running"])
def test_saved_learners_keep_what_is_frozen(norm: str, tmp_path: Path) -> None:
    learner = conv(norm)
    assert frozen_names(learner) == ["backbone.blocks.0"]
    description = describe(learner)
    assert description["evaluating"] == ["backbone.blocks.0"]
    assert describe(build(description)) == description
    loaded = qs.load(qs.save(learner, tmp_path / "learner"))
    assert frozen_names(loaded) == ["backbone.blocks.0"]
    assert stays(loaded.backbone.blocks[0])
    assert loaded.train().backbone.blocks[1].training
    trainable = {n: p.requires_grad for n, p in learner.named_parameters()}
    assert {n: p.requires_grad for n, p in loaded.named_parameters()} == trainable


def test_a_frozen_norm_keeps_its_population_statistics() -> None:
    learner = conv("running")
    norm = learner.backbone.get_submodule("blocks.0.norm")
    norm.get_buffer("mean").fill_(0.3)
    images = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = qs.LabelledRows.from_labels(images, [i % 6 for i in range(60)])
    qs.fit(learner, qs.episodes(rows, 3, 2, 2), 2, 2, progress=False)
    assert torch.equal(norm.get_buffer("mean"), torch.full((4,), 0.3))
    other = learner.backbone.get_submodule("blocks.1.norm").get_buffer("mean")
    assert float(other.abs().sum()) > 0


@pytest.mark.parametrize("names", [["backbone.nothing"], "backbone", [3], {"a": 1}])
def test_a_file_that_freezes_what_is_not_there_is_refused(names: Any) -> None:
    description = describe(conv("group")) | {"evaluating": names}
    with pytest.raises(ValueError, match="no such modules to freeze"):
        build(description)


class Remembering(nn.Linear):
    """A user's class with its own copying, train and constructor."""

    def __init__(self, *, width: int) -> None:
        super().__init__(width, width)
        self.asked: list[bool] = []

    def train(self, mode: bool = True) -> Remembering:
        self.asked.append(mode)
        super().train(mode)
        return self

    def __deepcopy__(self, memo: Any) -> Remembering:
        made = Remembering(width=self.in_features)
        made.load_state_dict(self.state_dict())
        return made

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_a_class_that_copies_in_its_own_way_still_can() -> None:
    module = qs.frozen(Remembering(width=3))
    assert not module.train().training
    assert module.asked == [False, False]
    assert copy.deepcopy(module).weight.equal(module.weight)
