"""Export of predictors to ONNX, for other runtimes."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quickstudy.base.atomic import write_atomically
from quickstudy.base.door import inspected, received
from quickstudy.base.trees import map_tree, named_leaves, rows
from quickstudy.core import Predictor


class PredictorModule(nn.Module):
    """A predictor as a plain module: inputs (n, ...) -> predictions, for ``torch.export``."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.learner = predictor.learner
        state = map_tree(lambda leaf: leaf.detach(), predictor.state)
        self.predictor = replace(predictor, state=state)

    def forward(self, inputs: Any) -> Any:
        """Predictions (n, outputs), or a tree of them."""
        with inspected():  # a check would make the number of rows a constant
            return self.predictor(inputs)


def export(predictor: Predictor, path: str | Path, inputs: Any) -> Path:
    """Write an ONNX model that maps any number of rows to predictions.

    ``inputs``  (n >= 2, ...): an example input, or a tree of them, converted as for the predictor.
                The exported model takes any n, and converts nothing: pixels must lie in [0, 1].

    The model's input is called "inputs" and its output "predictions". Where these are trees, there
    is an input or an output for each leaf, called by its path, such as "inputs.text.mask". The
    model's metadata hold the predictor's ``info``, such as the names of the classes, as JSON.

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
    inputs = received(predictor.learner, inputs, "export")
    if rows(inputs) < 2:
        raise ValueError(
            f"export: needs an example of at least 2 rows, so that the number of rows stays free; "
            f"found {rows(inputs)}."
        )
    name, count = type(predictor.learner).__name__, torch.export.Dim("rows")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _without_notes_of_torch():
        file = Path(folder) / "model.onnx"
        try:
            torch.onnx.export(
                # By keyword, since torch would take a dict in the last place for keywords.
                PredictorModule(predictor).eval(), (), file, kwargs={"inputs": inputs}, dynamo=True,
                external_data=False, input_names=_names(inputs, "inputs"),
                output_names=_names(predictor(inputs), "predictions"), verbose=False,
                dynamic_shapes={"inputs": map_tree(lambda _: {0: count}, inputs)},
            )  # fmt: skip
        except torch.onnx.OnnxExporterError as error:
            raise ValueError(
                f"export: {name} uses an operation that torch cannot write as ONNX "
                f"({_root_cause(error)}). Save the predictor instead, or export another learner."
            ) from error
        # Where code needs the number of rows itself, torch silently exports that number alone.
        model = onnx.load(file)
        shapes = [each.type.tensor_type.shape for each in model.graph.input]
        fixed = [shape.dim[0].dim_value for shape in shapes if not shape.dim[0].dim_param]
        if fixed:
            raise ValueError(
                f"export: the number of rows must stay free, but code of {name} or its backbone "
                f"fixes it at {fixed[0]}. Use tensor.shape[0] there instead of len(tensor)."
            )
    onnx.helper.set_model_props(model, {"info": json.dumps(dict(predictor.info))})
    return write_atomically(Path(path), model.SerializeToString())


@contextmanager
def _without_notes_of_torch() -> Iterator[None]:
    """Hide what torch says of its own parts: operations of torchvision that are not installed, and
    deprecations inside its exporter. Neither concerns the exported model."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(before)


def _names(tree: Any, whole: str) -> list[str]:
    return [name for name, _ in named_leaves(tree, whole)]


def _root_cause(error: BaseException) -> str:
    """The message of the first error behind ``error``, which torch hides in a long text."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).removesuffix(".")
