"""SpanScorer: the words of a text that answer, by likeness to the answers of the support."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.spans import Spans, refuse_beyond
from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.extending import joint_means, refuse_shared_statistics
from quickstudy.learners.metric.distances import unit

_OUTSIDE = -1e4
"""The logit of a place without a word."""
_PLACES = 8
"""Size of the embedding of a distance."""
_SCALE = 8.0
"""Factor on cosines, before training."""


class _Text(NamedTuple):
    """What a learner reads of n texts.

    ``s``       (n, words, d) features of length 1.
    ``u``       (n, words, 2, size), for first and last words.
    ``b``       (n, words, 2), likewise.
    ``exists``  (n, words): 1 where there is a word.
    """

    s: Tensor
    u: Tensor
    b: Tensor
    exists: Tensor


class SpanScorer(Learner):
    """Maps a support set to a finder of answers: words that are like the answers of the support.

    A row is a text whose word t has features s_t of length 1 and marks c_t, such as whether it is
    capitalised. h is the mean feature of the *head*, the words that the question is about, and d_t
    the distance of word t to the first of these.

        z_t          = [P s_t, P h, P s_t * P h, c_{t-1}, c_t, c_{t+1}, whether of the head, e(d_t)]
        (u_t, b_t)   = g(z_t)
        logit_t      = a (s_t · p̂ - s_t · n̂) + u_t · q / sqrt(size) + b_t

        p = mean of s at the answers' words,   n = mean of s over all words,   p̂ = p / |p|
        q = mean of u at the answers' words, less the mean of u over all words

    once for the first word of an answer and once for the last, each with its own a, u, b, p, q.
    What is like an answer in every task (names, numbers) is in b; what is asked in this one, the
    answers of the support say: p in features as they are, q in those that training finds useful.
    Trained over tasks are a, the projection P, the perceptron g and the embedding e.

    ``backbone``  inputs (n, ...) -> (n, words, d + marks + 2): features of each word, its marks,
                  then 1 where there is a word, and 1 where it is of the head, as
                  :class:`quickstudy.backbones.WordEncoder` gives them (without marks). As
                  ``features`` it declares d + marks + 2.
    ``marks``     how many of these there are.
    ``size``      of u.
    ``width``     of P s.
    ``hidden``    units of g.
    ``farthest``  distances to the head are cut at this many words.

    State: ``means`` (2, 2 d + size), p, n and q of first and last words; ``totals`` (2,), the total
    weight of the answers. Before any support these are 0, and b alone decides (:meth:`prior`).
    :meth:`extend` adds rows later, exactly.

    Raises ValueError for sizes below 1, for a backbone that does not declare its features, and for
    an answer beyond the words of its text.

    Reference: the mean of a class's features as in Snell, Swersky and Zemel (2017), Prototypical
    Networks; first and last word by two softmaxes over places as in Wang and Jiang (2017); questions
    that are relations as in Levy, Seo, Choi and Zettlemoyer (2017), Zero-Shot Relation Extraction
    via Reading Comprehension. The combination is this library's own.
    Differs from these: likeness is a product, not a distance; the prior b is learnt beside it; the
    question is not read, where Levy et al. write it out and train for no support.

    >>> import torch, quickstudy as qs
    >>> learner = qs.SpanScorer(qs.backbones.Features(6), size=4, hidden=8)
    >>> words = torch.cat([torch.rand(3, 5, 4), torch.ones(3, 5, 2)], -1)
    >>> support = qs.examples(words, [[0, 1], [2, 2], [3, 4]])
    >>> learner(support, qs.spans())(words).shape
    torch.Size([3, 5, 2])
    """  # noqa: E501

    answers = (Spans,)

    def __init__(
        self, backbone: nn.Module, marks: int = 0, size: int = 32, width: int = 64,
        hidden: int = 96, farthest: int = 15,
    ) -> None:  # fmt: skip
        super().__init__()
        refuse_sizes("SpanScorer", size=size, width=width, hidden=hidden, farthest=farthest)
        d = feature_size(backbone, "SpanScorer") - 2 - marks
        if marks < 0 or d < 1:
            raise ValueError(
                f"SpanScorer: a word needs at least 1 feature beside its {marks} marks and what it "
                f"is; found {d + 2 + marks} numbers in all. Give a backbone such as "
                "qs.backbones.WordEncoder."
            )
        self.backbone, self.marks, self.size, self.width = backbone, marks, size, width
        self.hidden, self.farthest = hidden, farthest
        self.projection = like(backbone, nn.Linear(d, width))
        self.places = like(backbone, nn.Embedding(2 * farthest + 1, _PLACES))
        self.first = like(backbone, nn.Linear(3 * width + 3 * marks + 1 + _PLACES, hidden))
        self.second = like(backbone, nn.Linear(hidden, 2 * size + 2))
        self.scale = nn.Parameter(like(backbone, torch.full((2,), _SCALE)))
        with torch.no_grad():  # the likeness of features as they are decides at first
            self.second.weight[2 * size :] = 0.0
            self.second.bias[2 * size :] = 0.0

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """What the answers of ``support`` have in common."""
        text = self._read(support.inputs)
        refuse_beyond(support.targets, text.s.shape[1])
        known = spec.answer.known(support.targets).to(text.s.dtype)  # (n, 2)
        weights = support.weights.to(text.s.dtype).unsqueeze(-1) * known
        totals = weights.sum(0)
        shares = weights / totals.clamp_min(torch.finfo(totals.dtype).tiny)
        ends = support.targets.clamp_min(0)
        counts = text.exists.sum(1).clamp_min(1.0)
        s_all = torch.einsum("nl,nld->nd", text.exists, text.s) / counts[:, None]
        u_all = torch.einsum("nl,nlrk->nrk", text.exists, text.u) / counts[:, None, None]
        s = text.s.unsqueeze(2).expand(-1, -1, 2, -1)
        of_rows = torch.cat(
            [_at(s, ends), s_all.unsqueeze(1).expand(-1, 2, -1), _at(text.u, ends) - u_all], -1
        )
        return {"means": torch.einsum("nr,nrk->rk", shares, of_rows), "totals": totals}

    def prior(self, spec: TaskSpec) -> State:
        """The state before any support row: what is like an answer in every task.

        Raises ValueError for a backbone that normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "SpanScorer")
        width = 2 * self.projection.in_features + self.size
        means = self.scale.new_zeros(2, width)
        return {"means": means, "totals": means.new_zeros(2)}

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """The state of all earlier rows and ``support``.

        Raises ValueError for a backbone that normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "SpanScorer")
        more = self.adapt(support, spec)
        means, totals = joint_means(state["means"], state["totals"], more["means"], more["totals"])
        return {"means": means, "totals": totals}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, words, 2) of the first and of the last word of the answer."""
        text = self._read(inputs)
        d = text.s.shape[-1]
        p, n, q = state["means"].split([d, d, self.size], -1)
        likeness = torch.einsum("nld,rd->nlr", text.s, unit(p) - unit(n))
        learnt = torch.einsum("nlrk,rk->nlr", text.u, q) / self.size**0.5
        logits = self.scale * likeness + learnt + text.b
        return torch.where(text.exists.unsqueeze(-1) > 0, logits, _OUTSIDE)

    def _read(self, inputs: Any) -> _Text:
        features = self.backbone(inputs)
        d = features.shape[-1] - self.marks - 2
        s, c, exists, of_head = features.split([d, self.marks, 1, 1], -1)
        s, exists = unit(s), exists.squeeze(-1).clamp(0.0, 1.0)
        share = of_head.squeeze(-1) / of_head.sum(1).clamp_min(1.0)
        projected = self.projection(s)
        h = torch.einsum("nl,nlk->nk", share, projected).unsqueeze(1).expand_as(projected)
        around = torch.cat([F.pad(c, (0, 0, 1, 0))[:, :-1], c, F.pad(c, (0, 0, 0, 1))[:, 1:]], -1)
        distances = self.places(self._distances(of_head.squeeze(-1)))
        z = torch.cat([projected, h, projected * h, around, of_head, distances], -1)
        u, b = self.second(self.first(z).relu()).split([2 * self.size, 2], -1)
        return _Text(s, u.unflatten(-1, (2, self.size)), b, exists)

    def _distances(self, of_head: Tensor) -> Tensor:
        """(n, words): distance to the first word of the head, 0 for ``farthest`` before it."""
        place = torch.arange(of_head.shape[1], device=of_head.device)
        first = (of_head > 0).long().argmax(1, keepdim=True)
        return (place - first).clamp(-self.farthest, self.farthest) + self.farthest


def _at(values: Tensor, spans: Tensor) -> Tensor:
    """(n, 2, k): of values (n, words, 2, k), the first word's as first, the last word's as last."""
    n, _, roles, size = values.shape
    places = spans.long().view(n, 1, roles, 1).expand(n, 1, roles, size)
    return values.gather(1, places).squeeze(1)
