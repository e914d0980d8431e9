"""Counted fingerprints of molecules as features, and a perceptron on them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from quickstudy.backbones.checks import check_widths
from quickstudy.base.arguments import typed

BITS = 2048
"""Length of a fingerprint of :mod:`quickstudy.datasets.smiles`."""


class Fingerprint(nn.Module):
    """Molecules -> their counted fingerprints (n, bits) as they are, for forests and neighbours.

    ``binary``  whether to say only which surroundings of atoms a molecule has, not how often.

    Inputs are a dict with ``counts`` (n, bits), or that tensor itself.
    """

    @typed
    def __init__(self, bits: int = BITS, binary: bool = False) -> None:
        super().__init__()
        check_widths("Fingerprint", bits=bits)
        self.bits, self.binary, self.features = bits, binary, bits

    def forward(self, inputs: Any) -> Tensor:
        """(n, bits)."""
        counts = counts_of(inputs)
        return (counts > 0).to(counts.dtype) if self.binary else counts


class FingerprintMLP(nn.Module):
    """Molecules -> features (n, hidden[-1]) of log(1 + counts) of their fingerprints.

    Layers are linear, ReLU, and dropout while training.

    ``bits``     length of the fingerprints.
    ``hidden``   widths of the layers.
    ``dropout``  share of the inputs and of the units of each layer but the last that are left out
                 in each training step; see :class:`torch.nn.Dropout`.
    """

    @typed
    def __init__(
        self, bits: int = BITS, hidden: tuple[int, ...] = (512, 128), dropout: float = 0.2
    ) -> None:
        super().__init__()
        hidden = tuple(hidden)
        if not hidden or not 0 <= dropout < 1:
            raise ValueError(
                "FingerprintMLP: needs a hidden layer, and dropout in [0, 1); found "
                f"hidden={hidden}, dropout={dropout}."
            )
        check_widths("FingerprintMLP", bits=bits, hidden=hidden)
        self.bits, self.hidden, self.dropout = bits, hidden, dropout
        self.features = hidden[-1]
        layers: list[nn.Module] = []
        for a, b in pairwise((bits, *hidden)):
            layers += [nn.Dropout(dropout)] if dropout else []
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Any) -> Tensor:
        """(n, hidden[-1])."""
        features: Tensor = self.layers(counts_of(inputs).log1p())
        return features


def counts_of(inputs: Any) -> Tensor:
    """The fingerprints (n, bits) among the ``inputs`` of molecules; ValueError without any."""
    counts = inputs.get("counts") if isinstance(inputs, dict) else inputs
    if not isinstance(counts, Tensor):
        raise ValueError(
            "molecules: fingerprints are read from inputs with counts (n, bits); found "
            f"{type(inputs).__name__}. Make them by quickstudy.datasets.smiles.molecule_inputs."
        )
    return counts
