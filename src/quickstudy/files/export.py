"""Export of predictors to ONNX, for other runtimes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from quickstudy.base.atomic import write_atomically
from quickstudy.base.trees import map_tree
from quickstudy.core import Predictor


class PredictorModule(nn.Module):
    """A predictor as a plain module: inputs (n, ...) -> predictions, for ``torch.export``."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.learner = predictor.learner
        state = map_tree(lambda leaf: leaf.detach(), predictor.state)
        self.predictor = replace(predictor, state=state)

    def forward(self, inputs: Tensor) -> Tensor:
        """Predictions (n, outputs)."""
        predictions: Tensor = self.predictor(inputs)
        return predictions


def export(predictor: Predictor, path: str | Path, inputs: Tensor) -> Path:
    """Write an ONNX model that maps any number of rows to predictions.

    ``inputs``  (n >= 2, ...): an example input; the exported model takes any n.

    Needs the extra ``quickstudy[onnx]``. Raises ImportError without it, and ValueError for an
    example of one row, for a learner with operations that ONNX lacks (the stable sort of MANN), and
    for one whose code makes the number of rows a constant.
    """
    try:
        import onnx
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
    name = type(predictor.learner).__name__
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                PredictorModule(predictor).eval(), (inputs,), file, dynamo=True,
                external_data=False, input_names=["inputs"], output_names=["predictions"],
                verbose=False, dynamic_shapes={"inputs": {0: torch.export.Dim("rows")}},
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            raise ValueError(
                f"export: {name} uses an operation that torch cannot write as ONNX "
                f"({_root_cause(error)}). Save the predictor instead, or export another learner."
            ) from error
        # Where code needs the number of rows itself, torch silently exports that number alone.
        rows = onnx.load(file).graph.input[0].type.tensor_type.shape.dim[0]
        if not rows.dim_param:
            raise ValueError(
                f"export: the number of rows must stay free, but code of {name} or its backbone "
                f"fixes it at {rows.dim_value}. Use tensor.shape[0] there instead of len(tensor)."
            )
        return write_atomically(Path(path), file.read_bytes())


def _root_cause(error: BaseException) -> str:
    """The message of the first error behind ``error``, which torch hides in a long text."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).removesuffix(".")
