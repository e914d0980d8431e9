"""A graph isomorphism network: molecules as graphs of atoms and bonds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.checks import check_widths
from quickstudy.base.arguments import typed
from quickstudy.base.modules import in_torch_func

VALUES = (119, 7, 9, 9, 2, 2)
"""How many values each property of an atom may have, 0 included; see ``datasets.smiles``."""
BONDS = 6
"""Kinds of bonds, with 0 for none."""


class GIN(nn.Module):
    """Molecules -> features (n, width) of their graphs.

        h_v      <- sum of embeddings of the properties of atom v
        m_v      = sum over neighbours u of relu(h_u + e_uv)
        h_v      <- h_v + mlp((1 + eps) h_v + m_v)                 (in each of ``layers`` rounds)
        features = relu(linear([sum_v h_v / sqrt(atoms), max_v h_v] of every round))

    with an embedding e_uv of the kind of bond for each round, and a learnt eps.

    Inputs are a dict with ``atoms`` (n, a, 6), ``neighbours`` and ``bonds`` (n, a, 6), padded with
    zeros: see :mod:`quickstudy.datasets.smiles`. A network of tensors alone, so that it runs under
    ``vmap``; padding changes nothing.

    ``width``   of the atoms' vectors and of the features.
    ``layers``  rounds of messages: how many bonds an atom sees far.

    Reference: Xu, Hu, Leskovec and Jegelka (2019), How Powerful are Graph Neural Networks?
    Differs from the paper in bonds that add to messages (Hu et al. (2020), Strategies for
    Pre-training Graph Neural Networks), in residual sums, in layer norm in place of batch norm,
    whose statistics would let molecules see one another, and in a maximum beside the sum, which is
    divided by the root of the number of atoms so that large molecules have features of like size.

    >>> import quickstudy as qs
    >>> from quickstudy.datasets.smiles import molecule_inputs, read_smiles
    >>> molecules = read_smiles(["CCO", "c1ccccc1"], "example").molecules
    >>> qs.backbones.GIN(width=32)(molecule_inputs(molecules, graph=True)).shape
    torch.Size([2, 32])
    """

    @typed
    def __init__(self, width: int = 96, layers: int = 3) -> None:
        super().__init__()
        check_widths("GIN", width=width, layers=layers)
        self.width, self.layers, self.features = width, layers, width
        self.properties = nn.ModuleList(nn.Embedding(values, width) for values in VALUES)
        self.rounds = nn.ModuleList(_Round(width) for _ in range(layers))
        self.last = nn.Linear(2 * width * (layers + 1), width)

    def forward(self, inputs: Any) -> Tensor:
        """(n, width)."""
        atoms, neighbours, bonds = _trimmed(*(_part(inputs, name) for name in _LEAVES))
        there = (atoms[..., :1] > 0).to(self.last.weight.dtype)
        h = sum(layer(atoms[..., k]) for k, layer in enumerate(self.properties)) * there
        seen = [_readout(h, there)]
        for each in self.rounds:
            h = each(h, neighbours, bonds, there)
            seen.append(_readout(h, there))
        features: Tensor = self.last(torch.cat(seen, -1)).relu()
        return features


class _Round(nn.Module):
    """One round of messages between atoms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kinds = nn.Embedding(BONDS, width)
        self.eps = nn.Parameter(torch.zeros(()))
        self.norm = _LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor, neighbours: Tensor, bonds: Tensor, there: Tensor) -> Tensor:
        """(n, a, width)."""
        n, a, degree = neighbours.shape
        width = h.shape[-1]
        index = neighbours.reshape(n, a * degree, 1).expand(-1, -1, width)
        sent = h.gather(1, index).reshape(n, a, degree, width)
        bound = (bonds > 0).to(h.dtype).unsqueeze(-1)
        messages = ((sent + self.kinds(bonds)).relu() * bound).sum(2)
        x = self.inner(self.norm((1 + self.eps) * h + messages)).relu()
        updated: Tensor = (h + self.outer(x)) * there
        return updated


class _LayerNorm(nn.Module):
    """Layer norm over the last axis, of primitives: see the gradient of torch's own under vmap."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """The shape of ``x``."""
        apart = x - x.mean(-1, keepdim=True)
        scale = (apart.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        return apart * scale * self.weight + self.bias


_LEAVES = ("atoms", "neighbours", "bonds")


def _part(inputs: Any, name: str) -> Tensor:
    part = inputs.get(name) if isinstance(inputs, dict) else None
    if not isinstance(part, Tensor):
        raise ValueError(
            f"GIN: reads molecules as graphs, a dict with {', '.join(_LEAVES)}; found no {name}. "
            "Make them by quickstudy.datasets.smiles.molecule_inputs(molecules, graph=True)."
        )
    return part


def _trimmed(atoms: Tensor, neighbours: Tensor, bonds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Without the places of atoms that no molecule of the batch has; as they are under vmap."""
    if in_torch_func() or torch.compiler.is_compiling() or not len(atoms):
        return atoms, neighbours, bonds
    largest = max(int((atoms[..., 0] > 0).sum(1).max()), 1)
    return atoms[:, :largest], neighbours[:, :largest], bonds[:, :largest]


def _readout(h: Tensor, there: Tensor) -> Tensor:
    """(n, 2 width): the sum over atoms, over the root of their number, and the maximum."""
    number = there.sum(1).clamp_min(1)
    largest = h.where(there > 0, -torch.inf).amax(1)
    return torch.cat([h.sum(1) / number.sqrt(), largest.where(largest.isfinite(), 0.0)], -1)
