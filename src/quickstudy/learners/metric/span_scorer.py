"""SpanScorer: the words of a text that answer, by likeness to the answers of the support."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from quickstudy.answers.spans import Spans
from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.extending import joint_means, refuse_shared_statistics
from quickstudy.tasks.examples import labelled

_OUTSIDE = -1e4
"""The logit of a place without a word."""


class SpanScorer(Learner):
    """Maps a support set to a finder of answers: places that are like the answers of the support.

    A row is a text of words, each with features s_t; h is the mean over the words of the *head*,
    what the question is about, and d_t the distance of word t to the first of these.

        z_t          = [s_t, h, s_t * h, e(d_t)]
        (u_t, b_t)   = g(z_t)              two vectors u (size,) and two numbers b: first, last word
        p            = mean of u at the answers' first and last words, less the mean of u over words
        logit_t      = u_t · p / sqrt(size) + b_t                 for the first word and for the last

    What is like an answer in every task (a name, a number) is in b; what is asked in this one is in
    p. Trained over tasks: g, a perceptron with one hidden layer, and e.

    ``backbone``  inputs (n, ...) -> (n, words, d + 2): features of each word, then 1 where there is
                  a word and 1 where it is of the head, as :class:`quickstudy.backbones.WordEncoder`
                  gives them. As ``features`` it declares d + 2.
    ``size``      of u.
    ``hidden``    units of g.
    ``farthest``  distances to the head are cut at this many words.

    State: ``means`` (2, size), p for first and last words; ``totals`` (2,), the total weight of the
    answers. Before any support, p is 0 and b alone decides (:meth:`prior`). :meth:`extend` adds rows
    later, exactly.

    Raises ValueError for sizes below 1, and for a backbone that does not declare its features.

    Reference: the mean of a class's features as in Snell, Swersky and Zemel (2017), Prototypical
    Networks; first and last word by two softmaxes over places as in Wang and Jiang (2017); questions
    that are relations as in Levy, Seo, Choi and Zettlemoyer (2017), Zero-Shot Relation Extraction
    via Reading Comprehension. The combination is this library's own.
    Differs from these: the likeness is a product, not a distance, and the prior b_t is learnt beside
    it. Levy et al. give the relation as a written question, and train for no support.

    >>> import torch, quickstudy as qs
    >>> learner = qs.SpanScorer(qs.backbones.Features(6), size=4, hidden=8)
    >>> words = torch.cat([torch.rand(3, 5, 4), torch.ones(3, 5, 2)], -1)
    >>> support = qs.examples(words, [[0, 1], [2, 2], [3, 4]])
    >>> learner(support, qs.spans())(words).shape
    torch.Size([3, 5, 2])
    """  # noqa: E501

    answers = (Spans,)
    exceptions = {  # noqa: RUF012
        "relabelling_permutes_outputs": "places have an order, and no class names to exchange",
    }

    def __init__(
        self, backbone: nn.Module, size: int = 64, hidden: int = 256, farthest: int = 15
    ) -> None:
        super().__init__()
        refuse_sizes("SpanScorer", size=size, hidden=hidden, farthest=farthest)
        d = feature_size(backbone, "SpanScorer") - 2
        if d < 1:
            raise ValueError(
                f"SpanScorer: a word needs at least 1 feature beside its 2 marks; found {d + 2} "
                "numbers in all. Give a backbone such as qs.backbones.WordEncoder."
            )
        self.backbone, self.size, self.hidden, self.farthest = backbone, size, hidden, farthest
        self.places = like(backbone, nn.Embedding(2 * farthest + 1, 16))
        self.layers = like(
            backbone,
            nn.Sequential(
                nn.Linear(3 * d + 16, hidden), nn.ReLU(), nn.Linear(hidden, 2 * size + 2)
            ),
        )

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """What the answers of ``support`` have in common."""
        support = labelled(support, spec.answer)
        u, _, exists = self._read(support.inputs)
        weights = support.weights.to(u.dtype)
        answers = _at(u, support.targets.clamp_min(0))  # (n, 2, size)
        of_all = (exists[..., None, None] * u).sum(1)
        counts = exists.sum(1).clamp_min(1.0)[:, None, None]
        total = weights.sum()
        share = weights / total.clamp_min(torch.finfo(u.dtype).tiny)
        means = torch.einsum("n,nrk->rk", share, answers - of_all / counts)
        return {"means": means, "totals": total.expand(2)}

    def prior(self, spec: TaskSpec) -> State:
        """The state before any support row: what is like an answer in every task.

        Raises ValueError for a backbone that normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "SpanScorer")
        means = like(self.layers, torch.zeros(2, self.size))
        return {"means": means, "totals": means.new_zeros(2)}

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        """The state of all earlier rows and ``support``.

        Raises ValueError for a backbone that normalises by statistics of one support set.
        """
        refuse_shared_statistics(self.backbone, "SpanScorer")
        more = self.adapt(support, spec)
        means, totals = joint_means(
            state["means"], state["totals"], more["means"], more["totals"]
        )
        return {"means": means, "totals": totals}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Logits (n, words, 2) of the first and of the last word of the answer."""
        u, b, exists = self._read(inputs)
        logits = torch.einsum("nlrk,rk->nlr", u, state["means"]) / self.size**0.5 + b
        return torch.where(exists.unsqueeze(-1) > 0, logits, _OUTSIDE)

    def _read(self, inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """u (n, words, 2, size), b (n, words, 2), and which places are words (n, words)."""
        features = self.backbone(inputs)
        s, exists, of_head = features[..., :-2], features[..., -2], features[..., -1]
        exists = exists.clamp(0.0, 1.0)
        share = of_head / of_head.sum(1, keepdim=True).clamp_min(1.0)
        h = torch.einsum("nl,nld->nd", share, s).unsqueeze(1).expand_as(s)
        z = torch.cat([s, h, s * h, self.places(self._distances(of_head))], -1)
        u, b = self.layers(z).split([2 * self.size, 2], -1)
        return u.unflatten(-1, (2, self.size)), b, exists

    def _distances(self, of_head: Tensor) -> Tensor:
        """(n, words): distance to the first word of the head, 0 for ``farthest`` before it."""
        place = torch.arange(of_head.shape[1], device=of_head.device)
        first = (of_head > 0).long().argmax(1, keepdim=True)
        return (place - first).clamp(-self.farthest, self.farthest) + self.farthest


def _at(u: Tensor, spans: Tensor) -> Tensor:
    """u (n, words, 2, size) of the first words as first, and of the last words as last: (n, 2, size)."""  # noqa: E501
    n, _, roles, size = u.shape
    places = spans.long().view(n, 1, roles, 1).expand(n, 1, roles, size)
    return u.gather(1, places).squeeze(1)
