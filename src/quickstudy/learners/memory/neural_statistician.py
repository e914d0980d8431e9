"""Neural statistician: from a few drawings to new ones of the same kind."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quickstudy.answers.reals import Reals
from quickstudy.backbones.features import feature_size, like, refuse_sizes
from quickstudy.backbones.norms import embed_query, embed_support
from quickstudy.base.weighting import counting
from quickstudy.core import Examples, Learner, State, Task, TaskSpec
from quickstudy.learners.outputs import element_weights, label_vectors, refuse_more_outputs
from quickstudy.objectives import Outcome, predict_rows, score_of
from quickstudy.tasks.examples import counted_weights, labelled, require_given

LEAST = 1e-3
"""Of every deviation, so that no logarithm of it is infinite."""


class Gaussian(NamedTuple):
    """Independent normal numbers: ``mean`` and ``deviation``, each (..., d)."""

    mean: Tensor
    deviation: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """mean + deviation * noise, for standard normal ``noise``."""
        return self.mean + self.deviation * noise


def statistician_bound(learner: Learner, task: Task) -> Outcome:
    """The negative lower bound on the log-likelihood of the support, for each row.

        KL(q(c | D) || N(0, 1)) / sum_i w_i
        - mean_i [log p(y_i | z_i, c_i) - KL(q(z | y_i, c_i) || p(z | c_i))]

    The data set D of the paper is the support set; c_i and z_i are drawn with the noise of row i.
    The score is that of the queries. Raises TypeError for another learner.
    """
    if not isinstance(learner, NeuralStatistician):
        raise TypeError(
            f"statistician_bound: needs a NeuralStatistician; found {type(learner).__name__}."
        )
    support = require_given(task.support)
    predictor = learner(support, task.spec)
    loss = learner.bound(predictor.state, support, task.spec)
    query = require_given(task.query)
    return Outcome(loss, score_of(predict_rows(predictor, query), query, task.spec.answer))


class NeuralStatistician(Learner):
    """Maps a support set of drawings to a distribution, and noise to new drawings from it.

        h_i           = e(y_i)
        q(c | D)      = N(statistic(sum_i w_i pool(h_i) / sum_i w_i))         (the context)
        p(z | c)      = N(prior(c)),      q(z | y_i, c) = N(posterior(h_i, c))
        p(y | z, c)   = Bernoulli(sigmoid(g(z, c)))

    The context c says what the drawings have in common, z how each differs. Targets are shares of
    ink, from 0 to 1. The predictor takes standard normal noise, and gives the expected ink of a new
    drawing: c is drawn from q(c | D) and z from p(z | c). Noise of 0 gives the typical drawing.

    ``backbone``  noise (n, ...) -> (n, context + latent); of noise as it is drawn,
                  :class:`quickstudy.backbones.Features`. The last ``latent`` numbers are for z.
    ``outputs``   pixels of a drawing, the most that a task may have.
    ``latent``    size of z; 16 in the paper's Omniglot.
    ``hidden``    width of the hidden layers.
    ``warm_up``   share of training in which the weight of both divergences rises from 0 to 1; with
                  their full weight from the start, c and z often stay unused.

    State: ``mean`` and ``deviation`` (context,) of q(c | D); ``statistics`` for norm="support".

    Raises ValueError for more outputs than it has, for a backbone with no more features than
    ``latent``, and for targets that are not one vector a row.

    :func:`statistician_bound` trains it.

    Reference: Edwards and Storkey (2017), Towards a Neural Statistician, equations 3 to 8 with one
    stochastic layer; the warm-up is that of Sønderby et al. (2016), Ladder Variational
    Autoencoders.
    Differs from the paper in drawing a context for each row and not one for all, which has the same
    expectation; in the warm-up; in shares of ink where the paper's drawings are black or white; in
    new drawings from drawn contexts, where the paper's are from the mean; and in fully connected
    nets without batch normalisation, whose statistics would make one query depend on others; the
    paper's nets for Omniglot are convolutional.

    >>> import torch, quickstudy as qs
    >>> learner = qs.NeuralStatistician(qs.backbones.Features(8), outputs=4, latent=2)
    >>> support = qs.examples(torch.randn(3, 8), torch.eye(4)[:3])
    >>> learner(support, qs.regression(4))(torch.randn(5, 8)).shape
    torch.Size([5, 4])
    """

    answers = (Reals,)
    objective = staticmethod(statistician_bound)

    def __init__(
        self,
        backbone: nn.Module,
        outputs: int,
        latent: int = 2,
        hidden: int = 256,
        warm_up: float = 0.5,
    ) -> None:
        super().__init__()
        name = "NeuralStatistician"
        refuse_sizes(name, outputs=outputs, latent=latent, hidden=hidden)
        if not 0 <= warm_up <= 1:
            raise ValueError(f"{name}: warm_up must lie between 0 and 1; found {warm_up}.")
        self.outputs, self.latent, self.hidden = outputs, latent, hidden
        self.warm_up, self._weight = warm_up, 1.0
        self.context = feature_size(backbone, name) - latent
        if self.context < 1:
            raise ValueError(
                f"{name}: the backbone must give more features than latent, one for each number "
                f"of the context; found {self.context + latent} and latent={latent}."
            )
        self.encoder = _net(outputs, hidden, hidden)
        self.pool = _net(hidden, hidden)
        self.statistic = _net(hidden, hidden, 2 * self.context, last=True)
        self.prior_net = _net(self.context, hidden, 2 * latent, last=True)
        self.posterior = _net(hidden + self.context, hidden, 2 * latent, last=True)
        self.decoder = _net(latent + self.context, hidden, hidden, outputs, last=True)
        like(backbone, self)  # before the backbone is assigned, which is not converted
        self.backbone = backbone

    @property
    def scheduled(self) -> bool:
        """Whether the weight of the divergences changes in the course of training."""
        return self.warm_up > 0

    def set_progress(self, progress: float) -> None:
        """Set the share of training that is done, in [0, 1]; the trainer calls it."""
        self._weight = min(1.0, progress / self.warm_up) if self.warm_up else 1.0

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        """q(c | D) for the targets of ``support``, whose inputs it does not read."""
        refuse_more_outputs("NeuralStatistician", spec, self.outputs)
        support = labelled(support, spec.answer)
        noise, statistics = embed_support(self.backbone, support)
        encoded = self.pool(self.encoder(self._targets(support, spec, noise.dtype)))
        share = support.weights / support.weights.sum().clamp_min(torch.finfo(noise.dtype).tiny)
        context = _gaussian(self.statistic(share.to(noise.dtype) @ encoded))
        return {"mean": context.mean, "deviation": context.deviation, "statistics": statistics}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        """Expected ink (n, outputs) of a new drawing for each row of noise."""
        noise = embed_query(self.backbone, inputs, state["statistics"])
        context = self._context(state).draw(noise[:, : self.context])
        z = _gaussian(self.prior_net(context)).draw(noise[:, self.context :])
        return self._logits(z, context)[:, : spec.outputs].sigmoid()

    def bound(self, state: State, support: Examples, spec: TaskSpec) -> Tensor:
        """The negative lower bound for each row of weight 1, see :func:`statistician_bound`."""
        support = labelled(support, spec.answer)
        with counting(counted_weights(support, spec.answer)):
            noise = embed_query(self.backbone, support.inputs, state["statistics"])
        targets = self._targets(support, spec, noise.dtype)
        whole = self._context(state)
        context = whole.draw(noise[:, : self.context])
        prior = _gaussian(self.prior_net(context))
        encoded = torch.cat([self.encoder(targets), context], -1)
        posterior = _gaussian(self.posterior(encoded))
        logits = self._logits(posterior.draw(noise[:, self.context :]), context)
        log_likelihood = -F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        known = F.pad(
            element_weights(support, spec.answer, noise.dtype), (0, self.outputs - spec.outputs)
        )
        weights = support.weights.to(noise.dtype)
        divergence = self._weight * weights * _divergence(posterior, prior)
        rows = (known * log_likelihood).sum(-1) - divergence
        standard = Gaussian(torch.zeros_like(whole.mean), torch.ones_like(whole.mean))
        total = weights.sum().clamp_min(torch.finfo(noise.dtype).tiny)
        return (self._weight * _divergence(whole, standard) - rows.sum()) / total

    def _targets(self, support: Examples, spec: TaskSpec, dtype: torch.dtype) -> Tensor:
        """(n, outputs), zeros where unknown."""
        return label_vectors(support, spec.answer, self.outputs, dtype)

    def _context(self, state: State) -> Gaussian:
        return Gaussian(state["mean"], state["deviation"])

    def _logits(self, z: Tensor, context: Tensor) -> Tensor:
        logits: Tensor = self.decoder(torch.cat([z, context], -1))
        return logits


def _gaussian(numbers: Tensor) -> Gaussian:
    mean, spread = numbers.chunk(2, -1)
    return Gaussian(mean, LEAST + F.softplus(spread))


def _divergence(of: Gaussian, to: Gaussian) -> Tensor:
    """KL(of || to), summed over the numbers."""
    ratio = (of.deviation / to.deviation).square()
    distance = ((of.mean - to.mean) / to.deviation).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(-1)


def _net(*widths: int, last: bool = False) -> nn.Sequential:
    """Linear layers with ELU after each, but after the last one where ``last``."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ELU()]
    return nn.Sequential(*(layers[:-1] if last else layers))
