"""Trees of tensors on disk: one safetensors file each, written atomically, without pickle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from quickstudy.base.atomic import write_atomically
from quickstudy.core import Learner, Predictor, TaskSpec
from quickstudy.files.answers import build_answer, describe_answer
from quickstudy.files.registry import build_empty, describe

_HEADER = "quickstudy"
_FORMAT = "quickstudy predictor 2"
_LEARNER = "quickstudy learner 1"


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
    return write_atomically(path, to_safetensors(tensors, metadata={_HEADER: header}))


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


def save(
    thing: Predictor | Learner, path: str | Path, info: Mapping[str, Any] | None = None
) -> Path:
    """Write a predictor, or a learner, to one file without pickle; :func:`load` reads it.

    ``info``  any JSON to keep with it; for a predictor, beside its own.

    Raises ValueError for a learner whose class, or a part of it, is not of quickstudy, or that was
    changed after it was made: keep its ``state_dict``. A predictor of such a learner is written,
    and read by ``load(path, learner=...)``.
    """
    if isinstance(thing, Predictor):
        return _save_predictor(thing, Path(path), {**thing.info, **(info or {})})
    about = {"format": _LEARNER, "learner": describe(thing), "info": dict(info or {})}
    return save_tree(Path(path), dict(thing.state_dict()), about)


def load(path: str | Path, learner: Learner | None = None, spec: TaskSpec | None = None) -> Any:
    """The predictor or learner in a file that :func:`save` wrote. Nothing in it can run code.

    ``learner``  for a predictor whose learner is of your own class, or was changed after it was
                 made: it takes the saved weights.
    ``spec``     for a predictor whose answer has functions of your own (``qs.spec``).

    Raises FileNotFoundError without such a file, ValueError for any other.
    """
    return load_with_info(path, learner, spec)[0]


def load_with_info(
    path: str | Path, learner: Learner | None = None, spec: TaskSpec | None = None
) -> tuple[Any, dict[str, Any]]:
    """What :func:`load` gives, and the ``info`` that was saved with it."""
    path = Path(path)
    tree, about = load_tree(path)
    kind = about.get("format")
    if kind not in (_FORMAT, _LEARNER):
        raise ValueError(
            f"{path}: holds neither a predictor nor a learner (format {kind!r}). Give a file that "
            "quickstudy.save or `quickstudy adapt` wrote."
        )
    if kind == _FORMAT:
        predictor = _load_predictor(path, tree, about, learner, spec)
        return predictor, dict(predictor.info)
    with _reading(path):
        return _rebuilt(about["learner"], tree), dict(about["info"])


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


def _save_predictor(predictor: Predictor, path: Path, info: Mapping[str, Any]) -> Path:
    try:
        description = describe(predictor.learner)
    except ValueError:
        description = None  # a user's own code is not ours to name in a file
    spec = predictor.spec
    about = {
        "format": _FORMAT,
        "learner": description,
        "learner_class": type(predictor.learner).__name__,
        "spec": {"answer": describe_answer(spec.answer), "name": spec.name},
        "info": dict(info),
    }
    tree = {"learner": dict(predictor.learner.state_dict()), "state": predictor.state}
    return save_tree(path, tree, about)


def _load_predictor(
    path: Path, tree: Any, about: dict[str, Any], learner: Learner | None, spec: TaskSpec | None
) -> Predictor:
    with _reading(path):
        weights, state = tree["learner"], tree["state"]
        info, description = dict(about["info"]), about["learner"]
        saved = about["spec"]
        answer = build_answer(saved["answer"])
        found = None if answer is None else TaskSpec(answer, str(saved["name"]))
    if found is None and spec is None:
        raise ValueError(
            f"{path}: its spec has functions of your own, which a file cannot hold. Load with "
            "load(path, spec=...), the spec that it was made with."
        )
    if found is not None and spec is not None and found != spec:
        raise ValueError(f"{path}: was made for {found}, but spec={spec} was given. Leave it out.")
    if learner is not None:
        return Predictor(_take_weights(learner, weights), state, found or spec, info)  # type: ignore[arg-type]
    if description is None:
        raise ValueError(
            f"{path}: its learner {about.get('learner_class')!r} is your own class, has a part "
            "that is, or was changed after it was made. Build it and load with "
            "load(path, learner=...)."
        )
    with _reading(path):
        return Predictor(_rebuilt(description, weights), state, found or spec, info)  # type: ignore[arg-type]
