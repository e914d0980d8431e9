"""TorchJD (MIT licence): the only module that touches it, since its names change between versions.

Its weightings map a Gramian (tasks, tasks) to weights (tasks,), its aggregators a Jacobian
(tasks, p) to a gradient (p,), and its scalarisers losses (tasks,) to one number. Those with a
memory go by position; here each is made anew, or given its memory, for the tasks of a step.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

import torch
from torch import Tensor

from quickstudy.base.extras import optional

_VERSION = "0.18"


def make(who: str, part: str, kind: str, *arguments: Any, **settings: Any) -> Any:
    """An object of the class ``kind`` of ``torchjd.<part>``.

    ``who``  the balancer that needs it, which begins errors.

    Raises ImportError, which says how to install it, without TorchJD, with another version of it,
    and without a solver that this class needs.
    """
    optional("torchjd", "multitask", who)
    found = metadata.version("torchjd")
    if not found.startswith(f"{_VERSION}."):
        raise ImportError(
            f"{who}: needs torchjd {_VERSION}, of which other versions have other names; found "
            f"{found}. Install it with pip install 'quickstudy[multitask]'."
        )
    with _quiet():
        try:
            return getattr(import_module(f"torchjd.{part}"), kind)(*arguments, **settings)
        except ImportError as error:
            raise ImportError(
                f"{who}: needs a solver that is not installed ({str(error).split('. ')[0]}). "
                "Install it with pip install 'quickstudy[multitask]'."
            ) from error


def weigh(weighting: Any, gramian: Tensor, power: float = 0.0) -> Tensor:
    """(tasks,): the weights of ``gramian`` (tasks, tasks), which is on the CPU, in float64.

    TorchJD gets it divided by its trace: some weightings take gradients of norms below 0.01 for
    zero, and the solvers of others fail for them.

    ``power``  of a factor of the Gramian by which the weights change; 0 where they do not.

    Tasks without any gradient have equal weights.
    """
    tasks, trace = len(gramian), gramian.trace()
    if not trace > 0:
        return torch.full_like(gramian[0], 1 / tasks)
    with _quiet(), torch.no_grad():
        weights: Tensor = weighting(gramian / trace)
    return weights * trace**power


def square_root(gramian: Tensor) -> Tensor:
    """(tasks, tasks): rows with the inner products of ``gramian``, in place of a Jacobian."""
    values, vectors = torch.linalg.eigh(gramian)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root


def aggregate(aggregator: Any, jacobian: Tensor) -> Tensor:
    """(p,): the combined gradient of ``jacobian`` (tasks, p)."""
    with _quiet(), torch.no_grad():
        combined: Tensor = aggregator(jacobian)
    return combined


def derivatives(scalariser: Any, losses: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The derivatives of a scalariser's number by ``losses`` (tasks,), and by ``others``."""
    values = losses.detach().clone().requires_grad_()
    with torch.enable_grad():
        found: tuple[Tensor, ...] = torch.autograd.grad(scalariser(values), (values, *others))
    return found


@contextmanager
def seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Code inside draws from torch's global generators as if seeded by ``seed`` and ``step``.

    Afterwards they are as before. TorchJD takes no generator.
    """
    on_gpu = device.type == "cuda"
    digest = hashlib.sha256(f"balancing {seed} {step}".encode()).digest()
    number = int.from_bytes(digest[:7], "big")
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(number)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of solvers: cvxpy's of ECOS, and of inexact steps of an iteration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
