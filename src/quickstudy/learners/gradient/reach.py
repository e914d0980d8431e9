"""Whether adapted weights reach the computation of a network, which some frameworks prevent."""

from __future__ import annotations

import torch

from quickstudy.backbones.norms import embed_support
from quickstudy.base.modules import in_torch_func, needs_plain_operators
from quickstudy.base.replica import Replica
from quickstudy.base.trees import leaves
from quickstudy.base.words import first_few
from quickstudy.learners.gradient.descend import Weights
from quickstudy.learners.gradient.network import SupportLoss


def can_be_tested() -> bool:
    """Whether autograd may be used here as usual, and nobody counts the operators that run."""
    special = in_torch_func() or torch.is_inference_mode_enabled() or needs_plain_operators()
    return not (special or torch._C._len_torch_dispatch_stack())


def refuse_unreachable(loss: SupportLoss, weights: Weights, learner: str) -> None:
    """Refuse parameters that a network reads from where adapted weights cannot take their place.

    With other tensors in place of all parameters that adapt, the output must not depend on the
    network's own, nor on those of a call before, which it may have stored. Where it does, steps on
    a support set would change nothing, without an error.

    ``weights``  those before the first step.

    Raises ValueError, which names the parameters.
    """
    given = dict(loss.network.named_parameters())
    own = {name: p for name in weights if (p := given[name]).requires_grad}
    if not own:
        return
    replica = Replica(loss.network)
    for part in replica.module.modules():  # so that this call changes no statistics
        part._buffers.update({n: b if b is None else b.clone() for n, b in part._buffers.items()})
    with torch.enable_grad():
        before, now = (
            {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
            for _ in range(2)
        )
        embed_support(lambda inputs: replica(before, inputs), loss.support)
        outputs, _ = embed_support(lambda inputs: replica(now, inputs), loss.support)
        total = sum(leaf.sum() for leaf in leaves(outputs) if leaf.requires_grad)
    if not isinstance(total, torch.Tensor):  # the output depends on no parameter
        return
    wrong = [*own.values(), *(before[name] for name in own)]
    # The graph is kept, since a part of it may be the network's own, from before this call.
    found = torch.autograd.grad(total, wrong, retain_graph=True, allow_unused=True)
    pairs = zip(own, found[: len(own)], found[len(own) :], strict=True)
    unreached = [name for name, *gradients in pairs if any(g is not None for g in gradients)]
    if unreached:
        raise ValueError(
            f"{learner}: adapted weights cannot take the place of {first_few(unreached, 4)}, since "
            "forward does not read them in each call from the modules that hold them (Keras "
            "models, for example, read variables of their own). So adapting would change nothing. "
            "Build the network of torch.nn modules, leave these out by adapts=, or take a learner "
            "that does not adapt the backbone, such as Prototypical."
        )
