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
    """Write every tensor of ``tree`` to one file; the tree's structure and ``about`` in its header.

    ``tree``   nested dicts, lists and tuples of tensors or JSON scalars; NamedTuples are loaded as
               plain tuples.
    ``about``  any JSON.
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
    """The tree and ``about`` that :func:`save_tree` wrote; ValueError for any other file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    with _errors_name(path):
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            # Copies are aligned as torch aligns its own tensors: how products round depends on it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return _unflatten(header["tree"], tensors), dict(header["about"])


def _unflatten(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    match node:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": [*pairs]}:
            return {key: _unflatten(child, tensors) for key, child in pairs}
        case {"list": [*children]}:
            return [_unflatten(child, tensors) for child in children]
        case {"tuple": [*children]}:
            return tuple(_unflatten(child, tensors) for child in children)
        case {"value": None | bool() | int() | float() | str() as value}:
            return value
    raise ValueError("its tree is malformed")


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Turn the errors of reading a wrong file into one ValueError that names the file."""
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
            "Save it again, or use another copy."
        ) from e


def save(
    thing: Predictor | Learner, path: str | Path, info: Mapping[str, Any] | None = None
) -> Path:
    """Write a predictor, or a learner, to one file without pickle; :func:`load` reads it.

    ``info``  any JSON to save with it; for a predictor, in addition to its own.

    Weights, settings and the names of frozen parameters (``requires_grad=False``) are saved.

    Raises ValueError for a learner whose class, or a part of it, is not from quickstudy, or that
    was changed after it was made: save its ``state_dict`` instead. A predictor of such a learner
    can be saved, and loaded with ``load(path, learner=...)``.
    """
    if isinstance(thing, Predictor):
        return _save_predictor(thing, Path(path), {**thing.info, **(info or {})})
    about = {"format": _LEARNER, "learner": describe(thing), "info": dict(info or {})}
    return save_tree(Path(path), dict(thing.state_dict()), about)


def load(path: str | Path, learner: Learner | None = None, spec: TaskSpec | None = None) -> Any:
    """The predictor or learner in a file that :func:`save` wrote. Loading never runs code.

    ``learner``  only for a predictor whose learner is of your own class, or was changed after it
                 was made: a learner built in the same way, into which the saved weights are loaded.
    ``spec``     only for a predictor whose answer has your own code, as of ``qs.spec``: the spec
                 that it was made with.

    Raises FileNotFoundError where there is no file, ValueError for a file of another kind.
    """
    return load_with_info(path, learner, spec)[0]


def load_with_info(
    path: str | Path, learner: Learner | None = None, spec: TaskSpec | None = None
) -> tuple[Any, dict[str, Any]]:
    """The result of :func:`load`, and the ``info`` that was saved with it."""
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
    with _errors_name(path):
        return _rebuilt(about["learner"], tree), dict(about["info"])


def _rebuilt(description: Any, weights: Mapping[str, Tensor]) -> Learner:
    """The described learner with ``weights`` in their saved number types."""
    learner = build_empty(description)
    if not isinstance(learner, Learner):
        raise TypeError(f"it holds a {type(learner).__name__} instead of a learner")
    learner.load_state_dict(weights, assign=True)
    return learner.eval()


def _take_weights(learner: Learner, weights: Mapping[str, Tensor]) -> Learner:
    """A user's own learner, on its device, with ``weights`` in their saved number types."""
    for name, own in learner.state_dict(keep_vars=True).items():
        if name in weights and own.is_floating_point():
            own.data = own.data.to(weights[name].dtype)
    try:
        learner.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"learner: it must be built as the saved one was ({error}). Check its settings."
        ) from error
    return learner.eval()


def _save_predictor(predictor: Predictor, path: Path, info: Mapping[str, Any]) -> Path:
    try:
        description = describe(predictor.learner)
    except ValueError:
        description = None  # a file cannot name a user's own code
    about = {
        "format": _FORMAT,
        "learner": description,
        "learner_class": type(predictor.learner).__name__,
        "spec": _describe_spec(predictor.spec),
        "info": dict(info),
    }
    tree = {"learner": dict(predictor.learner.state_dict()), "state": predictor.state}
    return save_tree(path, tree, about)


def _load_predictor(
    path: Path, tree: Any, about: dict[str, Any], learner: Learner | None, spec: TaskSpec | None
) -> Predictor:
    with _errors_name(path):
        weights, state = tree["learner"], tree["state"]
        info, description = dict(about["info"]), about["learner"]
    found = _spec_of(path, about.get("spec"), spec)
    if learner is not None:
        return Predictor(_take_weights(learner, weights), state, found, info)
    if description is None:
        raise ValueError(
            f"{path}: its learner {about.get('learner_class')!r} is your own class, has a part "
            "that is, or was changed after it was made. Build it and load with "
            "load(path, learner=...)."
        )
    with _errors_name(path):
        return Predictor(_rebuilt(description, weights), state, found, info)


def _spec_of(path: Path, saved: Any, given: TaskSpec | None) -> TaskSpec:
    """The saved spec or, where it has the user's own code, the given one, which must fit it."""
    with _errors_name(path):
        answer, name = build_answer(saved["answer"]), str(saved["name"])
    if answer is not None:
        found = TaskSpec(answer, name)
        if given not in (None, found):
            raise ValueError(f"{path}: was made for {found}, but spec={given}. Leave it out.")
        return found
    if given is None:
        raise ValueError(
            f"{path}: its spec has code of your own, which a file cannot hold. Load with "
            "load(path, spec=...) and the spec that it was made with."
        )
    if _describe_spec(given) != saved:
        raise ValueError(
            f"{path}: was made for the spec {saved}, but spec= is {_describe_spec(given)}. Give "
            "the spec that it was made with."
        )
    return given


def _describe_spec(spec: TaskSpec) -> dict[str, Any]:
    return {"answer": describe_answer(spec.answer), "name": spec.name}
