"""Meta-gradients over named heads equal those of steps and losses that are written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.trees import concatenate
from quickstudy.compute.engine import accumulate
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import prepare_tasks
from quickstudy.contract.check import doubled
from quickstudy.objectives import objective_of

RATE, TASKS = 0.3, {"north": 2, "south": 2}
SHARED = [f"learner.backbone.{name}" for name in ("body.weight", "head.weight", "head.bias")]


class Net(nn.Module):
    """tanh of a linear layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2)"""
        y: Tensor = self.head(torch.tanh(self.body(x)))
        return y


def made(learner: type[qs.Learner] = qs.MAML, **options: object) -> qs.NamedHeads:
    """In float64, with v that is not 0."""
    torch.manual_seed(0)
    found = qs.NamedHeads(learner(Net(), rate=RATE, **options), TASKS).double()  # type: ignore[call-arg]
    for parameter in found.heads.parameters():
        nn.init.normal_(parameter, std=0.5)
    return found


def task(name: str, seed: int, rows: int = 5) -> qs.Task:
    generator = torch.Generator().manual_seed(seed)
    parts = (
        qs.examples(torch.randn(n, 3, generator=generator), torch.randn(n, 2, generator=generator))
        for n in (rows, 4)
    )
    return doubled(qs.Task(*parts, qs.TaskSpec(qs.answers.Reals(2), name)))


def weights_of(learner: qs.NamedHeads) -> dict[str, Tensor]:
    """All parameters as leaves of a computation of our own."""
    return {n: p.detach().clone().requires_grad_() for n, p in learner.named_parameters()}


def start_of(w: dict[str, Tensor], name: str) -> list[Tensor]:
    """A (4, 3), H (2, 4) and b (2,) from which the steps of a task start."""
    body, head, bias = (
        w[f"learner.backbone.{n}"] for n in ("body.weight", "head.weight", "head.bias")
    )
    if name not in TASKS:
        return [body, head, bias]
    place = list(TASKS).index(name)
    return [body, head + w["heads.weight"][place].T, bias + w["heads.bias"][place]]


def stepped(a: Tensor, h: Tensor, b: Tensor, rows: qs.Examples) -> list[Tensor]:
    """One step of descent on the mean of |H tanh(A x) + b - y|² / 2 over the rows, by hand."""
    x, y = rows.inputs, rows.targets
    f = torch.tanh(x @ a.T)
    r = (f @ h.T + b - y) / len(x)  # the derivative by the predictions, of squares / 2 columns
    by_f = (r @ h) * (1 - f**2)
    return [a - RATE * by_f.T @ x, h - RATE * r.T @ f, b - RATE * r.sum(0)]


def query_loss(a: Tensor, h: Tensor, b: Tensor, rows: qs.Examples) -> Tensor:
    return (torch.tanh(rows.inputs @ a.T) @ h.T + b - rows.targets).square().mean()


def gradients(learner: qs.NamedHeads, tasks: list[qs.Task], mapping: Mapping) -> dict[str, Tensor]:
    """Of the mean objective, as training computes it."""
    learner.zero_grad()
    stacks = prepare_tasks(learner, tasks)
    accumulate(learner, stacks, objective_of(learner), Plan(mapping, "the test", len(tasks)))
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in learner.named_parameters()
    }


@pytest.mark.parametrize("mapping", [Mapping.LOOP, Mapping.VMAP_GRAD])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_meta_gradient_is_that_of_steps_by_hand(mapping: Mapping, steps: int) -> None:
    """Of trunk, h and v, second order included: two tasks of one name, one of another, one new."""
    tasks = [task("north", 0), task("south", 1), task("north", 2), task("elsewhere", 3)]
    learner = made(steps=steps)
    w = weights_of(learner)
    losses = []
    for each in tasks:
        at = start_of(w, each.spec.name)
        for _ in range(steps):
            at = stepped(*at, each.support)
        losses.append(query_loss(*at, each.query))
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(w.values()))
    found = gradients(learner, tasks, mapping)
    for name, gradient in zip(w, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_reptile_moves_trunk_and_head_towards_the_end_of_the_steps() -> None:
    """∇ of trunk and h: mean of start - end; of v: that of the tasks of its name."""
    sgd = qs.MAML(Net()).update
    learner = made(qs.Reptile, steps=3, update=sgd, batch=20)
    tasks = [task("north", 0), task("elsewhere", 1)]
    w = weights_of(learner)
    moved = []
    for each in tasks:
        start = start_of(w, each.spec.name)
        at = start
        both = concatenate(each.support, each.query)
        for _ in range(3):
            at = stepped(*at, both)
        moved.append([(a - b).detach() for a, b in zip(start, at, strict=True)])
    found = gradients(learner, tasks, Mapping.VMAP_GRAD)
    for name, north, other in zip(SHARED, *moved, strict=True):
        torch.testing.assert_close(found[name], (north + other) / 2, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["heads.weight"][0], moved[0][1].T / 2, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["heads.bias"][0], moved[0][2] / 2, rtol=1e-9, atol=1e-12)
    assert not found["heads.weight"][1].any(), "no task of this name was drawn"


@pytest.mark.parametrize(
    "wrapped", [qs.MAML, qs.ANIL, qs.MAMLPlusPlus, qs.MetaSGD, qs.Reptile], ids=lambda c: c.__name__
)
def test_a_new_task_gets_what_the_learner_itself_gives(wrapped: type[qs.Learner]) -> None:
    torch.manual_seed(0)
    learner = wrapped(qs.backbones.MLP(3, (4,), outputs=2)).double().eval()  # type: ignore[call-arg]
    given = task("elsewhere", 0)
    expected = learner(given.support, given.spec)(given.query.inputs)
    for tasks in ({}, TASKS):
        named = qs.NamedHeads(learner, tasks).eval()
        found = named(given.support, given.spec)(given.query.inputs)
        torch.testing.assert_close(found, expected)
        assert bool(named.scheduled) == bool(learner.scheduled)


def test_a_known_task_starts_at_its_own_head() -> None:
    learner, given = made(), task("south", 0)
    a, h, b = start_of(weights_of(learner), "south")
    before = qs.core.Predictor(learner, learner.prior(given.spec), given.spec)
    expected = torch.tanh(given.query.inputs @ a.T) @ h.T + b
    torch.testing.assert_close(before(given.query.inputs), expected)
    first, *_, last = learner.trajectory(given.support, given.spec)
    torch.testing.assert_close(first["weights"]["head.weight"], h)
    torch.testing.assert_close(last, learner.adapt(given.support, given.spec))


def test_tasks_of_other_widths_and_kinds_read_the_first_outputs_of_their_head() -> None:
    """Reals(1), Labels(2) and Classes(3) under a head of 3 outputs, in one training."""
    torch.manual_seed(0)
    kinds = {
        "number": qs.regression(1), "labels": qs.multilabel(2), "kind": qs.classification(3),
    }  # fmt: skip

    def drawn(generator: torch.Generator) -> qs.Task:
        name = list(kinds)[int(torch.randint(3, (), generator=generator))]
        x = torch.randn(6, 3, generator=generator)
        targets = {"number": x[:, :1], "labels": (x[:, :2] > 0).float(), "kind": x.argmax(1)}[name]
        rows = qs.examples(x, targets)
        return qs.Task(rows, rows, qs.TaskSpec(kinds[name].answer, name))

    widths = {name: spec.outputs for name, spec in kinds.items()}
    learner = qs.NamedHeads(qs.MAML(qs.backbones.MLP(3, (8,), outputs=3), rate=0.1), widths)
    before = qs.evaluate(learner, drawn, 30, baselines=False)
    qs.fit(learner, drawn, 60, 6, optimiser=qs.optimisers.adam(0.02), progress=False)
    after = qs.evaluate(learner, drawn, 30, baselines=False)
    assert after.row("number").mean < before.row("number").mean, "an error"
    assert after.row("kind").mean > before.row("kind").mean
    for name, width in widths.items():
        given = drawn(torch.Generator().manual_seed(0))
        spec = qs.TaskSpec(kinds[name].answer, name)
        assert learner.prior(spec)["weights"]["head.weight"].shape[0] in (width, 3)
        assert given.support.inputs.shape == (6, 3)


def test_the_trunk_is_shared_with_a_multi_task_learner() -> None:
    """Training one moves the trunk of the other, in both orders."""
    trunk = qs.backbones.MLP(3, (4,))
    multi = qs.HardSharing(trunk, TASKS)
    meta = qs.NamedHeads(qs.MAML(qs.backbones.WithHead(trunk, 2), rate=0.01), TASKS)
    source = qs.tasks.fixed([task("north", 0), task("south", 1)])
    for trained, other in ((multi, meta), (meta, multi)):
        trunk_of_other = [p.clone() for p in other.backbone.parameters()]
        qs.fit(trained, source, 1, 2, progress=False)
        assert any(
            not torch.equal(p, q)
            for p, q in zip(trunk_of_other, other.backbone.parameters(), strict=True)
        )


def test_it_is_saved_with_its_tasks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = qs.NamedHeads(qs.MAML(qs.backbones.MLP(3, (4,), outputs=2), rate=0.1), TASKS).eval()
    nn.init.normal_(learner.heads.weight)
    given = task("south", 0)
    support, query = (qs.examples(p.inputs.float(), p.targets.float()) for p in given[:2])
    expected = learner(support, given.spec)(query.inputs)
    loaded = qs.load(qs.save(learner, tmp_path / "learner.safetensors"))
    assert loaded.tasks == TASKS
    torch.testing.assert_close(loaded(support, given.spec)(query.inputs), expected)
    saved = qs.save(learner(support, given.spec), tmp_path / "predictor.safetensors")
    torch.testing.assert_close(qs.load(saved)(query.inputs), expected)


def test_what_cannot_be_is_refused() -> None:
    net = qs.backbones.MLP(3, (4,), outputs=2)
    with pytest.raises(ValueError, match=r"adapt a linear head.*BOIL, which adapts layers"):
        qs.NamedHeads(qs.BOIL(net))
    with pytest.raises(ValueError, match=r"adapt a linear head.*Prototypical, which adapts no"):
        qs.NamedHeads(qs.Prototypical(qs.backbones.MLP(3, (4,))))
    with pytest.raises(ValueError, match=r"more outputs .* head, 2; found 3 for 'north'"):
        qs.NamedHeads(net, {"north": 3})
    with pytest.raises(ValueError, match="needs a name"):
        qs.NamedHeads(net, {"": 1})
    given = task("north", 0)
    with pytest.raises(ValueError, match=r"'north' was declared with 1 output.*has 2"):
        qs.NamedHeads(net.double(), {"north": 1})(given.support, given.spec)


def test_a_new_task_without_labels_is_told_the_known_ones() -> None:
    learner, given = made(), task("elsewhere", 0)
    support = given.support._replace(targets=torch.full((5, 2), torch.nan, dtype=torch.float64))
    spec = qs.TaskSpec(qs.answers.Reals(2, missing=True), "elsewhere")
    with pytest.raises(ValueError, match=r"'elsewhere'.*knows: north, south"):
        prepare_tasks(learner, [qs.Task(support, given.query, spec)])
