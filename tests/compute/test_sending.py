"""What is sent arrives as it was, and no more than that."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.training.sending import sent


def arrived(thing: Any) -> Any:
    return pickle.loads(sent(thing))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(3, 4),
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(6, 1, 3, 3).to(memory_format=torch.channels_last),
        torch.rand(3, 4).T,
        torch.rand(4, 6)[1:, ::2],
        torch.rand(3, 1).expand(3, 5),
        torch.rand(5).bfloat16(),
        torch.arange(6).reshape(2, 3),
        torch.tensor([True, False]),
        torch.tensor(2.5, dtype=torch.float64),
        torch.rand(0, 3),
        torch.view_as_complex(torch.rand(3, 2)),
        torch.rand(3, requires_grad=True),
        torch.eye(3).to_sparse(),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_tensors_arrive(tensor: Tensor) -> None:
    found = arrived(tensor)
    assert found.dtype == tensor.dtype
    assert found.requires_grad == tensor.requires_grad
    assert found.to_dense().equal(tensor.to_dense())
    if tensor.layout is torch.strided and tensor.is_contiguous(
        memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    ):
        assert found.stride() == tensor.stride(), "the layout decides which kernels run"
    if not found.requires_grad and found.is_floating_point() and found.layout is torch.strided:
        found.add_(1)  # it has memory of its own, which can be written


def test_a_part_of_a_batch_is_sent_alone() -> None:
    batch = torch.rand(1000, 100)
    assert len(sent(batch[7])) < 1000
    assert arrived([batch[7], batch[7:9]])[1].equal(batch[7:9])


def test_a_module_arrives_with_what_it_shares_and_without_gradients() -> None:
    shared = nn.Linear(3, 3)
    net = nn.Sequential(shared, nn.Dropout(), shared)
    shared.weight.requires_grad_(False)
    shared.bias.grad = torch.ones(3)
    net[1].eval()
    found = arrived(net)
    assert found[0] is found[2]
    assert [p.requires_grad for p in found.parameters()] == [False, True]
    assert [part.training for part in found] == [True, False, True]
    assert all(isinstance(p, nn.Parameter) and p.grad is None for p in found.parameters())
    for name, value in net.state_dict().items():
        assert found.state_dict()[name].equal(value)


def test_what_tensors_carry_beside_their_elements_is_kept() -> None:
    marked = torch.rand(3)
    marked.note = "mine"  # type: ignore[attr-defined]
    assert arrived(marked).note == "mine"


def test_learners_and_functions_of_no_module_are_sent() -> None:
    class Own(qs.Prototypical):
        pass

    found, function = arrived((Own(qs.backbones.MLP(4, (3,))), lambda x: x + 1))
    assert type(found).__name__ == "Own"
    assert function(2) == 3
    with pytest.raises(TypeError, match="lock"):
        sent(threading.Lock())
