"""ANIL and BOIL equal MAML that adapts a part of the backbone: predictions and meta-gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import quickstudy as qs
from made_up import random_classes
from quickstudy.backbones import MLP, Conv4
from quickstudy.compute.plan import Mapping
from quickstudy.contract.check import doubled
from quickstudy.contract.laws import meta_gradient
from quickstudy.learners.gradient.descend import Adam
from quickstudy.learners.gradient.meta_gradients import Exact, FirstOrder, MetaGradient
from quickstudy.tasks.numbering import draw
from quickstudy.tasks.stacks import stack

SOURCE = qs.episodes(random_classes(), ways=3, shots=2, queries=2)
TASK = doubled(draw(SOURCE, 0, 0))


def backbone(norm: str) -> Conv4:
    torch.manual_seed(0)
    return Conv4(8, norm, image_size=16, outputs=3).double()


@pytest.mark.parametrize("norm", ["group", "batch", "support"])
@pytest.mark.parametrize("way", [Exact(), Exact(recompute=True), FirstOrder()], ids=str)
@pytest.mark.parametrize(
    ("part", "adapts"), [(qs.ANIL, ("head.*",)), (qs.BOIL, ("blocks.*",))], ids=["anil", "boil"]
)
def test_it_equals_maml_that_adapts_a_part(
    part: Any, adapts: tuple[str, ...], way: MetaGradient, norm: str
) -> None:
    net = backbone(norm)
    learners = [
        make(steps=3, rate=0.2, meta_gradient=way, update=Adam(), clip=1.0)
        for make in (lambda **o: part(net, **o), lambda **o: qs.MAML(net, adapts=adapts, **o))
    ]
    ours, maml = (learner(TASK.support, TASK.spec)(TASK.query.inputs) for learner in learners)
    torch.testing.assert_close(ours, maml, rtol=1e-12, atol=1e-12)
    for mapping in (Mapping.LOOP, Mapping.VMAP_GRAD):
        ours, maml = (
            meta_gradient(m, stack([TASK]), mapping if m is learners[0] else Mapping.LOOP)
            for m in learners
        )
        torch.testing.assert_close(ours, maml, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("part", "count"), [(qs.ANIL, 2), (qs.BOIL, 16)])
def test_only_its_part_adapts(part: Any, count: int) -> None:
    learner = part(backbone("group"), steps=2, rate=0.2)
    path = learner.trajectory(TASK.support, TASK.spec)
    moved = {n for n, w in path[-1]["weights"].items() if not torch.equal(w, path[0]["weights"][n])}
    assert len(path) == 3
    assert len(moved) == count
    assert {name.startswith("head.") for name in moved} == {part is qs.ANIL}


@pytest.mark.parametrize("part", [qs.ANIL, qs.BOIL, qs.MAML])
def test_test_steps_may_differ_from_training_steps(part: Any) -> None:
    learner = part(backbone("group"), steps=1, rate=0.2, test_steps=4)
    assert len(learner.train().trajectory(TASK.support, TASK.spec)) == 2
    assert len(learner.eval().trajectory(TASK.support, TASK.spec)) == 5


@pytest.mark.parametrize("part", [qs.ANIL, qs.BOIL])
def test_invalid_settings_are_refused(part: Any) -> None:
    with pytest.raises(ValueError, match=r"must end in a linear layer called `head`.*MLP does not"):
        part(MLP(4))
    with pytest.raises(ValueError, match="called `head`, but Sequential"):
        part(nn.Sequential(nn.Linear(4, 2)))
    with pytest.raises(ValueError, match="steps must be at least 1; found 0"):
        part(MLP(4, outputs=2), steps=0)
    with pytest.raises(ValueError, match="clip must be a positive number; found 0"):
        part(MLP(4, outputs=2), clip=0.0)
    with pytest.raises(ValueError, match="test_steps must be at least 1; found 0"):
        part(MLP(4, outputs=2), test_steps=0)
    with pytest.raises(ValueError, match="norm='running'"):
        qs.BOIL(Conv4(4, "running", outputs=5))
