"""Trees of tensors on disk: one safetensors file each, written atomically, without pickle."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quickstudy.core import Learner, Predictor, TaskSpec
from quickstudy.files.registry import FUNCTIONS, build_empty, describe, resolve

_HEADER = "quickstudy"
_FORMAT = "quickstudy predictor 1"
_LEARNER = "quickstudy learner 1"


def write_atomically(path: Path, content: bytes) -> Path:
    """Write ``content`` so that a reader, or a crash, sees the old file or the new one, whole."""
    return replace_atomically(path, lambda temporary: temporary.write_bytes(content))


def replace_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Have ``write`` make a file beside ``path``, then put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's: those files are their owner's alone, and a report is there to be shared.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save_tree(path: Path, tree: Any, about: dict[str, Any]) -> Path:
    """One file with every tensor of ``tree``; the tree's shape and ``about`` (JSON) in its header.

    Leaves are tensors or JSON scalars; NamedTuples come back as plain tuples.
    """
    tensors: dict[str, Tensor] = {}

    def skeleton(node: Any) -> Any:
        if isinstance(node, Tensor):
            name = f"{len(tensors):05d}"
            tensors[name] = node.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        if isinstance(node, dict):
            return {"dict": [[key, skeleton(value)] for key, value in node.items()]}
        if isinstance(node, (list, tuple)):
            kind = "list" if isinstance(node, list) else "tuple"
            return {kind: [skeleton(value) for value in node]}
        return {"value": node}

    header = json.dumps({"tree": skeleton(tree), "about": about})
    return write_atomically(path, save(tensors, metadata={_HEADER: header}))


def load_tree(path: Path) -> tuple[Any, dict[str, Any]]:
    """What :func:`save_tree` wrote: the tree and ``about``. ValueError for any other file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    with _reading(path):
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _grown(header["tree"], tensors), dict(header["about"])


def _grown(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    match node:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": [*pairs]}:
            return {key: _grown(child, tensors) for key, child in pairs}
        case {"list": [*children]}:
            return [_grown(child, tensors) for child in children]
        case {"tuple": [*children]}:
            return tuple(_grown(child, tensors) for child in children)
        case {"value": None | bool() | int() | float() | str() as value}:
            return value
    raise ValueError("its tree is malformed")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What a wrong file makes reading raise, as one error that names the file."""
    try:
        yield
    except (
        SafetensorError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
    ) as e:
        raise ValueError(
            f"{path}: not a file that quickstudy wrote, or a damaged one ({e}). "
            "Write it again, or use another copy."
        ) from e


def save_learner(learner: Learner, path: str | Path, info: dict[str, Any] | None = None) -> Path:
    """A learner's description and weights in one file; ``info`` is any JSON to keep with them.

    Raises ValueError for a learner, or a backbone, of your own class, or changed after it was
    made: keep its ``state_dict``.
    """
    about = {"format": _LEARNER, "learner": describe(learner), "info": info or {}}
    return save_tree(Path(path), dict(learner.state_dict()), about)


def load_learner(path: str | Path) -> tuple[Learner, dict[str, Any]]:
    """The learner in a file that :func:`save_learner` wrote, and its ``info``."""
    weights, about = load_tree(Path(path))
    if about.get("format") != _LEARNER:
        raise ValueError(f"{path}: holds no learner (format {about.get('format')!r}).")
    with _reading(Path(path)):
        return _rebuilt(about["learner"], weights), dict(about["info"])


def _rebuilt(description: Any, weights: Mapping[str, Tensor]) -> Learner:
    """The described learner with ``weights``, in the number types that they were saved in."""
    learner = build_empty(description)
    if not isinstance(learner, Learner):
        raise TypeError(f"it holds a {type(learner).__name__} in the place of a learner")
    learner.load_state_dict(weights, assign=True)
    return learner.eval()


def _take_weights(learner: Learner, weights: Mapping[str, Tensor]) -> Learner:
    """A user's own learner, on its device, with ``weights`` in the types they were saved in."""
    for name, own in learner.state_dict(keep_vars=True).items():
        if name in weights and own.is_floating_point():
            own.data = own.data.to(weights[name].dtype)
    try:
        learner.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"learner: it is not the one that was saved ({error}).") from error
    return learner.eval()


def save_predictor(predictor: Predictor, path: Path) -> Path:
    """Learner, state and spec in one file; see :meth:`quickstudy.core.Predictor.save`."""
    try:
        description = describe(predictor.learner)
    except ValueError:
        description = None  # a user's own code is not ours to name in a file
    losses = {resolve("loss", name, FUNCTIONS): name for name in FUNCTIONS}
    if predictor.spec.loss not in losses:
        raise ValueError(
            "save: the spec's loss is a function of your own, which a file cannot hold. "
            "Save with spec=classification(...) or regression(...); prediction needs no loss."
        )
    about = {
        "format": _FORMAT,
        "learner": description,
        "learner_class": type(predictor.learner).__name__,
        "spec": {
            "outputs": predictor.spec.outputs,
            "loss": losses[predictor.spec.loss],
            "name": predictor.spec.name,
        },
        "info": dict(predictor.info),
    }
    tree = {"learner": dict(predictor.learner.state_dict()), "state": predictor.state}
    return save_tree(path, tree, about)


def load_predictor(path: str | Path, learner: Learner | None = None) -> Predictor:
    """The predictor in a file that ``predictor.save`` wrote.

    ``learner`` is needed only where the saved one is of your own class, or was changed after it was
    made; it then takes the saved weights. Nothing in the file can run code. Raises ValueError for
    files that are no predictor.
    """
    tree, about = load_tree(Path(path))
    if about.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: holds no predictor (format {about.get('format')!r}). "
            "Give a file that predictor.save or `quickstudy adapt` wrote."
        )
    with _reading(Path(path)):
        weights, state = tree["learner"], tree["state"]
        spec, info, description = _spec(about["spec"]), dict(about["info"]), about["learner"]
    if learner is not None:
        return Predictor(_take_weights(learner, weights), state, spec, info)
    if description is None:
        raise ValueError(
            f"{path}: its learner {about.get('learner_class')!r} is your own class, has a part "
            "that is, or was changed after it was made. Build it and load with "
            "load_predictor(path, learner=...)."
        )
    with _reading(Path(path)):
        return Predictor(_rebuilt(description, weights), state, spec, info)


def _spec(about: Any) -> TaskSpec:
    outputs, loss, name = about["outputs"], about["loss"], about["name"]
    if type(outputs) is not int or outputs < 1 or not isinstance(loss, str):
        raise ValueError(f"its spec is {about!r}")
    return TaskSpec(outputs, resolve("loss", loss, FUNCTIONS), str(name))
