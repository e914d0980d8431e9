"""How a batch goes to where the learner is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.base.trees import leaves
from quickstudy.tasks.numbering import draw_stacked
from quickstudy.tasks.stacks import moved, to_device


class Watched(Tensor):
    """Notes what is asked of it, and does nothing: there may be no GPU here."""

    asked: list[Any]

    def pin_memory(self, device: Any = None) -> Tensor:
        self.asked.append("pinned")
        return self

    def to(self, *args: Any, **options: Any) -> Tensor:
        self.asked.append((*args, options))
        return self


@pytest.mark.parametrize(
    ("device", "asked"),
    [
        ("cuda:1", ["pinned", (torch.device("cuda:1"), {"non_blocking": True})]),
        ("cpu", [(torch.device("cpu"), {})]),  # without waiting, numbers would not be there yet
    ],
)
def test_a_gpu_takes_pinned_memory_and_the_host_does_not_wait(device: str, asked: Any) -> None:
    tensor = torch.ones(3).as_subclass(Watched)
    tensor.asked = []
    moved(tensor, torch.device(device))
    assert tensor.asked == asked


def test_every_tensor_goes_to_the_device_and_a_task_that_is_there_stays() -> None:
    batch = draw_stacked(qs.Sinusoids(2, 3), 0, range(4))
    assert to_device(batch, torch.device("cpu")) is batch
    there = to_device(batch, torch.device("meta"))
    assert {leaf.device.type for leaf in leaves(there[:2])} == {"meta"}
    assert [leaf.shape for leaf in leaves(there[:2])] == [leaf.shape for leaf in leaves(batch[:2])]
