"""A multi-layer perceptron with ReLU."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from quickstudy.backbones.checks import check_widths
from quickstudy.base.arguments import typed


class MLP(nn.Module):
    """Vectors (n, in_features) -> features (n, hidden[-1]), or (n, outputs) with a linear head.

    Inputs of more dimensions are flattened, and integers are read as numbers. The default, with
    ``outputs=1``, is the network of MAML's sinusoid regression (Finn et al., 2017, section 5.1).
    """

    @typed
    def __init__(
        self, in_features: int = 1, hidden: tuple[int, ...] = (40, 40), outputs: int | None = None
    ) -> None:
        super().__init__()
        hidden = tuple(hidden)
        if not hidden:
            raise ValueError("MLP: needs at least one hidden layer; found hidden=().")
        check_widths("MLP", in_features=in_features, hidden=hidden)
        check_widths("MLP", fewest=0, outputs=outputs)
        self.in_features, self.hidden, self.outputs = in_features, hidden, outputs
        self.input_shape, self.features = (in_features,), hidden[-1]
        layers: list[nn.Module] = []
        for a, b in pairwise((in_features, *hidden)):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(self.features, outputs) if outputs else nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (n, hidden[-1]), or predictions (n, outputs)."""
        if not inputs.is_floating_point():
            inputs = inputs.to(next(self.layers.parameters()).dtype)
        result: Tensor = self.head(self.layers(inputs.flatten(1)))
        return result
