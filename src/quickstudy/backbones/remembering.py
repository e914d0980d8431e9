"""A frozen backbone that computes each input once: many tasks share pictures."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.backbones.norms import rows_see_one_another
from quickstudy.base.modules import needs_plain_operators, raw_bytes, values_can_be_read


class Remembering(nn.Module):
    """Inputs (n, ...) -> features (n, ...) of ``backbone``, of which the last are remembered.

    Training draws the same pictures into many tasks; a frozen network gives each the same features
    every time. They are found again by the SHA-256 of the input, in memory alone: a copy and a file
    of this module begin with none. Where weights move, and under ``torch.func`` and compilation,
    which cannot look at the inputs, everything is computed.

    ``backbone``  frozen, in evaluation mode, as :func:`quickstudy.pretrained` gives it.
    ``most``      rows that are remembered; the oldest are forgotten first. A row of Lite0's maps of
                  128 pixels has 240 kB.

    Raises ValueError for a backbone whose features of a row depend on other rows, and for ``most``
    below 0.

    >>> import torch, quickstudy as qs
    >>> backbone = qs.backbones.Remembering(qs.pretrained("efficientnet-lite0", size=64))
    >>> pictures = torch.rand(2, 3, 64, 64)
    >>> first, again = backbone(pictures), backbone(pictures)  # the second is read from memory
    >>> bool((first == again).all())
    True
    """

    def __init__(self, backbone: nn.Module, most: int = 4096) -> None:
        super().__init__()
        if most < 0:
            raise ValueError(f"Remembering: most must be at least 0; found {most}.")
        if rows_see_one_another(backbone):
            raise ValueError(
                "Remembering: features of an input must not depend on other inputs, but this "
                "backbone normalises by statistics of the rows at hand. Use a frozen one."
            )
        self.backbone, self.most = backbone, most
        for name in ("features", "feature_shape", "map_shapes", "input_shape"):
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))
        self._known = _Memory()

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (n, ...)."""
        if not self._may_remember(inputs):
            computed: Tensor = self.backbone(inputs)
            return computed
        state = self._state_of_weights()
        keys = [_key(row, state) for row in inputs]
        found = {key: self._known.rows.get(key) for key in keys}
        missing = {key: i for i, key in enumerate(keys) if found[key] is None}
        if missing:
            with torch.no_grad():
                rows = self.backbone(inputs[list(missing.values())])
            found |= dict(zip(missing, rows, strict=True))
            self._known.keep({key: found[key] for key in missing}, self.most)
        return torch.stack([row for key in keys if (row := found[key]) is not None])

    def _may_remember(self, inputs: Tensor) -> bool:
        if not self.most or torch.compiler.is_compiling() or needs_plain_operators():
            return False
        if not values_can_be_read(inputs) or inputs.requires_grad or not len(inputs):
            return False
        parts = self.backbone.modules()
        return not any(
            part.training
            or any(p.requires_grad for p in part._parameters.values() if p is not None)
            for part in parts
        )

    def _state_of_weights(self) -> str:
        """Changes with every change of a weight in place, of its type and of its device."""
        tensors = [*self.backbone.parameters(), *self.backbone.buffers()]
        return str([(t.data_ptr(), t._version, t.dtype) for t in tensors])


class _Memory:
    """Features by key. A copy, and so a copied or pickled module, begins empty."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Tensor] = {}

    def keep(self, more: dict[bytes, Any], most: int) -> None:
        """Add ``more``; forget the oldest above ``most``."""
        # A copy of each row: a view would keep the whole batch it was computed in.
        self.rows |= {key: row.clone() for key, row in more.items()}
        for key in list(self.rows)[: max(0, len(self.rows) - most)]:
            self.rows.pop(key, None)  # another thread may have removed it

    def __deepcopy__(self, memo: Any) -> _Memory:
        return _Memory()

    def __reduce__(self) -> Any:
        return _Memory, ()


def _key(row: Tensor, state: str) -> bytes:
    digest = hashlib.sha256(f"{state}{row.dtype}{row.device}{tuple(row.shape)}".encode())
    digest.update(raw_bytes(row))
    return digest.digest()
