"""Every balancer of TorchJD equals a closed form or an independent computation, for two tasks.

The gradients conflict, and differ in length. All is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

import quickstudy as qs
from quickstudy.balancing import METHODS, torch_jd
from quickstudy.balancing.step import gramian_of

pytest.importorskip("torchjd")
NAMES = ("a", "b")
LOSSES = torch.tensor([2.0, 0.5], dtype=torch.float64)


def two_gradients(seed: int = 0, cosine: float = -0.6) -> tuple[Tensor, Tensor]:
    """Of lengths 3 and 0.5, with this cosine, in 7 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(7, 2, generator=generator, dtype=torch.float64))[0]
    second = cosine * basis[:, 0] + math.sqrt(1 - cosine**2) * basis[:, 1]
    return 3 * basis[:, 0], 0.5 * second


def step_of(balancer: Any, jacobian: Tensor, losses: Tensor = LOSSES) -> Tensor:
    if balancer.reads == "gradients":
        found: Tensor = balancer.gradient(jacobian, losses, NAMES)
        return found
    return balancer.gradient_weights(gramian_of(jacobian), losses, NAMES) @ jacobian


def without(a: Tensor, b: Tensor) -> Tensor:
    """``a`` without its part along ``b``."""
    return a - (a @ b) / (b @ b) * b


def unit(a: Tensor) -> Tensor:
    return a / a.norm()


def mgda(a: Tensor, b: Tensor) -> Tensor:
    share = (((b - a) @ b) / ((a - b) @ (a - b))).clamp(0, 1)
    return share * a + (1 - share) * b


def cagrad(a: Tensor, b: Tensor, c: float = 0.5) -> Tensor:
    mean = (a + b) / 2
    radius = c * mean.norm()

    def dual(share: float) -> float:
        combined = share * a + (1 - share) * b
        return float(combined @ mean + radius * combined.norm())

    share = minimize_scalar(dual, bounds=(0, 1), method="bounded", options={"xatol": 1e-12}).x
    combined = share * a + (1 - share) * b
    return mean + radius * unit(combined)


def impartial(a: Tensor, b: Tensor) -> Tensor:
    between = unit(a) - unit(b)
    share = (b @ between) / ((b - a) @ between)
    return share * a + (1 - share) * b


def aligned(a: Tensor, b: Tensor) -> Tensor:
    left, values, right = np.linalg.svd(torch.stack([a, b]).numpy(), full_matrices=False)
    return torch.from_numpy(values.min() * (left @ right).mean(0))


def bargained(a: Tensor, b: Tensor) -> Tensor:
    """G w = 1 / w has the solution w_t = 1 / (|g_t| sqrt(1 + cosine))."""
    return (unit(a) + unit(b)) / torch.sqrt(1 + unit(a) @ unit(b))


def config(a: Tensor, b: Tensor) -> Tensor:
    direction = unit(unit(a) + unit(b))
    return (a @ direction + b @ direction) * direction


CLOSED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], dict[str, Any], float]] = {
    "upgrad": (lambda a, b: (without(a, b) + without(b, a)) / 2, {}, 1e-6),
    "dualproj": (lambda a, b: without((a + b) / 2, b), {}, 1e-6),
    "mgda": (mgda, {}, 1e-9),
    "pcgrad": (lambda a, b: without(a, b) + without(b, a), {}, 1e-12),
    "gradvac": (lambda a, b: without(a, b) + without(b, a), {}, 1e-6),  # at first as PCGrad
    "cagrad": (cagrad, {}, 1e-5),
    "imtl_g": (impartial, {}, 1e-9),
    "aligned_mtl": (aligned, {}, 1e-9),
    "fairgrad": (bargained, {}, 1e-6),
    "nash_mtl": (bargained, {"longest": 0.0, "iterations": 60}, 2e-3),
    "config": (config, {}, 1e-9),
}  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_the_step_of_two_tasks_is_the_closed_form(name: str, scale: float) -> None:
    """Also where all gradients are small: TorchJD alone would call their Gramian zero."""
    expected_of, settings, tolerance = CLOSED[name]
    a, b = (scale * gradient for gradient in two_gradients())
    found = step_of(qs.balancing.named(name, **settings), torch.stack([a, b]))
    expected = expected_of(a, b)
    assert float((found - expected).norm() / expected.norm()) <= tolerance


@pytest.mark.parametrize("name", ["upgrad", "dualproj", "mgda", "pcgrad", "gradvac", "config"])
def test_gradients_that_do_not_conflict_are_not_projected(name: str) -> None:
    a, b = two_gradients(cosine=0.3)
    found = step_of(qs.balancing.named(name), torch.stack([a, b]))
    closed = {"upgrad": (a + b) / 2, "dualproj": (a + b) / 2, "pcgrad": a + b, "gradvac": a + b}
    expected = closed[name] if name in closed else CLOSED[name][0](a, b)
    assert float((found - expected).norm() / expected.norm()) <= 1e-6


def test_fairgrad_has_its_equation_at_another_fairness() -> None:
    gramian = gramian_of(torch.stack(two_gradients()))
    weights = qs.balancing.FairGrad(2.0).gradient_weights(gramian, LOSSES, NAMES)
    torch.testing.assert_close(gramian @ weights, weights**-0.5, rtol=1e-5, atol=0)


def test_the_longest_step_of_nash_mtl() -> None:
    pair = two_gradients()
    found = step_of(qs.balancing.NashMTL(longest=0.1), torch.stack(pair))
    torch.testing.assert_close(found, 0.1 * unit(bargained(*pair)), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", [n for n, method in METHODS.items() if method.reads == "gramian"])
@pytest.mark.parametrize("case", ["one task", "twice the same", "opposite", "more than entries"])
def test_weights_are_finite_for_singular_gramians(name: str, case: str) -> None:
    a, _ = two_gradients()
    many = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = {"one task": a[None], "twice the same": torch.stack([a, a]),
                "opposite": torch.stack([a, -a]), "more than entries": many}[case]  # fmt: skip
    names = [f"task {place}" for place in range(len(jacobian))]
    losses = torch.ones(len(jacobian), dtype=torch.float64)
    weights = qs.balancing.named(name).gradient_weights(gramian_of(jacobian), losses, names)
    assert weights.shape == (len(jacobian),)
    assert weights.isfinite().all()


def test_gradvac_goes_to_the_running_mean_of_the_cosine() -> None:
    """Computed with the gradients themselves, where TorchJD has the Gramian alone."""
    balancer, goals = qs.balancing.GradVac(beta=0.5), torch.zeros(2, 2, dtype=torch.float64)
    for cosine in (0.8, -0.3, 0.1):
        pair = two_gradients(cosine=cosine)
        total = torch.zeros_like(pair[0])
        for i, j in ((0, 1), (1, 0)):
            mine, other, goal = pair[i], pair[j], float(goals[i, j])
            if cosine < goal:
                up, down = math.sqrt(1 - cosine**2), math.sqrt(1 - goal**2)
                share = mine.norm() * (goal * up - cosine * down) / (other.norm() * down)
                mine = mine + share * other
            goals[i, j] = 0.5 * goal + 0.5 * cosine
            total = total + mine
        found = step_of(balancer, torch.stack(pair))
        torch.testing.assert_close(found, total, rtol=1e-6, atol=1e-9)


def test_graddrop_keeps_the_entries_of_one_sign() -> None:
    jacobian = torch.stack(two_gradients())
    for step in range(3):
        with torch_jd.seeded(7, step, torch.device("cpu")):
            drawn = torch.rand(7, dtype=torch.float64)
        purity = (1 + jacobian.sum(0) / jacobian.abs().sum(0)) / 2
        sums = jacobian.clamp(min=0).sum(0), jacobian.clamp(max=0).sum(0)
        expected = torch.where(purity > drawn, *sums)
        balancer = qs.balancing.GradDrop(seed=7)
        balancer.load_state_dict({"steps": step})
        torch.testing.assert_close(step_of(balancer, jacobian), expected)


def test_excess_mtl_weighs_by_estimated_excess_risk() -> None:
    balancer = qs.balancing.ExcessMTL(rate=0.5)
    squares, weights, first = np.zeros((2, 7)), np.full(2, 0.5), None
    for seed in range(4):
        jacobian = torch.stack(two_gradients(seed)) * (1 + seed)
        g = jacobian.numpy()
        squares += g**2
        excess = (g**2 / np.sqrt(squares + 1e-7)).sum(1)
        relative = excess if first is None else excess / (first + 1e-7)
        first = excess if first is None else first
        weights = weights * np.exp(0.5 * relative)
        weights /= weights.sum()
        found = step_of(balancer, jacobian)
        torch.testing.assert_close(found, torch.from_numpy(weights @ g), rtol=1e-6, atol=1e-9)


class Descending:
    """torch's own Adam on one number for each of two tasks, as an independent computation."""

    def __init__(self, rate: float, decay: float = 0.0) -> None:
        self.numbers = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        self._adam = torch.optim.Adam([self.numbers], lr=rate, weight_decay=decay)

    def step(self, objective: Tensor) -> None:
        self._adam.zero_grad()
        objective.backward()
        self._adam.step()


def losses_of(step: int) -> Tensor:
    return LOSSES * torch.tensor([0.9**step, 0.5 + 0.3 * step], dtype=torch.float64)


def test_uw_and_imtl_l_learn_their_scales() -> None:
    uw, noise = qs.balancing.UW(rate=0.1), Descending(0.1)
    impartial, scale = qs.balancing.IMTLL(rate=0.1), Descending(0.1)
    for step in range(5):
        losses = losses_of(step)
        torch.testing.assert_close(uw.weights(losses, NAMES), (-noise.numbers).exp().detach() / 2)
        torch.testing.assert_close(impartial.weights(losses, NAMES), scale.numbers.exp().detach())
        noise.step(((-noise.numbers).exp() * losses / 2 + noise.numbers / 2).sum())
        scale.step((scale.numbers.exp() * losses - scale.numbers).sum())


def test_dwa_weighs_by_the_ratio_of_the_last_two_epochs() -> None:
    dwa, seen = qs.balancing.DWA(epoch=2), []
    for step in range(6):
        losses = losses_of(step)
        found = dwa.weights(losses, NAMES)
        if step < 4:
            expected = torch.ones(2, dtype=torch.float64)
        else:
            ratio = (seen[2] + seen[3]) / (seen[0] + seen[1])
            expected = 2 * (ratio / 2).softmax(0)
        torch.testing.assert_close(found, expected)
        seen.append(losses)


def test_famo_makes_the_logarithms_fall_alike() -> None:
    famo, logits = qs.balancing.FAMO(rate=0.1, decay=1e-3), Descending(0.1, 1e-3)
    for step in range(4):
        before, after = losses_of(step), losses_of(step + 1)
        shares = logits.numbers.softmax(0).detach()
        expected = shares / before / (shares / before).sum()
        torch.testing.assert_close(famo.weights(before, NAMES), expected, rtol=1e-6, atol=0)
        famo.see_result(after, NAMES)
        fall = before.log() - after.log()
        logits.step((logits.numbers.softmax(0) * fall).sum())


def test_weights_of_scalarisers_without_memory() -> None:
    smooth = qs.balancing.STCH(0.3).weights(LOSSES, NAMES)
    torch.testing.assert_close(smooth, (LOSSES / 0.6).softmax(0) / 2)
    geometric = qs.balancing.GeometricMean().weights(LOSSES, NAMES)
    torch.testing.assert_close(geometric, LOSSES.prod().sqrt() / (2 * LOSSES))
    balancer = qs.balancing.RandomWeights(seed=3)
    for step in range(2):
        with torch_jd.seeded(3, step, torch.device("cpu")):
            expected = torch.randn(2, dtype=torch.float64).softmax(0)
        torch.testing.assert_close(balancer.weights(LOSSES, NAMES), expected)


def test_every_method_of_torchjd_has_a_formula_here() -> None:
    elsewhere = {"graddrop", "excess_mtl", "uw", "imtl_l", "dwa", "famo", "stch",
                 "geometric_mean", "random"}  # fmt: skip
    through = {name for name, method in METHODS.items() if method.extra}
    assert through == set(CLOSED) | elsewhere


@pytest.mark.parametrize("name", ["pcgrad", "graddrop", "random"])
def test_draws_depend_on_the_seed_and_the_step_alone(name: str) -> None:
    """Not on torch's global generator, which stays as it was."""
    jacobian = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def steps(seed: int, state: int) -> list[Tensor]:
        torch.manual_seed(state)
        before, made = torch.get_rng_state(), qs.balancing.named(name, seed=seed)
        losses, names = torch.ones(9, dtype=torch.float64), [""] * 9
        if name == "random":
            found = [made.weights(losses, names) for _ in range(4)]  # type: ignore[union-attr]
        elif name == "pcgrad":
            gramian = gramian_of(jacobian)
            found = [made.gradient_weights(gramian, losses, names) for _ in range(4)]  # type: ignore[union-attr]
        else:
            found = [made.gradient(jacobian, losses, names) for _ in range(4)]  # type: ignore[union-attr]
        assert torch.equal(before, torch.get_rng_state())
        return found

    first = steps(0, state=1)
    assert all(map(torch.equal, first, steps(0, state=2)))
    assert not all(map(torch.equal, first, steps(1, state=1)))
    assert not all(torch.equal(first[0], each) for each in first)
