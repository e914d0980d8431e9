"""CAVIA: adapt a small context vector and keep every weight fixed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from quickstudy.backbones.features import like, refuse_sizes
from quickstudy.base.shown import shown
from quickstudy.learners.gradient.descend import Update, Weights, sgd
from quickstudy.learners.gradient.gradient_learner import GradientLearner
from quickstudy.learners.gradient.inner_loop import InnerLoop
from quickstudy.learners.gradient.meta_gradients import Exact, MetaGradient
from quickstudy.learners.gradient.network import check_backbone


class CAVIA(GradientLearner):
    """Maps a support set to a context vector φ, an additional input of the network.

        φ_0     = 0
        φ_{k+1} = φ_k - rate * ∇_φ L_support(φ_k, θ)
        predict = f_{φ_steps, θ}

    φ enters at one layer and modulates its channels h by learnt linear maps:

        h <- h + B φ                     film=False: as if φ were concatenated to the layer's inputs
        h <- (1 + Γ φ) ∘ h + B φ         film=True: feature-wise linear modulation

    ``backbone``  inputs (n, ...) -> predictions (n, outputs or more): ``Conv4(outputs=5)``.
    ``context``   entries of φ; 5 for sinusoids, 100 for miniImageNet in the paper.
    ``steps``     inner steps; 1 for sinusoids, 2 for miniImageNet in the paper.
    ``rate``      inner learning rate; 1 in the paper.
    ``at``        name of the layer that φ modulates. It must have a ``weight`` whose first
                  dimension is its channels (linear, convolution or norm); the first such layer by
                  default. The paper uses the third block for images: "blocks.2.norm" of ``Conv4``.
    ``film``      scale as well as shift, as the paper does for images.
    ``meta_gradient``, ``update``, ``clip``, ``test_steps``
                  as for :class:`quickstudy.MAML`.

    State: ``weights`` holds φ (context,) alone; ``present`` (ways,) where the answer has
    classes; ``statistics`` for norm="support".

    Raises ValueError for settings that are not positive or that ``meta_gradient`` cannot work with,
    a layer that the backbone lacks, a backbone built without outputs, and norm="running", whose
    population statistics are not those of one context.

    Reference: Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson (2019), Fast Context Adaptation via
    Meta-Learning; modulation: Perez et al. (2018), FiLM.
    Differs from the paper in a modulation that is exactly the identity at φ = 0, where the paper's
    linear map has a bias, and in the norm, which is the backbone's choice.

    >>> import torch, quickstudy as qs
    >>> learner = qs.CAVIA(qs.backbones.MLP(outputs=1))
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> support = qs.examples(x, x)
    >>> learner.adapt(support, qs.regression())["weights"]["context"].shape
    torch.Size([5])
    """

    def __init__(
        self,
        backbone: nn.Module,
        context: int = 5,
        steps: int = 1,
        rate: float = 1.0,
        at: str | None = None,
        film: bool = False,
        meta_gradient: MetaGradient = Exact(),  # noqa: B008  (frozen)
        update: Update = sgd,
        clip: float | None = None,
        test_steps: int | None = None,
    ) -> None:
        refuse_sizes("CAVIA", context=context)
        inner = InnerLoop("CAVIA", steps, rate, meta_gradient, "context", update, clip, test_steps)
        check_backbone(backbone, "CAVIA")
        network = _Modulated(backbone, context, at or _first_layer(backbone), film)
        super().__init__(network, inner, ["context"])
        self.network, self.context, self.at, self.film = network, context, at, film

    @property
    def adapted_network(self) -> nn.Module:
        """The backbone with the context among its parameters."""
        return self.network

    @property
    def backbone(self) -> nn.Module:
        """The network that the context modulates."""
        return self.network.backbone

    def own_weights(self) -> Weights:
        """The context at its start, 0; training does not change it."""
        return {"context": self.network.context}


class _Modulated(nn.Module):
    """A network with a context vector that shifts, and scales, the channels of one layer."""

    def __init__(self, backbone: nn.Module, context: int, at: str, film: bool) -> None:
        super().__init__()
        try:
            layer = backbone.get_submodule(at)
        except AttributeError:
            raise ValueError(
                f"CAVIA: at={shown(at)} is not a layer. The backbone has: "
                f"{', '.join(_layers(backbone)[:12])}, …"
            ) from None
        channels = _channels(layer, at)
        self.backbone, self.at = backbone, at
        self.shift = like(backbone, nn.Linear(context, channels, bias=False))
        self.scale = like(backbone, nn.Linear(context, channels, bias=False)) if film else None
        # φ_0: a constant that each task replaces, so training must keep it at zero.
        zero = self.shift.weight.new_zeros(context)
        self.context = nn.Parameter(zero, requires_grad=False)

    def forward(self, inputs: Any) -> Tensor:
        """The backbone's outputs, with the layer's channels modulated."""
        # The hook is registered for one pass only, so the backbone itself is not changed.
        # prepend=True runs it first, so other hooks on the layer get the modulated outputs.
        layer = self.backbone.get_submodule(self.at)
        with layer.register_forward_hook(self._modulate, prepend=True):
            result: Tensor = self.backbone(inputs)
        return result

    def _modulate(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        shape = (-1, *[1] * (output.ndim - 2))  # rows are the first axis, channels the second
        if self.scale is not None:
            output = output + self.scale(self.context).reshape(shape) * output
        shifted: Tensor = output + self.shift(self.context).reshape(shape)
        return shifted


def _layers(backbone: nn.Module) -> list[str]:
    """Names of the layers that a context can modulate, in the order of definition."""
    return [
        name
        for name, module in backbone.named_modules()
        if name and isinstance(getattr(module, "weight", None), Tensor)
    ]


def _first_layer(backbone: nn.Module) -> str:
    layers = _layers(backbone)
    if not layers:
        raise ValueError(
            f"CAVIA: {type(backbone).__name__} has no layer with a weight inside it that a "
            "context could modulate. Wrap it in nn.Sequential, or use another backbone."
        )
    return layers[0]


def _channels(layer: nn.Module, at: str) -> int:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        raise ValueError(
            f"CAVIA: at={shown(at)} is a {type(layer).__name__}, which has no weight, so its "
            "channels are unknown. Name a linear layer, a convolution or a norm."
        )
    return len(weight)
