"""Molecules as pictures, where the inputs of a task say which they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from quickstudy.reports.view_types import Array

SIDE = 128
"""Of a picture, in pixels."""
DRAWN = 15
"""Rows of each class that are drawn; the page shows no more."""


def molecule_images(inputs: Any, targets: Array) -> Tensor | None:
    """Pictures (n, 3, 128, 128) in [0, 1] of molecules; None for other inputs, or without RDKit.

    ``inputs``   a dict with ``smiles`` (n, length): see :mod:`quickstudy.datasets.smiles`.
    ``targets``  (n,) classes: of each, the first 15 rows are drawn, and others are left white.
    """
    spelled = inputs.get("smiles") if isinstance(inputs, dict) else None
    if not isinstance(spelled, Tensor):
        return None
    try:
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError:
        return None
    images = torch.ones(len(spelled), 3, SIDE, SIDE)
    for of_class in np.unique(targets):
        for row in np.flatnonzero(targets == of_class)[:DRAWN]:
            text = bytes(code for code in spelled[row].tolist() if code > 0).decode("ascii")
            images[row] = _drawn(text, rdMolDraw2D)
    return images


def _drawn(smiles: str, drawing: Any) -> Tensor:
    """(3, 128, 128)."""
    from rdkit import Chem

    canvas = drawing.MolDraw2DCairo(SIDE, SIDE)
    canvas.drawOptions().padding = 0.08
    canvas.DrawMolecule(Chem.MolFromSmiles(smiles))
    canvas.FinishDrawing()
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(canvas.GetDrawingText())).convert("RGB")
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)
