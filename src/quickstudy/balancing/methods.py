"""The balancers by name: what each reads, costs and needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quickstudy.balancing.aggregators import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    DualProj,
    FairGrad,
    GradVac,
    NashMTL,
    PCGrad,
    UPGrad,
)
from quickstudy.balancing.combine import Combine, Mean
from quickstudy.balancing.gradnorm import GradNorm
from quickstudy.balancing.own import Constant, Equal, Uncertainty
from quickstudy.balancing.scalarisers import (
    DWA,
    FAMO,
    IMTLL,
    STCH,
    UW,
    GeometricMean,
    RandomWeights,
)
from quickstudy.balancing.whole_gradients import ConFIG, ExcessMTL, GradDrop
from quickstudy.base.names import unknown_name


@dataclass(frozen=True)
class Method:
    """A balancer.

    ``make``       its class.
    ``reference``  authors and year.
    ``remembers``  whether it remembers tasks by their names, so that they need names.
    ``solvers``    packages that it needs beside TorchJD.
    ``own``        whether it needs no extra.
    """

    make: Callable[..., Combine]
    reference: str
    remembers: bool = False
    solvers: tuple[str, ...] = ()
    own: bool = False

    @property
    def reads(self) -> str:
        """What it needs of the tasks, see :mod:`quickstudy.balancing.combine`."""
        return str(self.make.reads)  # type: ignore[attr-defined]

    @property
    def extra(self) -> str:
        """The extra that it needs; "" for none."""
        return "" if self.own else "multitask"


METHODS: dict[str, Method] = {
    "mean": Method(Mean, "", own=True),
    "equal": Method(Equal, "", own=True),
    "constant": Method(Constant, "", own=True),
    "uncertainty": Method(Uncertainty, "Kendall et al. 2018", True, own=True),
    "gradnorm": Method(GradNorm, "Chen et al. 2018", True, own=True),
    "uw": Method(UW, "Kendall et al. 2018", True),
    "dwa": Method(DWA, "Liu, Johns and Davison 2019", True),
    "famo": Method(FAMO, "Liu et al. 2023", True),
    "imtl_l": Method(IMTLL, "Liu et al. 2021", True),
    "stch": Method(STCH, "Lin et al. 2024"),
    "geometric_mean": Method(GeometricMean, "Chennupati et al. 2019"),
    "random": Method(RandomWeights, "Lin et al. 2022"),
    "upgrad": Method(UPGrad, "Quinton and Rey 2024", solvers=("quadprog", "qpsolvers")),
    "dualproj": Method(DualProj, "Lopez-Paz and Ranzato 2017", solvers=("quadprog", "qpsolvers")),
    "pcgrad": Method(PCGrad, "Yu et al. 2020"),
    "gradvac": Method(GradVac, "Wang et al. 2021", True),
    "cagrad": Method(CAGrad, "Liu et al. 2021", solvers=("cvxpy", "clarabel")),
    "mgda": Method(MGDA, "Désidéri 2012, Sener and Koltun 2018"),
    "imtl_g": Method(IMTLG, "Liu et al. 2021"),
    "nash_mtl": Method(NashMTL, "Navon et al. 2022", True, ("cvxpy", "ecos")),
    "aligned_mtl": Method(AlignedMTL, "Senushkin et al. 2023"),
    "fairgrad": Method(FairGrad, "Ban and Ji 2024"),
    "config": Method(ConFIG, "Liu et al. 2024"),
    "graddrop": Method(GradDrop, "Chen et al. 2020"),
    "excess_mtl": Method(ExcessMTL, "He et al. 2024", True),
}
"""Every balancer by name."""


def named(name: str, **settings: Any) -> Combine:
    """The balancer of this name, with these settings, for ``qs.fit(..., combine=...)``.

    Raises ValueError for an unknown name, which lists the valid ones, and for a setting that the
    balancer has not; ImportError where its extra is not installed.

    >>> named("uncertainty", rate=0.02)
    Uncertainty(rate=0.02)
    """
    if not isinstance(name, str) or name not in METHODS:
        raise unknown_name("balancing", str(name), METHODS)
    make = METHODS[name].make
    known = list(inspect.signature(make).parameters)
    unknown = [setting for setting in settings if setting not in known]
    missing = [
        parameter.name for parameter in inspect.signature(make).parameters.values()
        if parameter.default is parameter.empty and parameter.name not in settings
    ]  # fmt: skip
    if unknown or missing:
        wrong = f"no setting {unknown[0]!r}" if unknown else f"{missing[0]!r} is missing"
        raise ValueError(
            f"balancing: {name} has the settings {', '.join(known) or '(none)'}; found {wrong}. "
            "Give those, or leave them out for the defaults."
        )
    return make(**settings)
