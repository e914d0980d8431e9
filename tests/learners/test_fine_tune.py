"""Fine-tuning, against plain loops of torch in float64, closed forms and the linear probe."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from made_up import clouds, examples_of
from quickstudy.backbones import MLP, Conv4
from quickstudy.base.trees import leaves
from quickstudy.compute.plan import Mapping
from quickstudy.contract.check import applicable, check_laws, doubled
from quickstudy.contract.laws import meta_gradient
from quickstudy.core import Examples, Task, TaskSpec
from quickstudy.learners.gradient.descend import Adam, Rate, Weights, sgd
from quickstudy.learners.transfer import trunk as trunk_module
from quickstudy.learners.transfer.depth import layers_of
from quickstudy.learners.transfer.heads import logistic
from quickstudy.learners.transfer.starting_heads import (
    cosine_head,
    nearest_mean_head,
    probe_head,
    zero_head,
)
from quickstudy.objectives import query_loss
from quickstudy.tasks.numbering import draw
from quickstudy.tasks.stacks import stack
from quickstudy.testing import check_learner


def net(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    made = MLP(4, (6, 7, 5)).double().eval()
    with torch.no_grad():  # larger than a fresh one, so that every layer matters
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


def rows(n: int, seed: int = 0, ways: int = 3) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    return examples_of(x, torch.arange(n) % ways)


SPEC = qs.classification(3)


def by_plain_torch(
    backbone: MLP,
    support: Examples,
    steps: int,
    optimiser: Callable[..., Any],
    rate: float,
    decay: float,
    pulls: tuple[float, float],
    every: int | None,
) -> nn.Sequential:
    """Fine-tuning from a head of zeros, written with modules and optimisers of torch alone."""
    body, head = copy.deepcopy(backbone), nn.Linear(5, 3).double()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    parts = [head, *(body.layers[i] for i in (4, 2, 0))]
    start = [p.detach().clone() for p in body.parameters()]
    step = optimiser([
        {"params": list(part.parameters()), "lr": rate * decay**depth}
        for depth, part in enumerate(parts)
    ])  # fmt: skip
    whole = nn.Sequential(body, head)
    for k in range(steps):
        for depth, part in enumerate(parts):
            part.requires_grad_(every is None or depth <= k // every)
        loss = F.cross_entropy(whole(support.inputs), support.targets)
        moved = sum(
            (p - p0).square().sum()
            for p, p0 in zip(body.parameters(), start, strict=True)
            if p.requires_grad
        )
        size = sum(p.square().sum() for p in head.parameters())
        (loss + pulls[0] / 2 * moved + pulls[1] / 2 * size).backward()
        step.step()
        whole.zero_grad(set_to_none=True)
    return whole


def adam(groups: Any) -> Any:
    return torch.optim.Adam(groups, eps=1e-12, weight_decay=0.1)


def descent(groups: Any) -> Any:
    return torch.optim.SGD(groups, weight_decay=0.1)


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize(
    ("update", "optimiser"), [(sgd, descent), (Adam(epsilon=1e-12), adam)], ids=["sgd", "adam"]
)
def test_it_is_a_plain_loop_with_layer_wise_decay_pulls_and_unfreezing(
    update: Any, optimiser: Any, every: int | None
) -> None:
    backbone, support = net(), rows(12)
    learner = qs.FineTune(
        backbone, head=zero_head, steps=9, rate=0.05, update=update, layer_decay=0.6,
        unfreeze_every=every, towards_start=0.3, towards_zero=0.2, weight_decay=0.1,
    ).eval()  # fmt: skip
    expected = by_plain_torch(backbone, support, 9, optimiser, 0.05, 0.6, (0.3, 0.2), every)
    found = learner(support, SPEC)(support.inputs)
    torch.testing.assert_close(found, expected(support.inputs), rtol=1e-7, atol=1e-9)
    start = qs.FineTune(backbone, head=zero_head, steps=0).eval()(support, SPEC)(support.inputs)
    assert (found - start).abs().max() > 0.01


def body_alone(w: Weights, g: Weights, rate: Rate, memory: Any) -> tuple[Weights, Any]:
    """Descent that leaves the head where it is, so that a linear network's loss is quadratic."""
    assert isinstance(rate, dict)
    return {n: v if n.startswith("head") else v - rate[n] * g[n] for n, v in w.items()}, None


def identity_start(
    features: Tensor, support: Examples, spec: TaskSpec, l2: float
) -> tuple[Tensor, Tensor]:
    return torch.eye(3, dtype=features.dtype), features.new_zeros(3)


def test_the_pull_to_the_start_reaches_the_closed_form_of_a_quadratic() -> None:
    torch.manual_seed(0)
    backbone = nn.Linear(4, 3, bias=False).double()
    x, y, alpha = rows(20).inputs, torch.randn(20, 3).double(), 0.7
    learner = qs.FineTune(
        backbone, head=identity_start, steps=200, rate=0.5, update=body_alone, towards_start=alpha
    )
    predictor = learner(examples_of(x, y), qs.regression(3))
    # The loss is a mean over 20 * 3 squares: (2/60 X'X + α) (θ - θ₀)' = 2/60 X'(y - Xθ₀').
    gram = 2 / 60 * x.T @ x + alpha * torch.eye(4).double()
    moved = torch.linalg.solve(gram, 2 / 60 * x.T @ (y - backbone(x)))
    torch.testing.assert_close(predictor.state["difference"]["weight"], moved.T)


def test_the_pull_of_the_head_to_zero_reaches_the_closed_form_of_a_quadratic() -> None:
    x, y, beta = rows(20).inputs, rows(20, 1).inputs[:, :1], 0.4
    learner = qs.FineTune(
        nn.Identity(), "head", zero_head, steps=300, rate=0.3, update=sgd, towards_zero=beta
    )
    head = learner(examples_of(x, y), qs.regression()).state["head"]
    ones = torch.cat([x, torch.ones(20, 1).double()], 1)
    best = torch.linalg.solve(
        2 / 20 * ones.T @ ones + beta * torch.eye(5).double(), 2 / 20 * ones.T @ y
    )
    torch.testing.assert_close(torch.cat([head["weight"], head["bias"][:, None]], 1), best.T)


def of_every_answer() -> dict[str, tuple[Tensor, TaskSpec]]:
    numbers = rows(12, 1).inputs[:, :2]
    unknown = numbers.clone()
    unknown[0, 1] = torch.nan
    return {
        "classes": (rows(12).targets, SPEC),
        "reals": (numbers, qs.regression(2)),
        "missing reals": (unknown, qs.regression(2, missing=True)),
        "labels": (
            (unknown > 0).double().where(~unknown.isnan(), torch.nan), qs.multilabel(2),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", of_every_answer())
def test_it_starts_at_the_predictions_of_the_linear_probe(kind: str) -> None:
    targets, spec = of_every_answer()[kind]
    support, backbone = examples_of(rows(12).inputs, targets), net()
    options = {} if "reals" in kind else {"head": logistic}
    probe = qs.LinearProbe(backbone, l2=0.3, **options)(support, spec)  # type: ignore[arg-type]
    start = qs.FineTune(backbone, l2=0.3, steps=0)(support, spec)
    x = rows(5, 2).inputs
    torch.testing.assert_close(start(x), probe(x), rtol=1e-12, atol=1e-12)


def test_heads_of_class_means_predict_as_nearest_means_and_cosines() -> None:
    support, backbone, x = rows(12), net(), rows(5, 2).inputs
    nearest = qs.FineTune(backbone, head=nearest_mean_head, steps=0)(support, SPEC)(x)
    prototypes = qs.Prototypical(backbone)(support, SPEC)(x)
    torch.testing.assert_close(nearest.log_softmax(-1), prototypes.log_softmax(-1))
    cosine = qs.FineTune(backbone, head=cosine_head, steps=0, feature_length=10.0)
    means = torch.stack([
        F.normalize(backbone(support.inputs))[support.targets == k].mean(0) for k in range(3)
    ])  # fmt: skip
    expected = 10 * F.cosine_similarity(backbone(x)[:, None], means[None], dim=-1)
    torch.testing.assert_close(cosine(support, SPEC)(x), expected)


def test_heads_of_class_means_refuse_other_answers() -> None:
    for head in (nearest_mean_head, cosine_head):
        with pytest.raises(ValueError, match=r"means of classes.*Use probe_head or zero_head"):
            qs.FineTune(net(), head=head)(examples_of(rows(4).inputs, rows(4).inputs),
                                          qs.regression(4))  # fmt: skip


def test_the_state_is_the_difference_and_the_backbone_stays(tmp_path: Path) -> None:
    backbone, support = net(), rows(12)
    learner = qs.FineTune(backbone, "last:1", steps=5, rate=0.01).eval()
    before = copy.deepcopy(backbone.state_dict())
    predictor = learner(support, SPEC)
    assert {n: tuple(t.shape) for n, t in predictor.state["difference"].items()} == {
        "layers.4.weight": (5, 7), "layers.4.bias": (5,),
    }  # fmt: skip
    assert all(torch.equal(t, before[n]) for n, t in backbone.state_dict().items())
    by_hand = copy.deepcopy(backbone)
    with torch.no_grad():
        for name, difference in predictor.state["difference"].items():
            by_hand.get_parameter(name).add_(difference)
    head, x = predictor.state["head"], rows(5, 2).inputs
    expected = by_hand(x) @ head["weight"].T + head["bias"]
    torch.testing.assert_close(predictor(x), expected, rtol=1e-12, atol=1e-12)
    path = qs.save(predictor, tmp_path / "fine.safetensors")
    assert torch.equal(qs.load(path)(x), predictor(x))


def test_what_does_not_change_is_computed_once() -> None:
    torch.manual_seed(0)
    backbone = Conv4(4, image_size=16).double()
    calls = [0, 0, 0, 0]

    def counting(k: int) -> Any:
        def hook(*_: Any) -> None:
            calls[k] += 1

        return hook

    for k, block in enumerate(backbone.blocks):
        block.conv.register_forward_hook(counting(k))
    support = examples_of(torch.randn(6, 1, 16, 16).double(), torch.arange(6) % 3)
    learner = qs.FineTune(backbone, "last:2", zero_head, steps=20).eval()
    kept = learner(support, SPEC)(support.inputs)
    assert max(calls[:2]) <= 6 < 20 < min(calls[2:])  # features, recording, reach and queries
    calls[:] = [0, 0, 0, 0]
    qs.FineTune(backbone, "head", zero_head, steps=20).eval()(support, SPEC)
    assert max(calls) == 1
    for adapts in ("last:2", "blocks.1.*"):
        learner = qs.FineTune(backbone, adapts, zero_head, steps=20).eval()
        kept = learner(support, SPEC)(support.inputs)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trunk_module, "_can_keep", lambda *_: False)
            computed = learner(support, SPEC)(support.inputs)
        torch.testing.assert_close(kept, computed, rtol=1e-12, atol=1e-14)


class Skipping(nn.Module):
    """The first layer is read again after the second, and its weight by the network itself."""

    features = 4

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4) -> (n, 4)."""
        a = self.first(x).tanh()
        b = self.second(a).tanh()
        again: Tensor = self.first(b + a @ self.third.weight).tanh() + self.third(a)
        return again


@pytest.mark.parametrize("moved", ["first.*", "second.*", "third.*"])
@pytest.mark.parametrize("batch", [None, 5])
def test_keeping_follows_what_the_network_reads(moved: str, batch: int | None) -> None:
    torch.manual_seed(0)
    support = rows(12)
    learner = qs.FineTune(
        Skipping().double(), moved, zero_head, steps=7, rate=0.1, batch=batch
    ).eval()
    kept = learner(support, SPEC)(support.inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk_module, "_can_keep", lambda *_: False)
        computed = learner(support, SPEC)(support.inputs)
    torch.testing.assert_close(kept, computed, rtol=1e-12, atol=1e-14)


def test_batches_follow_one_another_in_the_order_of_the_seed() -> None:
    support = rows(10)
    seen: list[Tensor] = []

    def noting(w: Weights, g: Weights, rate: Rate, memory: Any) -> tuple[Weights, Any]:
        if "head.bias" in g:
            seen.append(g["head.weight"])
        return w, None

    def gradients(seed: int) -> list[Tensor]:
        seen.clear()
        learner = qs.FineTune(nn.Identity(), "head", zero_head, steps=5, update=noting, batch=4,
                              seed=seed)  # fmt: skip
        learner.eval()(support, SPEC)
        return list(seen)

    # At a head of zeros, a row's gradient is (1/3 - its class) x', whatever was before: so the
    # gradients of 5 batches of 4 rows must sum to those of all 10 rows, twice.
    each = (1 / 3 - F.one_hot(support.targets, 3).double())[:, :, None] * support.inputs[:, None]
    first = gradients(0)
    torch.testing.assert_close(4 * torch.stack(first).sum(0), 2 * each.sum(0))
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(0), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, gradients(1), strict=True))


def test_a_batch_of_all_rows_is_a_step_on_all_rows() -> None:
    support = rows(10)
    whole, batches = (
        qs.FineTune(net(), head=zero_head, steps=3, rate=0.1, batch=batch).eval()(support, SPEC)
        for batch in (None, 10)
    )
    torch.testing.assert_close(whole(support.inputs), batches(support.inputs))


RATES, STEPS = (0.3, 0.003, 0.03), (2, 6, 4)


def held_out_loss(rate: float, steps: int, support: Examples, folds: int) -> float:
    """Cross-validation with a learner of fixed settings, on tasks cut by hand."""
    number = torch.zeros(len(support.targets), dtype=torch.long)
    for k in range(3):
        mine = support.targets == k
        number[mine] = torch.arange(int(mine.sum()))
    total = 0.0
    for fold in range(folds):
        held = number % folds == fold
        kept, rest = (Examples(*(leaf[part] for leaf in support)) for part in (~held, held))
        learner = qs.FineTune(net(), "last:1", zero_head, steps=steps, rate=rate).eval()
        with torch.no_grad():
            loss = query_loss(learner, Task(kept, rest, SPEC)).loss
        total += float(loss) * len(rest.targets)
    return total


@pytest.mark.parametrize("seed", range(2))
def test_it_chooses_as_cross_validation_by_hand_does(seed: int) -> None:
    support = rows(15, seed)
    learner = qs.FineTune(net(), "last:1", zero_head, steps=STEPS, rate=RATES, folds=3).eval()
    predictor = learner(support, SPEC)
    losses = {(r, s): held_out_loss(r, s, support, 3) for r in RATES for s in STEPS}
    rate, steps = min(losses, key=lambda each: losses[each])
    chosen = predictor.state["chosen"]
    assert (float(chosen["rate"]), int(chosen["steps"])) == (rate, steps)
    fixed = qs.FineTune(net(), "last:1", zero_head, steps=steps, rate=rate).eval()(support, SPEC)
    torch.testing.assert_close(predictor(support.inputs), fixed(support.inputs))


def test_choosing_under_vmap_equals_a_loop() -> None:
    learner = qs.FineTune(
        net(), "last:1", zero_head, steps=(2, 5), rate=(0.01, 0.3), update=sgd, folds=2
    ).eval()
    one_shot = examples_of(torch.cat([rows(3).inputs] * 2), rows(6).targets)
    one_shot = one_shot._replace(weights=torch.tensor([1.0, 1, 1, 0, 0, 0]).double())
    tasks = [Task(rows(6, s), rows(6, s + 5), SPEC) for s in range(3)]
    tasks.append(Task(one_shot, rows(6, 9), SPEC))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        looped = meta_gradient(learner, stack(tasks), Mapping.LOOP)
    mapped = meta_gradient(learner, stack(tasks), Mapping.VMAP_GRAD)
    torch.testing.assert_close(looped, mapped, rtol=1e-8, atol=1e-12)


def test_with_a_choice_it_keeps_the_laws_that_it_does_not_except() -> None:
    learner = qs.FineTune(net(), "last:1", zero_head, steps=2, rate=(0.1, 0.01), folds=2)
    kept = check_learner(learner, clouds(shots=3))
    assert {"weight_zero_is_absent", "vmap_equals_loop", "threads_equal_turns"} <= set(kept)
    assert set(learner.exceptions) == {"weight_two_is_twice", "support_order_is_irrelevant"}
    assert set(qs.FineTune(net()).exceptions) == set()


def test_with_one_row_of_a_class_it_says_that_it_cannot_choose() -> None:
    learner = qs.FineTune(net(), "head", steps=(4, 2), rate=(0.02, 0.1)).eval()
    with pytest.warns(UserWarning, match=r"needs 2 support rows of each class; found 1.*rate=0.02"):
        chosen = learner(rows(5), SPEC).state["chosen"]
    assert (float(chosen["rate"]), int(chosen["steps"])) == (0.02, 4)
    with pytest.warns(UserWarning, match="needs 2 support rows in all; found 1"):
        learner(examples_of(rows(1).inputs, rows(1).inputs), qs.regression(4))


def test_training_over_tasks_is_of_first_order() -> None:
    backbone, task = net(), Task(rows(6), rows(6, 1), SPEC)
    learner = qs.FineTune(backbone, head=zero_head, steps=4, rate=0.1, update=sgd).eval()
    query_loss(learner, task).loss.backward()
    found = [p.grad for p in backbone.parameters()]
    state = learner.adapt(task.support, SPEC)
    moved = copy.deepcopy(backbone)
    with torch.no_grad():
        for name, difference in state["difference"].items():
            moved.get_parameter(name).add_(difference)
    head = state["head"]
    logits = moved(task.query.inputs) @ head["weight"].T + head["bias"]
    expected = torch.autograd.grad(
        F.cross_entropy(logits, task.query.targets), list(moved.parameters())
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_training_over_tasks_passes_through_the_start_of_the_head() -> None:
    task, gradients = Task(rows(6), rows(6, 1), SPEC), []
    for make in (qs.Prototypical, lambda net: qs.FineTune(net, head=nearest_mean_head, steps=0)):
        backbone = net()
        query_loss(make(backbone), task).loss.backward()
        gradients.append([p.grad for p in backbone.parameters()])
    torch.testing.assert_close(*gradients)


def test_without_second_order_no_graph_of_steps_remains() -> None:
    learner = qs.FineTune(net(), steps=3).eval()
    state = learner.adapt(rows(6), SPEC)
    assert not any(t.requires_grad for t in leaves(state["difference"]))
    with torch.no_grad():
        assert not any(t.requires_grad for t in leaves(learner.adapt(rows(6), SPEC)))


def test_a_trajectory_ends_at_the_adapted_state() -> None:
    learner = qs.FineTune(net(), steps=3, rate=0.1).eval()
    path = learner.trajectory(rows(6), SPEC)
    assert len(path) == 4
    end = learner.adapt(rows(6), SPEC)
    assert torch.equal(path[-1]["head"]["weight"], end["head"]["weight"])
    assert not any(t.any() for t in path[0]["difference"].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapts": "last:4"}, r"asks for 4 layers, but the backbone has 3 \(layers.0, layers.2, "
                               r"layers.4\). Ask for 1 to 3"),
        ({"adapts": "last:0"}, "asks for 0 layers"),
        ({"adapts": "blocks.*"}, r"matches no parameter. The backbone has: layers.0.weight"),
        ({"adapts": ()}, "lets no parameter adapt"),
        ({"rate": 0.0}, "rate must be a positive number; found 0.0"),
        ({"rate": (0.1, -1.0)}, "rate must be a positive number; found -1.0"),
        ({"rate": ()}, r"rate must be a positive number; found \(\)"),
        ({"rate": float("nan")}, "rate must be a positive number; found nan"),
        ({"steps": -1}, "steps must be at least 0; found -1"),
        ({"layer_decay": 1.5}, "layer_decay must be above 0 and at most 1"),
        ({"unfreeze_every": 0}, "unfreeze_every must be at least 1"),
        ({"towards_start": -0.1}, "towards_start must be a number of at least 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"feature_length": 0.0}, "feature_length must be a positive number"),
        ({"clip": 0.0}, "clip must be a positive number"),
        ({"l2": 0.0}, "l2 must be a positive number"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"FineTune: .*{message}"):
        qs.FineTune(net(), **options)


def test_a_frozen_backbone_moves_only_its_head() -> None:
    backbone = qs.frozen(net())
    for adapts in ("all", "last:1"):
        with pytest.raises(ValueError, match=r"are frozen, or there are none.*adapts='head'"):
            qs.FineTune(backbone, adapts)
    with pytest.raises(ValueError, match="matches frozen parameters alone"):
        qs.FineTune(backbone, "layers.*")
    predictor = qs.FineTune(backbone, "head", steps=3)(rows(6), SPEC)
    assert predictor.state["difference"] == {}
    backbone.layers[4].requires_grad_(True)
    moved = qs.FineTune(backbone, steps=3)(rows(6), SPEC).state["difference"]
    assert list(moved) == ["layers.4.weight", "layers.4.bias"]


def test_what_is_frozen_after_the_learner_was_made_does_not_move() -> None:
    learner = qs.FineTune(net(), steps=3)
    learner.backbone.layers[0].requires_grad_(False)  # type: ignore[union-attr, operator]
    assert "layers.0.weight" not in learner(rows(6), SPEC).state["difference"]
    last = qs.FineTune(net(), "last:1", steps=3)
    last.backbone.layers[4].requires_grad_(False)  # type: ignore[union-attr, operator]
    with pytest.raises(ValueError, match="all that it was made to move is frozen now"):
        last(rows(6), SPEC)
    last.requires_grad_(False)
    assert len(last(rows(6), SPEC).state["difference"]) == 2


def test_a_loss_that_is_not_finite_is_told_with_the_step_and_a_remedy() -> None:
    learner = qs.FineTune(net(), head=zero_head, rate=1e200, update=sgd).eval()
    with pytest.raises(
        ValueError, match=r"after [12] of its steps at the rate 1e\+200.*Lower rate"
    ):
        learner(rows(6), SPEC)


def test_maps_and_heads_that_cannot_be_left_out_are_refused() -> None:
    with pytest.raises(ValueError, match="gives vectors"):
        qs.FineTune(Conv4(4, flat=False))
    network = MLP(4)
    network.outputs = 3  # a head of another kind
    with pytest.raises(ValueError, match="ends in a head"):
        qs.FineTune(network)


def test_a_network_with_a_head_gives_the_features_that_the_head_reads() -> None:
    plain = net()
    headed = MLP(4, (6, 7, 5), outputs=9).double()
    headed.load_state_dict(plain.state_dict(), strict=False)
    assert [each.name for each in layers_of(headed)] == [each.name for each in layers_of(plain)]
    for adapts in ("head", "last:2", "all"):
        one, other = (
            qs.FineTune(each, adapts, steps=3, rate=0.1).eval()(rows(6), SPEC)
            for each in (plain, headed)
        )
        torch.testing.assert_close(one(rows(5, 1).inputs), other(rows(5, 1).inputs))
        assert list(one.state["difference"]) == list(other.state["difference"])
    with pytest.raises(ValueError, match="are frozen, or there are none"):
        qs.FineTune(headed, "head.*")


class Nested(nn.Module):
    """A stem with a token of its own, lists in a list's neighbour, and a last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(3))
        self.stem = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(
            nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)) for _ in range(3)
        )})  # fmt: skip
        self.last = nn.Linear(1, 1)
        self.tied = self.stem[0]


def test_layers_are_the_members_of_lists() -> None:
    assert [layer.name for layer in layers_of(Nested())] == [
        "itself", "stem", "encoder.layer.0", "encoder.layer.1", "encoder.layer.2", "last",
    ]  # fmt: skip
    assert [layer.name for layer in layers_of(Conv4(4))] == [f"blocks.{k}" for k in range(4)]
    found = [name for layer in layers_of(Nested()) for name in layer.parameters]
    assert found == [name for name, _ in Nested().named_parameters()]


def test_the_start_may_come_from_any_learner() -> None:
    torch.manual_seed(0)
    meta_learnt = qs.Prototypical(net())
    predictor = qs.FineTune(meta_learnt.backbone, steps=2)(rows(6), SPEC)
    assert predictor(rows(3, 1).inputs).isfinite().all()
    assert probe_head is qs.FineTune(net()).head


def test_the_head_by_default_keeps_the_laws_of_weights_order_and_names() -> None:
    """The contract's tests start at zeros: a fitted head would cost them most of their time."""
    torch.manual_seed(0)
    learner = qs.FineTune(MLP(4, (6,)), "last:1", steps=1).double().eval()
    task = doubled(draw(clouds(shots=2), 0, 0))
    assert set(LAWS) <= set(applicable(learner))
    check_laws(learner, task, LAWS)


LAWS = (
    "weight_zero_is_absent", "weight_two_is_twice", "support_order_is_irrelevant",
    "unknown_element_is_absent", "relabelling_permutes_outputs",
)  # fmt: skip
