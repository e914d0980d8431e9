"""Write a predictor of pictures as an ONNX model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from quickstudy.core import Learner, Predictor
from quickstudy.files.export import export
from quickstudy.interfaces.runs.picture_files import refuse_learner


def export_predictor(predictor: Predictor | Learner, path: str | Path) -> dict[str, Any]:
    """Write ``predictor`` to ``path``; returns the shape of one input and the names of the classes.

    Raises ValueError for anything that `quickstudy adapt` did not make, besides what
    :func:`quickstudy.export` raises.
    """
    predictor = refuse_learner(predictor, "export")
    made = predictor.info.get("pictures")
    if made is None or "names" not in predictor.info:
        raise ValueError(
            "export: this predictor was not made for image files, so the shape of its inputs is "
            "not known. Use quickstudy.export(predictor, path, inputs) in Python."
        )
    shape = [int(made.get("channels", 1)), int(made["size"]), int(made["size"])]
    export(predictor, path, torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)))
    return {"inputs": shape, "classes": list(predictor.info["names"])}
