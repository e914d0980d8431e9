"""A text encoder that onnxruntime computes: small and frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from quickstudy.backbones.text.encoder import (
    checked_tokens,
    mean_of_tokens,
    refuse_other_lengths,
    to_unit_length,
    without_padding,
)
from quickstudy.base.extras import optional
from quickstudy.base.hashes import sha256_of_files
from quickstudy.base.shown import told
from quickstudy.datasets.tokenizer import TextTokenizer, Tokens

_ROWS = 64
"""Texts computed at once, which bounds the memory."""


@final
class OnnxTextEncoder(nn.Module):
    """Tokens ``{"ids": (n, length), "mask": (n, length)}`` -> features (n, d), without gradient.

    Like :class:`quickstudy.backbones.text.encoder.TextEncoder`, with the mean of the tokens, but
    its weights are in an ONNX file and are not parameters: nothing can train them.

    ``path``        the file; inputs ``input_ids``, ``attention_mask``, ``token_type_ids`` (n,
                    length) int64 and one output (n, length, d).
    ``tokenizer``   that of the model.
    ``normalised``  whether features have length 1.

    It uses as many threads as torch does when it is made.

    Raises ValueError for a file of other inputs, ImportError without the extra ``text``.
    """

    unit: Tensor
    sha256: Tensor

    def __init__(
        self, path: str | Path, tokenizer: TextTokenizer, *, normalised: bool = True
    ) -> None:
        super().__init__()
        self.tokenizer, self.normalised = tokenizer, normalised
        self._session = _Session(Path(path))
        self.features = self._session.width
        # In place of weights: by it, a saved learner knows whether the file is another one.
        content = bytes.fromhex(sha256_of_files([Path(path)]))
        self.register_buffer("sha256", torch.tensor(list(content), dtype=torch.uint8))
        # Its type is that of the features, as parameters would say it of a module that has any.
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def tokenize(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        """What :class:`TextTokenizer` makes of ``texts``: the inputs of this encoder."""
        return self.tokenizer(texts, length)

    def forward(self, tokens: Tokens) -> Tensor:
        """Features (n, d) without a graph; ValueError for anything but tokens."""
        ids, mask = without_padding(*checked_tokens(tokens, self.tokenizer.words))
        refuse_other_lengths(ids, self.tokenizer.longest)
        pooled: Tensor = _Pooled.apply(ids, mask, self._session)  # type: ignore[no-untyped-call]
        features = pooled.to(self.unit)
        return to_unit_length(features) if self.normalised else features


class _Pooled(torch.autograd.Function):
    """The mean over the vectors of each text's tokens (n, d), computed outside of torch.

    Under vmap the rows of all tasks are computed at once, since a row depends on no other.
    """

    @staticmethod
    def forward(ids: Tensor, mask: Tensor, session: _Session) -> Tensor:
        """Pieces of ``_ROWS`` texts, one after the other."""
        ids, mask = without_padding(ids.detach().cpu(), mask.detach().cpu())
        parts = [
            mean_of_tokens(session.vectors(i, m), m)
            for i, m in zip(ids.split(_ROWS), mask.split(_ROWS), strict=True)
        ]
        return torch.cat(parts) if len(ids) else torch.empty(0, session.width)

    @staticmethod
    def setup_context(context: Any, inputs: Any, output: Tensor) -> None:
        """There is no gradient."""
        context.mark_non_differentiable(output)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, ...], ids: Tensor, mask: Tensor, session: _Session
    ) -> tuple[Tensor, int]:
        """Features (tasks, n, d), and the dimension of the tasks."""
        tasks = info.batch_size
        stacked = [
            leaf.expand(tasks, *leaf.shape) if dim is None else leaf.movedim(dim, 0)
            for leaf, dim in zip((ids, mask), dims, strict=False)
        ]
        ids, mask = (leaf.flatten(0, 1) for leaf in stacked)
        found = _Pooled.apply(ids, mask, session)  # type: ignore[no-untyped-call]
        return found.unflatten(0, stacked[0].shape[:2]), 0


class _Session:
    """The network in a file; copies share it, and pickles load it again."""

    def __init__(self, path: Path) -> None:
        self._path, self._loaded = path, _opened(path)
        inputs = {each.name for each in self._loaded.get_inputs()}
        shapes = [each.shape for each in self._loaded.get_outputs()]
        wanted = {"input_ids", "attention_mask", "token_type_ids"}
        width = shapes[0][-1] if len(shapes) == 1 and len(shapes[0]) == 3 else None
        if inputs != wanted or not isinstance(width, int):
            raise ValueError(
                f"{path}: must have the inputs {', '.join(sorted(wanted))} and one output "
                f"(n, length, d); found inputs {', '.join(sorted(inputs))} and outputs {shapes}. "
                "Export it as an encoder of text."
            )
        self.width: int = width

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._path,)

    def __deepcopy__(self, _: dict[int, Any]) -> _Session:
        return self

    def vectors(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The vectors (n, length, d) of all tokens."""
        given = {
            "input_ids": ids.numpy(), "attention_mask": mask.numpy().astype(np.int64),
            "token_type_ids": np.zeros(ids.shape, np.int64),
        }  # fmt: skip
        return torch.from_numpy(self._loaded.run(None, given)[0])


def _opened(path: Path) -> Any:
    """The file opened by onnxruntime; ValueError where it is no network."""
    runtime = optional("onnxruntime", "text", "OnnxTextEncoder")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a type of onnxruntime's own
        raise ValueError(
            f"{path}: must be an ONNX file ({told(error)}). Install it again."
        ) from error
