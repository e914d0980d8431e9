"""Features in which rows of one class vary alike in all directions, and a trained change."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from quickstudy.backbones.checks import check_widths
from quickstudy.base.arguments import typed
from quickstudy.tasks.rows import LabelledRows


@final
class Whitened(nn.Module):
    """Features x (n, features) -> x̂ + A x̂ of length 1, for learners on features of a frozen network.

        x̂ = u / |u|,  u = (x - m) W          m and W of the base classes, by :meth:`fit_on`
        f = v / |v|,  v = x̂ + A x̂            A is 0 at first, and trained

    W is the inverse root of the mean covariance within the base classes: what varies between texts
    of one class (topic, length) counts less. A starts from there, so that training over few classes
    changes the features no more than it has reason to.

    ``features``   of a row.
    ``shrinkage``  how much of the mean variance is added to each direction, so that directions in
                   which the base classes hardly vary are not blown up.

    Raises ValueError for widths below 1 and a shrinkage that is not positive.

    Reference: Hatch, Kajarekar and Stolcke (2006), Within-class Covariance Normalization for
    SVM-based Speaker Recognition, equation 12 and the smoothing of section 3.3.
    Differs from the paper: directions are smoothed by the mean variance, where the paper mixes the
    covariance with the identity; rows are divided by their length afterwards; A is added.

    >>> import torch
    >>> whitened = Whitened(features=4)
    >>> whitened(torch.tensor([[3.0, 0.0, 4.0, 0.0]]))
    tensor([[0.6000, 0.0000, 0.8000, 0.0000]], grad_fn=<MulBackward0>)
    """  # noqa: E501

    @typed
    def __init__(self, features: int, shrinkage: float = 1.0) -> None:
        super().__init__()
        check_widths("Whitened", features=features)
        if not shrinkage > 0:
            raise ValueError(f"Whitened: shrinkage must be positive; found {shrinkage}.")
        self.features, self.shrinkage = features, shrinkage
        self.input_shape = (features,)
        self.mean: Tensor
        self.whitening: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("whitening", torch.eye(features))
        self.change = nn.Parameter(torch.zeros(features, features))

    def fit_on(self, base: LabelledRows) -> Whitened:
        """Set m and W to those of the rows of the base classes; returns the network.

        m is the mean of the class means, and the covariance that of all rows about the means of
        their classes.

        Raises ValueError for rows of another width, and where no class has two rows.
        """
        rows = base.inputs
        if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.shape[1] != self.features:
            raise ValueError(
                f"Whitened: needs rows of {self.features} features; found {base!r}. Featurise them "
                "with the network that it is for."
            )
        if int(base.counts.max()) < 2:
            raise ValueError(
                "Whitened: needs a class with 2 rows, to see how rows of one class vary; found 1 "
                "in each. Give more rows."
            )
        rows = rows.double()
        class_of = torch.arange(len(base)).repeat_interleave(base.counts)
        sums = rows.new_zeros(len(base), self.features).index_add_(0, class_of, rows)
        means = sums / base.counts[:, None]
        within = rows - means[class_of]
        covariance = within.mT @ within / len(rows)
        variances, directions = torch.linalg.eigh(covariance)
        smoothed = variances.clamp_min(0.0) + self.shrinkage * variances.mean().clamp_min(1e-12)
        # Scaled so that a direction of mean variance keeps its length.
        scales = ((1 + self.shrinkage) * variances.mean().clamp_min(1e-12) / smoothed).sqrt()
        with torch.no_grad():
            self.mean.copy_(means.mean(0))
            self.whitening.copy_((directions * scales) @ directions.mT)
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (n, features) of length 1."""
        x = _unit((inputs - self.mean) @ self.whitening)
        return _unit(x + x @ self.change)


def _unit(vectors: Tensor) -> Tensor:
    """v / |v|, and 0 for 0."""
    return vectors * vectors.square().sum(-1, keepdim=True).clamp_min(1e-24).rsqrt()
