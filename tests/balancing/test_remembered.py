"""What balancers remember goes by name, and a resumed run has it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import quickstudy as qs
from quickstudy.balancing import METHODS
from quickstudy.balancing.by_name import Learned
from quickstudy.core import Learner, Task
from quickstudy.files.trees import load_tree, save_tree

pytest.importorskip("torchjd")
SETTINGS: dict[str, dict[str, Any]] = {
    "constant": {"by_name": {"a": 1.0, "b": 2.0, "two words. and a dot": 0.5}}, "dwa": {"epoch": 2},
}  # fmt: skip
NAMES = ["a", "b", "two words. and a dot"]


def balancer(name: str) -> Any:
    return qs.balancing.named(name, **SETTINGS.get(name, {}))


def lines(generator: torch.Generator) -> Task:
    """Three tasks, of two kinds: lines of different directions, and which of two sides."""
    place = int(torch.randint(0, 3, (), generator=generator))
    inputs = torch.randn(8, 2, generator=generator)
    value = inputs @ torch.tensor([[1.0], [float(place)]]) + 0.3
    if place == 2:
        rows = qs.examples(inputs, (value[:, 0] > 0).long())
        spec = qs.TaskSpec(qs.answers.Classes(2), NAMES[place])
    else:
        rows = qs.examples(inputs, value)
        spec = qs.TaskSpec(qs.answers.Reals(1), NAMES[place])
    return Task(rows, rows, spec)


def driven(made: Any, seed: int, steps: int = 4) -> list[Tensor]:
    """What the balancer gives for random gradients and losses; some tasks are absent."""
    generator, found = torch.Generator().manual_seed(seed), []
    if hasattr(made, "read_answers"):
        made.read_answers({NAMES[0]: qs.answers.Reals(1), NAMES[1]: qs.answers.Classes(2)})
    for step in range(steps):
        names = [NAMES[place] for place in ([0, 1], [2, 0, 1], [1, 2], [0, 2, 1])[step % 4]]
        rows = torch.randn(len(names), 5, generator=generator, dtype=torch.float64)
        losses = torch.rand(len(names), generator=generator, dtype=torch.float64) + 0.5
        found.append(given_by(made, rows, losses, names))
    return found


def given_by(made: Any, rows: Tensor, losses: Tensor, names: list[str]) -> Tensor:
    """The gradient of a step."""
    gradient: Tensor
    if made.reads == "nothing":
        return rows.mean(0)
    if made.reads == "losses":
        gradient = made.weights(losses, names) @ rows
    elif made.reads == "gramian":
        gradient = made.gradient_weights(rows @ rows.T, losses, names) @ rows
    else:
        gradient = made.gradient(rows, losses, names)
    if hasattr(made, "see_result"):
        made.see_result(losses * 0.9, names)
    return gradient


def shared_body() -> Learner:
    torch.manual_seed(0)
    return qs.HardSharing(qs.backbones.MLP(2, (6,)), {NAMES[0]: 1, NAMES[1]: 1, NAMES[2]: 2})


@pytest.mark.parametrize("name", ["famo", "gradnorm", "excess_mtl", "pcgrad"])
def test_a_resumed_run_is_that_of_an_uninterrupted_one(name: str, tmp_path: Any) -> None:
    """Tasks are absent from some steps, and the memory is in the checkpoint."""
    weights = []
    for stops in ([4], [2, 4]):
        for place, steps in enumerate(stops):
            learner = shared_body()
            qs.fit(learner, lines, steps, 3, combine=balancer(name), run=tmp_path / f"{stops}",
                   resume=place > 0, progress=False)  # fmt: skip
        weights.append([p.detach().clone() for p in learner.parameters()])
    assert all(map(torch.equal, *weights))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_balancer_remembers_survives_a_file(name: str, tmp_path: Any) -> None:
    made, other = balancer(name), balancer(name)
    driven(made, seed=0)
    if not hasattr(made, "state_dict"):
        assert not METHODS[name].remembers
        return
    save_tree(tmp_path / "state", made.state_dict(), {})
    other.load_state_dict(load_tree(tmp_path / "state")[0])
    expected = driven(made, 1, steps=8)
    for found, with_memory in zip(driven(other, 1, steps=8), expected, strict=True):
        assert torch.equal(found, with_memory)
    fresh = driven(balancer(name), 1, steps=8)
    assert not all(map(torch.equal, fresh, expected)), "it remembers nothing"


def test_only_a_memory_needs_names() -> None:
    losses, rows = torch.tensor([1.0, 2.0]).double(), torch.randn(2, 5).double()
    for name, method in METHODS.items():
        if method.remembers or name == "constant":
            with pytest.raises(ValueError, match=r"without one|a task without a name"):
                given_by(balancer(name), rows, losses, ["a", ""])
        else:
            assert given_by(balancer(name), rows, losses, ["", ""]).shape == (5,)


@pytest.mark.parametrize("name", ["upgrad", "stch"])
def test_meta_batches_are_balanced(name: str) -> None:
    """MAML on tasks without names, which are a task each."""
    torch.manual_seed(0)
    learner = qs.MAML(qs.backbones.MLP(1, (8,), outputs=1), rate=0.01)
    start = copy.deepcopy(learner)
    qs.fit(learner, qs.Sinusoids(5, 5), 2, 4, combine=balancer(name), progress=False)
    moved = zip(learner.parameters(), start.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in moved)


def test_numbers_by_name_descend_as_torchs_adam() -> None:
    """A name that is absent keeps its number, and its count of steps."""
    learned = Learned(rate=0.1, decay=0.01)
    own = {name: torch.zeros((), dtype=torch.float64, requires_grad=True) for name in "abc"}
    adams = {n: torch.optim.Adam([p], lr=0.1, weight_decay=0.01) for n, p in own.items()}
    generator = torch.Generator().manual_seed(0)
    for present in ("ab", "cb", "abc", "c", "ba", "cab"):
        gradient = torch.randn(len(present), generator=generator, dtype=torch.float64)
        learned.descend(list(present), gradient)
        for name, of_name in zip(present, gradient, strict=True):
            own[name].grad = of_name
            adams[name].step()
    expected = torch.stack([own[name].detach() for name in "abc"])
    torch.testing.assert_close(learned.get(list("abc")), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["gradvac", "nash_mtl", "gradnorm", "famo", "excess_mtl", "uw"])
def test_the_order_of_tasks_in_a_step_is_irrelevant(name: str) -> None:
    """For two tasks: with more, GradVac visits them in a random order."""
    generator = torch.Generator().manual_seed(0)
    first, second = balancer(name), balancer(name)
    for _ in range(3):
        rows = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        losses = torch.rand(2, generator=generator, dtype=torch.float64) + 0.5
        found = [
            given_by(made, rows[order], losses[order], [NAMES[place] for place in order])
            for made, order in ((first, [0, 1]), (second, [1, 0]))
        ]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
