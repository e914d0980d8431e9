"""Our own balancers equal their equations; names, settings and missing packages are told."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.balancing import METHODS
from quickstudy.balancing.step import gramian_of

NAMES = ("a", "b", "c")


def losses_of(step: int) -> Tensor:
    return torch.tensor([2.0, 0.5, 1.0 + step], dtype=torch.float64) * 0.9**step


def test_uncertainty_minimises_the_likelihood_of_both_kinds_of_target() -> None:
    """a and c are regressions, b classifies: Kendall's equations 7 and 10, with torch's Adam."""
    balancer = qs.balancing.Uncertainty(rate=0.1)
    balancer.read_answers({"a": qs.answers.Reals(1), "b": qs.answers.Classes(2),
                           "c": qs.answers.Reals(2)})  # fmt: skip
    log_variance = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([log_variance], lr=0.1)
    for step in range(5):
        losses = losses_of(step).requires_grad_()
        sigma = (log_variance / 2).exp()
        total = (
            losses[0] / (2 * sigma[0] ** 2) + losses[1] / sigma[1] ** 2
            + losses[2] / (2 * sigma[2] ** 2) + sigma.log().sum()
        )  # fmt: skip
        adam.zero_grad()
        total.backward()
        found = balancer.weights(losses.detach(), NAMES)
        torch.testing.assert_close(found, losses.grad, rtol=1e-12, atol=0)
        adam.step()


def test_uncertainty_of_regressions_is_torchjds() -> None:
    pytest.importorskip("torchjd")
    own, other = qs.balancing.Uncertainty(rate=0.1), qs.balancing.UW(rate=0.1)
    own.read_answers(dict.fromkeys(NAMES, qs.answers.Reals(1)))
    for step in range(5):
        pair = [each.weights(losses_of(step), NAMES) for each in (own, other)]
        torch.testing.assert_close(*pair)


def test_uncertainty_settles_where_the_variance_is_the_loss() -> None:
    """The minimum of L / (2 sigma^2) + log sigma is at sigma^2 = L."""
    balancer = qs.balancing.Uncertainty(rate=0.1)
    balancer.read_answers(dict.fromkeys(NAMES, qs.answers.Reals(1)))
    for _ in range(200):
        weights = balancer.weights(losses_of(0), NAMES)
    torch.testing.assert_close(weights, 1 / (2 * losses_of(0)), rtol=0.02, atol=0)


def gradnorm_reference(
    rows: Sequence[Tensor], losses: Sequence[Tensor], alpha: float, rate: float
) -> list[Tensor]:
    """Chen's algorithm 1 by autograd of its loss, over weights that torch's Adam trains."""
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    adam, found = torch.optim.Adam([weights], lr=rate), []
    for jacobian, now in zip(rows, losses, strict=True):
        found.append(weights.detach().clone())
        norms = weights * jacobian.norm(dim=1)
        ratio = now / losses[0]
        target = (norms.mean() * (ratio / ratio.mean()) ** alpha).detach()
        adam.zero_grad()
        (norms - target).abs().sum().backward()
        adam.step()
        with torch.no_grad():
            weights *= 3 / weights.sum()
    return found


def test_gradnorm_is_algorithm_1() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([[3.0], [0.3], [1.0]], dtype=torch.float64)
    rows = [scale * torch.randn(3, 6, generator=generator, dtype=torch.float64) for _ in range(8)]
    losses = [losses_of(step) for step in range(8)]
    balancer = qs.balancing.GradNorm(alpha=1.5, rate=0.025)
    expected = gradnorm_reference(rows, losses, 1.5, 0.025)
    for jacobian, now, weights in zip(rows, losses, expected, strict=True):
        found = balancer.gradient_weights(gramian_of(jacobian), now, NAMES)
        torch.testing.assert_close(found, weights, rtol=1e-9, atol=0)


def test_gradnorm_balances_the_norms() -> None:
    """With alpha = 0 and fixed gradients, all weighted norms become equal."""
    norms = torch.tensor([4.0, 1.0, 0.5], dtype=torch.float64)
    balancer = qs.balancing.GradNorm(alpha=0.0, rate=0.02)
    for _ in range(200):
        weights = balancer.gradient_weights(norms.square().diag(), losses_of(0), NAMES)
    torch.testing.assert_close(weights * norms, (weights * norms).mean().expand(3), rtol=0.1,
                               atol=0)  # fmt: skip
    assert float(weights.sum()) == pytest.approx(3)


def test_gradnorm_refuses_a_first_loss_of_zero() -> None:
    losses = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match="must be above 0; found 0 for 'b'"):
        qs.balancing.GradNorm().gradient_weights(torch.eye(2).double(), losses, ["a", "b"])


def test_constant_weights_are_shares_of_the_tasks_present() -> None:
    balancer = qs.balancing.Constant({"a": 3, "b": 1, "c": 4})
    losses = torch.ones(2)
    assert balancer.weights(losses, ["b", "a"]).tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match=r"found none for d\. Those given are for a, b, c"):
        balancer.weights(losses, ["a", "d"])
    for wrong in ({}, {"a": -1.0}, {"a": 0.0}, {"a": float("nan")}, [1.0]):
        with pytest.raises(ValueError, match="Constant: needs a finite weight of 0 or more"):
            qs.balancing.Constant(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "settings", "rule"),
    [
        ("mgda", {"iterations": 2.5}, "whole number of at least 1; found 2.5"),
        ("nash_mtl", {"iterations": 0}, "whole number of at least 1; found 0"),
        ("dwa", {"epoch": 0.5}, "whole number of at least 1; found 0.5"),
        ("pcgrad", {"seed": "a"}, "whole number of at least 0; found 'a'"),
        ("graddrop", {"seed": -1}, "whole number of at least 0; found -1"),
        ("random", {"seed": 1.0}, "whole number of at least 0; found 1.0"),
        ("gradvac", {"beta": "a"}, "finite number of 0 or more; found 'a'"),
        ("gradvac", {"beta": 1.5}, r"beta must be in \[0, 1\]; found 1.5"),
        ("cagrad", {"c": float("nan")}, "finite number of 0 or more; found nan"),
        ("gradnorm", {"rate": torch.ones(1)}, "finite number above 0; found tensor"),
        ("uncertainty", {"rate": True}, "finite number above 0; found True"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: Any, rule: str) -> None:
    pytest.importorskip("torchjd")
    with pytest.raises(ValueError, match=rule):
        qs.balancing.named(name, **settings)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"balancing: 'upgrda' is unknown. Did you mean 'upgrad'"):
        qs.balancing.named("upgrda")
    for wrong in (None, ["upgrad"]):
        with pytest.raises(ValueError, match=r"is unknown\. .*Valid names: mean, equal"):
            qs.balancing.named(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cagrad has the settings c; found no setting 'd'"):
        qs.balancing.named("cagrad", d=1.0)
    with pytest.raises(ValueError, match="found 'by_name' is missing"):
        qs.balancing.named("constant")


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.extra])
def test_without_torchjd_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quickstudy.base.extras.import_module", missing("torchjd"))
    message = r"needs the package torchjd, .* pip install 'quickstudy\[multitask\]'"
    with pytest.raises(ImportError, match=message):
        qs.balancing.named(name)


def missing(package: str) -> Any:
    def import_module(name: str) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return importlib.import_module(name)

    return import_module


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.solvers])
def test_without_its_solver_the_extra_and_the_solver_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixins = pytest.importorskip("torchjd._mixins")
    solver = METHODS[name].solvers[-1]
    find = mixins.find_spec
    monkeypatch.setattr(mixins, "find_spec", lambda n: None if n == solver else find(n))
    message = rf"needs a solver .*{solver}.* pip install 'quickstudy\[multitask\]'"
    with pytest.raises(ImportError, match=message):
        qs.balancing.named(name)


def test_another_version_of_torchjd_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchjd")
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "0.19.1")
    with pytest.raises(ImportError, match=r"MGDA: needs torchjd 0.18, .*; found 0.19.1"):
        qs.balancing.MGDA()


def test_own_balancers_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quickstudy.base.extras.import_module", missing("torchjd"))
    own = [name for name, method in METHODS.items() if not method.extra]
    assert own == ["mean", "equal", "constant", "uncertainty", "gradnorm"]
    for name in own:
        qs.balancing.named(name, **({"by_name": {"a": 1.0}} if name == "constant" else {}))


@pytest.mark.filterwarnings("error")
def test_solvers_do_not_warn() -> None:
    """cvxpy warns of ECOS at every problem."""
    pytest.importorskip("torchjd")
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in ("nash_mtl", "cagrad", "upgrad", "fairgrad"):
        qs.balancing.named(name).gradient_weights(gramian_of(rows), losses_of(0), NAMES)


def test_a_loss_whose_logarithm_is_taken_must_be_positive() -> None:
    pytest.importorskip("torchjd")
    for balancer in (qs.balancing.GeometricMean(), qs.balancing.FAMO()):
        with pytest.raises(ValueError, match="must be above 0; found b: 0"):
            balancer.weights(torch.tensor([1.0, 0.0]), ["a", "b"])


def test_the_page_lists_every_balancer() -> None:
    page = (Path(__file__).parents[2] / "docs" / "balancing.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()
            if line.startswith("| `")]  # fmt: skip
    words = {"nothing": "nothing", "losses": "losses", "gramian": "Gramian",
             "gradients": "gradients"}  # fmt: skip
    assert [row[0].strip("`") for row in rows] == list(METHODS)
    for row, method in zip(rows, METHODS.values(), strict=True):
        extra = f"`{method.extra}`" if method.extra else ""
        solvers = f": {', '.join(method.solvers)}" if method.solvers else ""
        by_name = ", by name" if method.remembers else ""
        assert row[1] == f"`{method.make.__name__}`"
        assert row[2] == words[method.reads] + by_name
        assert row[4:] == [method.reference, extra + solvers]
