"""Addressing an external memory: pure functions on tensors, differentiable in all of them.

A memory is a matrix (slots, width); an address is a distribution over its slots. Leading
dimensions broadcast: heads, and sequences that share a memory. Nothing is changed in place and no
shape depends on data, so everything maps under ``vmap``.

    Neural Turing Machine     content -> interpolate -> shift -> sharpen; read; erase and add
    least recently used       write to the slots read last or used least; then read by content

References: Graves, Wayne and Danihelka (2014), Neural Turing Machines, section 3; Santoro et al.
(2016), Meta-Learning with Memory-Augmented Neural Networks, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6


def similarity(memory: Tensor, keys: Tensor) -> Tensor:
    """Cosine of each key with each slot: (..., slots, width), (..., heads, width) -> (..., heads,
    slots).

    Vectors far shorter than 1e-6, such as an empty slot, have cosine 0 with everything.
    """

    def unit(vectors: Tensor) -> Tensor:  # epsilon inside the root: its derivative at 0 is finite
        return vectors * (vectors.square().sum(-1, keepdim=True) + EPSILON**2).rsqrt()

    return unit(keys) @ unit(memory).mT


def content_address(memory: Tensor, keys: Tensor, strength: Tensor) -> Tensor:
    """softmax(strength * cosine(key, slot)): (..., heads, slots); equations 5 and 6.

    ``keys`` (..., heads, width); ``strength`` (..., heads), positive.
    """
    return (strength.unsqueeze(-1) * similarity(memory, keys)).softmax(-1)


def interpolate(content: Tensor, previous: Tensor, gate: Tensor) -> Tensor:
    """gate * content + (1 - gate) * previous, ``gate`` (..., heads) in [0, 1]; equation 7."""
    gate = gate.unsqueeze(-1)
    return gate * content + (1 - gate) * previous


def shift(address: Tensor, by: Tensor) -> Tensor:
    """The circular convolution of an address with a distribution over shifts; equation 8.

    ``address`` (..., slots); ``by`` (..., 2 k + 1): probabilities of shifts -k, …, 0, …, k.
    """
    reach = by.shape[-1] // 2
    moved = torch.stack([address.roll(step, -1) for step in range(-reach, reach + 1)], -1)
    return (moved * by.unsqueeze(-2)).sum(-1)


def sharpen(address: Tensor, power: Tensor) -> Tensor:
    """address^power, normalised to sum 1; ``power`` (...) >= 1; equation 9."""
    # In logarithms, where small shares do not underflow.
    return (power.unsqueeze(-1) * (address + EPSILON).log()).softmax(-1)


class Addressing(NamedTuple):
    """The controller's outputs that address the heads of a Neural Turing Machine.

    ``keys`` (..., heads, width); ``strength`` (..., heads) > 0; ``gate`` (..., heads) in [0, 1];
    ``shift`` (..., heads, shifts), distributions; ``power`` (..., heads) >= 1.
    """

    keys: Tensor
    strength: Tensor
    gate: Tensor
    shift: Tensor
    power: Tensor

    @staticmethod
    def size(width: int, shifts: int = 3) -> int:
        """The number of controller outputs for one head."""
        return width + shifts + 3

    @staticmethod
    def of(numbers: Tensor, width: int, shifts: int = 3) -> Addressing:
        """From a controller's output (..., heads, size), each part mapped to its range."""
        keys, strength, gate, by, power = numbers.split([width, 1, 1, shifts, 1], -1)
        return Addressing(
            keys.tanh(),
            F.softplus(strength).squeeze(-1),
            gate.sigmoid().squeeze(-1),
            by.softmax(-1),
            1 + F.softplus(power).squeeze(-1),
        )


def address(memory: Tensor, previous: Tensor, head: Addressing) -> Tensor:
    """The heads' new addresses (..., heads, slots), from their ``previous`` addresses."""
    content = content_address(memory, head.keys, head.strength)
    return sharpen(shift(interpolate(content, previous, head.gate), head.shift), head.power)


def read(memory: Tensor, addresses: Tensor) -> Tensor:
    """The content at ``addresses`` (..., heads, slots): (..., heads, width); equation 2."""
    return addresses @ memory


def erase_and_add(memory: Tensor, addresses: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """The memory after the write heads: (..., slots, width); equations 3 and 4.

    ``addresses`` (..., heads, slots); ``erase`` (..., heads, width) in [0, 1] and ``add`` (...,
    heads, width). All heads erase, in any order, before any head adds.
    """
    kept = memory
    for head in range(addresses.shape[-2]):  # backward of torch.prod depends on single values
        at, gone = addresses[..., head, :, None], erase[..., head, None, :]
        kept = kept * (1 - at * gone)
    return kept + addresses.mT @ add


class LRUMemory(NamedTuple):
    """A memory with the state of least-recently-used access.

    ``memory`` (..., slots, width); ``usage`` (..., slots), decaying sums of past addresses;
    ``read_addresses`` (..., heads, slots), from the previous step.
    """

    memory: Tensor
    usage: Tensor
    read_addresses: Tensor


def empty_memory(slots: int, width: int, heads: int, like: Tensor) -> LRUMemory:
    """An empty memory, of the type and on the device of ``like``."""
    return LRUMemory(
        like.new_zeros(slots, width), like.new_zeros(slots), like.new_zeros(heads, slots)
    )


def least_used(usage: Tensor, n: int) -> Tensor:
    """(..., slots) -> (..., n, slots): the n least used slots as one-hot rows, the least first.

    Ties go to the first slot, so that the result is the same on every device.
    """
    order = usage.detach().argsort(dim=-1, stable=True)[..., :n]
    slots = torch.arange(usage.shape[-1], device=usage.device)
    return (order.unsqueeze(-1) == slots).to(usage.dtype)


def least_recently_used_access(
    state: LRUMemory,
    keys: Tensor,
    written: Tensor,
    delayed: Tensor,
    strength: Tensor,
    gate: Tensor,
    decay: float,
) -> tuple[LRUMemory, Tensor]:
    """Write, then read by ``keys``: the next state, and the vectors read (..., heads, width).

        old, new  = gate * read_addresses, (1 - gate) * least_used             (write addresses)
        memory    = memory, least used slots erased, + old^T delayed + new^T written    (write)
        addresses = softmax(strength * cosine(keys, memory))                   (read addresses)
        usage     = decay * usage + sum over heads of addresses, old and new

    ``keys``     (..., heads, width or less): compared with as many first columns of the memory.
    ``written``  (..., heads, width): written into a least used slot, one per head, after erasing
                 it; ``keys`` in the paper.
    ``delayed``  (..., heads, width): added to the slots that each head read last; ``keys`` in the
                 paper.
    ``strength``, ``gate``  (..., heads), the gate in [0, 1].

    Usage only selects slots, so it passes no gradient.
    """
    least = least_used(state.usage, keys.shape[-2])
    gate = gate.unsqueeze(-1)
    old, new = gate * state.read_addresses, (1 - gate) * least
    erased = state.memory * (1 - least.sum(-2)).unsqueeze(-1)
    memory = erased + old.mT @ delayed + new.mT @ written
    addresses = content_address(memory[..., : keys.shape[-1]], keys, strength)
    usage = decay * state.usage + (addresses + old + new).sum(-2)
    return LRUMemory(memory, usage.detach(), addresses), read(memory, addresses)
