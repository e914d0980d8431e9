"""Features of texts for applications: computed once, and kept on disk by content."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.backbones.joined import Features
from quickstudy.backbones.pretrained.feature_cache import feature_cache
from quickstudy.backbones.pretrained.features import features_of
from quickstudy.backbones.pretrained.load import pretrained
from quickstudy.backbones.pretrained.registry import card
from quickstudy.backbones.pretrained.source import PretrainedSource, digest_of
from quickstudy.backbones.text.encoder import TextEncoder
from quickstudy.backbones.text.entities import EntityEncoder, WordEncoder
from quickstudy.backbones.whitened import Whitened
from quickstudy.base.trees import map_tree
from quickstudy.core import Learner, Predictor
from quickstudy.datasets.tokenizer import MINILM_SHA256
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.tasks.episodes import Episodes, episodes
from quickstudy.tasks.rows import LabelledRows

ENCODER = "all-MiniLM-L6-v2"
_BATCH = 32
BASELINE = "nearest mean of frozen features"


@cache
def text_encoder(name: str) -> TextEncoder:
    """The frozen pretrained encoder ``name`` that reads texts and gives vectors of their tokens.

    Raises ValueError for a backbone that does not.
    """
    encoder = pretrained(name) if card(name).reads == "texts" else None
    if not isinstance(encoder, TextEncoder):
        raise ValueError(
            f"encoder: {name} gives no vectors of a text's tokens. Take {ENCODER}, or another "
            "model of the Hugging Face hub: hf:OWNER/NAME."
        )
    return encoder


def refuse_other_tokens(encoder: TextEncoder, data: str) -> None:
    """ValueError where ``data`` has tokens that are not those of ``encoder``."""
    if encoder.tokenizer.digest != MINILM_SHA256:
        raise ValueError(
            f"encoder: {data} comes with tokens of {ENCODER}, which this encoder would read as "
            f"other words. Take {ENCODER}."
        )


def encoded(inputs: Any, encoder: nn.Module) -> Tensor:
    """The features (n, ...) that ``encoder`` gives of ``inputs``; each is computed once.

    ``encoder``  a pretrained one, or :class:`EntityEncoder` or :class:`WordEncoder` on one. They
                 are kept as by :func:`quickstudy.featurise`.
    """
    own = encoder.encoder if isinstance(encoder, EntityEncoder | WordEncoder) else encoder
    source = getattr(own, "pretrained_source", None)
    kept = None
    if isinstance(source, PretrainedSource) and digest_of(own) == source.digest:
        name = source.name
        if own is not encoder:
            name += f"-{type(encoder).__name__}-{getattr(encoder, 'last', 1)}"
        kept = feature_cache(source._replace(name=name))
    if isinstance(own, TextEncoder) and not isinstance(encoder, WordEncoder):
        # Of one length, so that a text is known again, whatever texts stand beside it.
        longest = own.tokenizer.longest
        inputs = map_tree(lambda leaf: F.pad(leaf, (0, longest - leaf.shape[1])), inputs)
    # Texts of like length together, since padding costs time.
    order = inputs["mask"].sum(1).argsort(stable=True)
    ordered = map_tree(lambda leaf: leaf[order], inputs)
    return features_of(ordered, encoder, _BATCH, kept)[order.argsort()]


def first_rows(rows: LabelledRows, most: int) -> LabelledRows:
    """At most the first ``most`` rows of each class; 0 for all."""
    if not most:
        return rows
    counts = rows.counts.clamp_max(most)
    chosen = torch.cat([
        start + torch.arange(n)
        for start, n in zip(rows.starts.tolist(), counts.tolist(), strict=True)
    ])  # fmt: skip
    inputs = map_tree(lambda leaf: leaf[chosen], rows.inputs)
    return LabelledRows(inputs, counts, rows.names, rows.superclasses)


@contextmanager
def cutting(strict: bool) -> Iterator[None]:
    """A context in which texts that lose their end raise ValueError, if ``strict``."""
    if not strict:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="tokenize: at most")
        try:
            yield
        except UserWarning as error:
            raise ValueError(f"{error} Or leave strict out, to go on with what is read.") from error


class ClassTasks(NamedTuple):
    """Sources of tasks to train, validate and test on; None where nothing is trained."""

    train: Episodes | None
    val: Episodes | None
    test: Episodes


def class_tasks(
    split: Mapping[str, LabelledRows], ways: int, shots: int, queries: int,
    training: tuple[int, int] | None,
) -> ClassTasks:  # fmt: skip
    """Tasks of the classes of a split: "train", "val" and "test", of which the first two may lack.

    ``ways``      of a task, or as many as a part has.
    ``training``  ways and queries of training tasks; None where nothing is trained.
    """
    of_test = episodes(split["test"], min(ways, len(split["test"])), shots, queries)
    if training is None:
        return ClassTasks(None, None, of_test)
    train_ways, train_queries = training
    train = episodes(split["train"], min(train_ways, len(split["train"])), shots, train_queries)
    val = None
    if len(split.get("val", ())) > 1:
        most = min(ways, len(split["val"]), len(split["test"]))
        val = episodes(split["val"], most, shots, queries)
    return ClassTasks(train, val, of_test)


def is_trained(learner: str) -> bool:
    """Whether the learner of this name trains a network over tasks."""
    return LEARNERS[learner].family != "transfer"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context in which new weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def on_features(name: str, base: LabelledRows | None, features: int) -> Learner:
    """The learner ``name`` on features (n, features).

    Where it trains its backbone over tasks, that is :class:`Whitened` by the ``base`` classes.
    """
    cls = resolve("learner", name, LEARNERS)
    if not is_trained(name):
        made: Learner = cls(Features(features))
        return made
    backbone = Whitened(features)
    if base is not None:
        backbone.fit_on(base)
    scale = {"scale": 10.0} if name == "prototypical" else {}  # features have length 1
    learner: Learner = cls(backbone, **scale)
    return learner


def names_of(predictor: Predictor) -> list[str]:
    """The names of the classes of a predictor; ValueError where its file has not one for each."""
    names = predictor.info.get("names")
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    if not named or names is None or len(names) != predictor.spec.outputs:
        raise ValueError(
            f"predict: the predictor distinguishes {predictor.spec.outputs} classes, but its file "
            f"names {str(names)[:100]}. Adapt again."
        )
    return list(names)
