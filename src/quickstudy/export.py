"""Predictors for other runtimes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from quickstudy.core import Predictor
from quickstudy.storage import write_atomically
from quickstudy.trees import map_tree


class PredictorModule(nn.Module):
    """A predictor as a plain module: inputs (n, ...) -> predictions, for ``torch.export``."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.learner = predictor.learner
        state = map_tree(lambda leaf: leaf.detach(), predictor.state)
        self.predictor = replace(predictor, state=state)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predictions (n, outputs)."""
        return self.predictor(inputs)


def export_onnx(predictor: Predictor, path: Path, inputs: Tensor) -> Path:
    """One ONNX file; ``inputs`` (n >= 2, ...) is an example, and n stays free."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export: needs onnx and onnxscript. Install them with pip install 'quickstudy[onnx]'."
        ) from error
    if len(inputs) < 2:
        raise ValueError(
            f"export: needs an example of at least 2 rows, so that the number of rows stays free; "
            f"found {len(inputs)}."
        )
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "model.onnx"
        torch.onnx.export(
            PredictorModule(predictor).eval(), (inputs,), file, dynamo=True, external_data=False,
            input_names=["inputs"], output_names=["predictions"], verbose=False,
            dynamic_shapes={"inputs": {0: torch.export.Dim("rows")}},
        )  # fmt: skip
        return write_atomically(path, file.read_bytes())
