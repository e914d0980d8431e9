"""Saved predictors and learners: what a file says about them, and what loading it checks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from quickstudy.base.modules import device_of
from quickstudy.base.trees import leaves
from quickstudy.core import Learner, Predictor, TaskSpec
from quickstudy.files.answers import build_answer, describe_answer
from quickstudy.files.checks import (
    declared_rows,
    refuse_mixed_precision,
    refuse_other_tensors,
    refuse_wrong_state,
    refuse_wrong_weights,
    to_device,
    try_prediction,
)
from quickstudy.files.registry import OwnCodeError, build_empty, describe
from quickstudy.files.settings import outside_of, refuse_other_settings, settings_of
from quickstudy.files.sources import (
    Originals,
    check_networks,
    named_networks,
    take_other_buffers,
    with_originals,
    without_originals,
)
from quickstudy.files.trees import errors_name, load_tree, save_tree

_PREDICTOR, _LEARNER = "quickstudy predictor 4", "quickstudy learner 3"
_EARLIER = {"quickstudy predictor 3": _PREDICTOR, "quickstudy learner 2": _LEARNER}
"""Formats that still load: they do not name pretrained networks, but hold their weights."""


class _Saved(NamedTuple):
    """The contents of a file: the learner's tensors, and the state and rows of a predictor."""

    path: Path
    weights: dict[str, Tensor]
    state: Any
    no_rows: Any
    about: dict[str, Any]


def save(
    thing: Predictor | Learner, path: str | Path, info: Mapping[str, Any] | None = None
) -> Path:
    """Write a predictor, or a learner, to one file without pickle; :func:`load` reads it.

    ``info``  any JSON to save with it; for a predictor, in addition to its own.

    Weights, settings and the names of frozen parameters (``requires_grad=False``) are saved. Of
    networks by :func:`quickstudy.pretrained`, the file has the name and the digest instead of those
    weights that are as they were made: loading takes them from the installed package. Of a
    learner whose class, or a part of it, is your own, or that was changed after it was made, the
    file holds everything but the code: build the learner again, and give it to ``load``.

    Raises ValueError for weights or a state that are not finite, for settings that no file may ask
    for (:mod:`quickstudy.files.limits`), and for a predictor that cannot predict.
    """
    path, predictor = Path(path), thing if isinstance(thing, Predictor) else None
    learner = thing.learner if isinstance(thing, Predictor) else thing
    try:
        about, weights = _about(learner, predictor), dict(learner.state_dict())
        tree = weights if predictor is None else _tree(predictor, about, weights)
        about["pretrained"] = named_networks(learner)
        kept = without_originals(weights, about["pretrained"], Originals())
        tree = kept if predictor is None else {**tree, "learner": kept}
    except ValueError as error:
        raise ValueError(
            f"save: {path} would not load again: {str(error).removesuffix('.')}. Change the "
            "learner, or train and adapt it again."
        ) from error
    about["info"] = {**(predictor.info if predictor else {}), **(info or {})}
    return save_tree(path, tree, about)


def _about(learner: Learner, predictor: Predictor | None) -> dict[str, Any]:
    """What a file says about a learner, whose weights are checked here."""
    try:
        description = describe(learner, _tensors(predictor.state) if predictor else ())
        own_buffers: dict[str, Tensor] = {}
        state = predictor.state if predictor else None
        refuse_mixed_precision([dict(learner.state_dict()), state])
    except OwnCodeError:  # a file cannot name a user's own code
        description, own_buffers = None, dict(learner.named_buffers())
    refuse_wrong_weights(dict(learner.state_dict()), own_buffers)
    settings = settings_of(learner)
    if description is not None:  # which has compared these networks with new ones
        settings = outside_of(settings, named_networks(learner))
    return {
        "format": _LEARNER if predictor is None else _PREDICTOR,
        "learner": description,
        "learner_class": type(learner).__name__,
        "settings": settings,
        "frozen": _frozen(learner),
    }


def _tree(predictor: Predictor, about: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    """What a file holds of a predictor, which is checked here; adds its spec to ``about``."""
    refuse_wrong_state(predictor.state)
    about["spec"] = _describe_spec(predictor.spec)
    build_answer(about["spec"]["answer"], _tensors(weights, predictor.state))
    no_rows = predictor.no_rows
    if about["learner"] is None:
        try:  # on loading too, unless the user's own code cannot be tried with a row of ones
            try_prediction(predictor)
        except Exception:
            no_rows = None
    else:
        try_prediction(_with_rows(predictor))
    return {"learner": weights, "state": predictor.state, "no_rows": no_rows}


def load(path: str | Path, learner: Learner | None = None, spec: TaskSpec | None = None) -> Any:
    """The predictor or learner in a file that :func:`save` wrote. Loading never runs code.

    ``learner``  only for a file whose learner is of your own class, has a part that is, or was
                 changed after it was made: a learner built in the same way. The saved weights are
                 loaded into it. Its settings must be the saved ones. Its parameters stay frozen or
                 trainable as they are; a warning names those that were not so when saved.
    ``spec``     only for a predictor whose answer has your own code, as of ``qs.spec``: the spec
                 that it was made with.

    Raises FileNotFoundError where there is no file; ValueError that names the file where it is of
    another kind, is damaged, or does not fit ``learner`` or ``spec``, and where it names pretrained
    weights that are not those of the installed package; ImportError, with the command that installs
    it, where there is no such package.
    """
    return load_with_info(path, learner, spec)[0]


def load_with_info(
    path: str | Path, learner: Learner | None = None, spec: TaskSpec | None = None
) -> tuple[Any, dict[str, Any]]:
    """The result of :func:`load`, and the ``info`` that was saved with it."""
    saved = _read(Path(path))
    about, description = saved.about, saved.about["learner"]
    if description is None and learner is None:
        raise ValueError(
            f"{path}: its learner {about['learner_class']!r} is your own class, has a part that "
            "is, or was changed after it was made. Build it and load with load(path, learner=...)."
        )
    if about["format"] == _LEARNER:
        if spec is not None:
            raise ValueError(f"{path}: holds a learner, which has no spec. Leave spec out.")
        return _learner_of(saved, learner), about["info"]
    found = _spec_of(saved, spec)
    loaded = _learner_of(saved, learner)
    state = to_device(saved.state, device_of(loaded))
    predictor = Predictor(loaded, state, found, about["info"], saved.no_rows)
    with errors_name(saved.path):
        try_prediction(predictor if description is None else _with_rows(predictor))
    return predictor, about["info"]


def _read(path: Path) -> _Saved:
    """The contents of the file, whose parts are of the right types."""
    tree, about = load_tree(path)
    kind = about.get("format")
    if isinstance(kind, str) and kind in _EARLIER:
        kind = about["format"] = _EARLIER[kind]
        about["pretrained"] = {}
    if kind not in (_PREDICTOR, _LEARNER):
        raise ValueError(
            f"{path}: holds neither a predictor nor a learner of this version (format {kind!r}). "
            "Give a file that quickstudy.save or `quickstudy adapt` wrote."
        )
    with errors_name(path):
        if missing := {"learner", "settings", "frozen", "pretrained"} - about.keys():
            raise ValueError(f"it does not say its {min(missing)}")
        about["info"], about["learner_class"] = dict(about["info"]), str(about["learner_class"])
        whole = {"learner": tree, "state": {}, "no_rows": None} if kind == _LEARNER else dict(tree)
        saved = _Saved(path, dict(whole["learner"]), whole["state"], whole["no_rows"], about)
        if any(len(leaf) for leaf in leaves(saved.no_rows) if saved.no_rows is not None):
            raise ValueError("the inputs that show its shapes have rows")
    return saved


def _learner_of(saved: _Saved, own: Learner | None) -> Learner:
    """The described learner, or ``own``, with the saved weights in their saved number types."""
    path, about, originals = saved.path, saved.about, Originals()
    if own is None:
        with errors_name(path):
            learner = build_empty(about["learner"], _tensors(saved.weights, saved.state))
            if not isinstance(learner, Learner):
                raise TypeError(f"it holds a {type(learner).__name__} instead of a learner")
            weights = _complete(saved, learner, originals)
            refuse_other_tensors(weights, learner.state_dict())
            refuse_mixed_precision([weights, saved.state])
            refuse_wrong_weights(weights)
            refuse_wrong_state(saved.state)
            learner.load_state_dict(weights, assign=True)
            take_other_buffers(learner, originals)
            return learner.eval()
    remedy = "Build the learner as the saved one was."
    with errors_name(path, "does not fit the learner that was given", remedy):
        named = () if about["learner"] is None else named_networks(own)  # as when saved
        refuse_other_settings(about["settings"], own, named)
        weights = _complete(saved, own, originals)
        refuse_other_tensors(weights, own.state_dict())
        if any(tensor.dtype != weights[name].dtype for name, tensor in own.state_dict().items()):
            refuse_mixed_precision(weights)
        refuse_wrong_weights(weights, dict(own.named_buffers()))
        refuse_wrong_state(saved.state)
        unlike = sorted({*map(str, about["frozen"])} ^ {*_frozen(own)})
        for name, tensor in own.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(weights[name].dtype)
        own.load_state_dict(weights)
    if unlike:
        listed = f"{', '.join(unlike[:3])}{', …' if len(unlike) > 3 else ''}"
        warnings.warn(
            f"{path}: frozen in the file or in learner=, but not in both: {listed}. They stay as "
            "they are in learner=. Call requires_grad_ on them if that is not meant.",
            stacklevel=4,
        )
    return own.eval()


def _complete(saved: _Saved, learner: Learner, originals: Originals) -> dict[str, Any]:
    """The saved weights, with those of the pretrained networks that the file names."""
    networks = check_networks(saved.about["pretrained"], learner)
    return with_originals(saved.weights, networks, originals)


def _with_rows(predictor: Predictor) -> Predictor:
    """``predictor``, whose ``no_rows`` are its backbone's if it was made without."""
    if predictor.no_rows is not None:
        return predictor
    return replace(predictor, no_rows=declared_rows(predictor.learner))


def _frozen(learner: Learner) -> list[str]:
    return [name for name, p in learner.named_parameters() if not p.requires_grad]


def _tensors(*trees: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(trees) if isinstance(leaf, Tensor)]


def _spec_of(saved: _Saved, given: TaskSpec | None) -> TaskSpec:
    """The saved spec or, where it has the user's own code, the given one, which must fit it."""
    path = saved.path
    with errors_name(path):
        description, name = saved.about["spec"]["answer"], str(saved.about["spec"]["name"])
        answer = build_answer(description, _tensors(saved.weights, saved.state))
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
    own = _describe_spec(given)
    if own != saved.about["spec"]:
        raise ValueError(
            f"{path}: was made for the spec {saved.about['spec']}, but spec= is {own}. Give the "
            "spec that it was made with."
        )
    return given


def _describe_spec(spec: TaskSpec) -> dict[str, Any]:
    return {"answer": describe_answer(spec.answer), "name": spec.name}
