"""Trees of tensors on disk: one safetensors file each, written atomically, without pickle."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from quickstudy.core import Learner, Predictor, TaskSpec
from quickstudy.registry import FUNCTIONS, build, describe, resolve

_HEADER = "quickstudy"
_FORMAT = "quickstudy predictor 1"
_LEARNER = "quickstudy learner 1"


def write_atomically(path: Path, content: bytes) -> Path:
    """Write ``content`` so that a reader, or a crash, sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
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
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: not a file that quickstudy wrote, or a damaged one ({error}). "
            "Write it again, or use another copy."
        ) from error

    def grown(node: dict[str, Any]) -> Any:
        ((kind, value),) = node.items()
        if kind == "tensor":
            return tensors[value]
        if kind == "dict":
            return {key: grown(child) for key, child in value}
        if kind in ("list", "tuple"):
            return (list if kind == "list" else tuple)(grown(child) for child in value)
        return value

    return grown(header["tree"]), header["about"]


def save_learner(learner: Learner, path: str | Path, info: dict[str, Any] | None = None) -> Path:
    """A learner's description and weights in one file; ``info`` is any JSON to keep with them.

    Raises ValueError for a learner, or a backbone, of your own class: keep its ``state_dict``.
    """
    about = {"format": _LEARNER, "learner": describe(learner), "info": info or {}}
    return save_tree(Path(path), dict(learner.state_dict()), about)


def load_learner(path: str | Path) -> tuple[Learner, dict[str, Any]]:
    """The learner in a file that :func:`save_learner` wrote, and its ``info``."""
    weights, about = load_tree(Path(path))
    if about.get("format") != _LEARNER:
        raise ValueError(f"{path}: holds no learner (format {about.get('format')!r}).")
    learner: Learner = build(about["learner"])
    learner.load_state_dict(weights)
    return learner.eval(), about["info"]


def save_predictor(predictor: Predictor, path: Path) -> Path:
    """Learner, state and spec in one file; see :meth:`quickstudy.core.Predictor.save`."""
    try:
        description = describe(predictor.learner)
    except ValueError:
        description = None  # a user's own class: its code is not ours to name in a file
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

    ``learner`` is needed only where the saved one is of your own class; it then takes the saved
    weights. Nothing in the file can run code. Raises ValueError for files that are no predictor.
    """
    tree, about = load_tree(Path(path))
    if about.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: holds no predictor (format {about.get('format')!r}). "
            "Give a file that predictor.save or `quickstudy adapt` wrote."
        )
    if learner is None:
        if about["learner"] is None:
            raise ValueError(
                f"{path}: its learner is your own class {about['learner_class']!r}. "
                "Build it and load with load_predictor(path, learner=...)."
            )
        learner = build(about["learner"])
    learner.load_state_dict(tree["learner"])
    spec = about["spec"]
    loss = resolve("loss", spec["loss"], FUNCTIONS)
    task_spec = TaskSpec(spec["outputs"], loss, spec["name"])
    return Predictor(learner.eval(), tree["state"], task_spec, about["info"])
