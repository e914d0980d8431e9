"""Learners that know tasks by name: hard sharing, single-task and pooled learning.

Losses and gradients are compared with a float64 computation of its own, task after task, in which
every task has separate leaf tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import quickstudy as qs
from made_up import clouds, planes, yes_or_no
from quickstudy.backbones import MLP, Conv4
from quickstudy.base import memory
from quickstudy.compute.engine import accumulate, map_tasks
from quickstudy.compute.plan import Mapping, Plan
from quickstudy.compute.prepare import kind_of, prepare_tasks
from quickstudy.contract.check import LAWS, applicable, check_laws, doubled
from quickstudy.core import Learner, NamedExamples, Task, TaskSource
from quickstudy.learners.gradient.descend import sgd
from quickstudy.learners.multitask import stacked_parameters
from quickstudy.objectives import Outcome, all_rows_loss, objective_of, predict_queries, query_loss
from quickstudy.tasks.numbering import draw, draw_stacks, generator
from quickstudy.tasks.stacks import stack

WIDTHS = {"price": 1, "kind": 3, "yes": 2, "sign": 2, "place": 2, "age": 1}
SPECS = {
    "price": qs.regression(name="price"), "age": qs.regression(name="age"),
    "place": qs.regression(2, missing=True, name="place"),
    "kind": qs.classification(3, name="kind"), "sign": qs.classification(2, name="sign"),
    "yes": qs.multilabel(2, name="yes"),
}  # fmt: skip


def rows(n: int, spec: Any, g: torch.Generator) -> Any:
    x = torch.randn(n, 4, generator=g)
    if spec.answer.kind == "classes":
        y: Tensor = torch.randint(spec.outputs, (n,), generator=g)
    elif spec.answer.kind == "labels":
        y = torch.randint(-1, 2, (n, spec.outputs), generator=g)
    else:
        y = torch.randn(n, spec.outputs, generator=g)
        if spec.answer.missing:
            y[torch.rand(y.shape, generator=g) < 0.3] = torch.nan
    return qs.examples(x, y, weights=torch.rand(n, generator=g) + 0.5)


def made_task(name: str, seed: int, n: tuple[int, int] = (3, 4), spec: Any = None) -> Task:
    spec, g = spec or SPECS[name], generator(seed)
    return Task(rows(n[0], spec, g), rows(n[1], spec, g), replace(spec, name=name))


def mixed(g: torch.Generator) -> Task:
    """Tasks of all names, answers and widths, of several numbers of rows."""
    name = list(WIDTHS)[int(torch.randint(len(WIDTHS), (), generator=g))]
    n = int(torch.randint(3, 6, (), generator=g))
    return made_task(name, int(torch.randint(2**30, (), generator=g)), (n, 4))


def net() -> MLP:
    return MLP(4, (6, 5))


LEARNERS: dict[str, Callable[[], Any]] = {
    "hard_sharing": lambda: qs.HardSharing(net(), WIDTHS),
    "single_task": lambda: qs.SingleTask(net(), WIDTHS, steps=3),
}
EACH = pytest.mark.parametrize("name", LEARNERS)


def noisy(learner: Learner) -> Any:
    """In float64, with other weights for every task: those of equal starts could be mixed up."""
    with torch.no_grad():
        for parameter in learner.double().parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    return learner


def made(name: str) -> Any:
    torch.manual_seed(0)
    return noisy(LEARNERS[name]())


def loss_by_hand(predictions: Tensor, part: Any, spec: Any) -> tuple[Tensor, Tensor]:
    """Sum of weighted losses of the known elements, and the sum of their weights."""
    y, w = part.targets, part.weights
    if spec.answer.kind == "classes":
        return (w * F.cross_entropy(predictions, y, reduction="none")).sum(), w.sum()
    if spec.answer.kind == "labels":
        known = y >= 0
        each = F.binary_cross_entropy_with_logits(
            predictions, y.clamp_min(0).to(predictions.dtype), reduction="none"
        )
    else:
        known = ~y.isnan()
        each = (predictions - y.nan_to_num()).square()
    share = w.unsqueeze(-1) * known / y.shape[-1]
    return (share * each).sum(), share.sum()


def by_hand(name: str, learner: Any, tasks: list[Task]) -> tuple[list[float], dict[str, Tensor]]:
    """Each task's loss over all its rows, and the gradient of their mean, from separate tensors."""
    own: dict[str, Tensor] = {
        n: p.detach().clone().requires_grad_()
        for n, p in learner.named_parameters() if p.requires_grad
    }  # fmt: skip
    losses = []
    for task in tasks:
        place, width = list(WIDTHS).index(task.spec.name), task.spec.outputs
        head = own["heads.weight"][place, :, :width], own["heads.bias"][place, :width]
        layers = (
            {f"layers.{i}.{kind}": own[f"networks.layers/{i}/{kind}"][place]
             for i in (0, 2) for kind in ("weight", "bias")}
            if name == "single_task"
            else {n.removeprefix("backbone."): p for n, p in own.items() if "backbone" in n}
        )  # fmt: skip
        total, count = torch.zeros(()), torch.zeros(())
        for part in (task.support, task.query):
            part = part._replace(inputs=part.inputs.double(), weights=part.weights.double())
            hidden = part.inputs
            for i in (0, 2):
                hidden = F.linear(hidden, layers[f"layers.{i}.weight"], layers[f"layers.{i}.bias"])
                hidden = hidden.relu()
            if part.targets.is_floating_point():
                part = part._replace(targets=part.targets.double())
            lost, counted = loss_by_hand(hidden @ head[0] + head[1], part, task.spec)
            total, count = total + lost, count + counted
        losses.append(total / count)
    torch.stack(losses).mean().backward()
    return [float(loss.detach()) for loss in losses], {n: p.grad for n, p in own.items()}  # type: ignore[misc]


def by_engine(
    learner: Any, tasks: list[Task], mapping: Mapping
) -> tuple[Outcome, dict[str, Tensor]]:
    learner.zero_grad()
    step = prepare_tasks(learner, tasks)
    outcome = accumulate(learner, step, objective_of(learner), Plan(mapping, "", len(tasks)))
    found = {n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None}
    learner.zero_grad()
    return outcome, found


@pytest.mark.parametrize("mapping", [Mapping.VMAP, Mapping.LOOP])
@EACH
def test_stacked_named_tasks_give_the_loss_and_the_gradient_of_separate_ones(
    name: str, mapping: Mapping
) -> None:
    learner = made(name)
    tasks = [draw(mixed, 0, i) for i in range(24)]
    assert {task.spec.name for task in tasks} == set(WIDTHS)
    losses, gradients = by_hand(name, learner, tasks)
    outcome, found = by_engine(learner, tasks, mapping)
    torch.testing.assert_close(outcome.loss, torch.tensor(losses).double(), rtol=1e-6, atol=1e-6)
    assert found.keys() == gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-6, atol=1e-7)


@EACH
def test_mapped_named_tasks_equal_the_loop_to_rounding_in_float64(name: str) -> None:
    learner, tasks = made(name), [draw(mixed, 0, i) for i in range(24)]
    (a, by_vmap), (b, by_loop) = (
        by_engine(learner, tasks, each) for each in (Mapping.VMAP, Mapping.LOOP)
    )
    torch.testing.assert_close(a.loss, b.loss, rtol=1e-12, atol=1e-12)
    for key, gradient in by_loop.items():
        torch.testing.assert_close(by_vmap[key], gradient, rtol=1e-10, atol=1e-12)


def test_pooled_rows_are_those_of_one_task() -> None:
    learner = noisy(qs.Pooled(net()))
    tasks = [made_task(name, i) for i, name in enumerate(["price", "age", "price"])]
    for mapping in (Mapping.VMAP, Mapping.LOOP):
        outcome, _ = by_engine(learner, tasks, mapping)
        for task, loss in zip(tasks, outcome.loss, strict=True):
            task = doubled(task)
            parts = [loss_by_hand(learner.head(learner.backbone(p.inputs)), p, task.spec)
                     for p in (task.support, task.query)]  # fmt: skip
            expected = (parts[0][0] + parts[1][0]) / (parts[0][1] + parts[1][1])
            torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)


@EACH
def test_known_tasks_share_stacks_but_not_with_new_ones(name: str) -> None:
    learner = made(name)
    tasks = [made_task(each, 0) for each in ("price", "kind", "age", "sign")]
    tasks += [made_task(f"new {i}", 0, spec=qs.regression()) for i in range(2)]
    step = prepare_tasks(learner, tasks)
    assert [each.names for each in step] == [
        ("price", "age"), ("kind", "sign"), ("new 0", "new 1"),
    ]  # fmt: skip
    known = [isinstance(each.task.support, NamedExamples) for each in step]
    assert known == [True, True, False]
    assert step[1].task.support.place.tolist() == [1, 3]
    kinds = [kind_of(each.task) for each in step]
    assert kinds[0] != kinds[2], "a mapping that is right for known tasks may be wrong for new ones"


@EACH
def test_names_are_never_mixed_up(name: str) -> None:
    """Known and new tasks, answers, widths and numbers of rows in one batch of an evaluation."""
    learner = made(name).eval()
    tasks = [draw(mixed, 0, i) for i in range(12)]
    tasks.insert(3, made_task("new", 5, spec=qs.classification(2)))
    tasks.append(made_task("other", 6, (5, 4), qs.regression()))
    found: dict[int, Tensor] = {}
    for prepared in prepare_tasks(learner, tasks):
        for plan in (Plan(Mapping.VMAP, "", 20), Plan(Mapping.LOOP, "", 1)):
            got = map_tasks(predict_queries, prepared.task, learner, plan, prepared.inspection)
            for place, each in zip(prepared.places, got, strict=True):
                torch.testing.assert_close(each, found.setdefault(place, each), rtol=1e-9, atol=0)
    for place, task in enumerate(map(doubled, tasks)):
        with torch.no_grad():
            alone = learner(task.support, task.spec)(task.query.inputs)
        k = task.spec.outputs
        torch.testing.assert_close(found[place][:, :k], alone, rtol=1e-9, atol=1e-9)
        assert (found[place][:, k:] < -1e20).all(), "classes of wider tasks in the stack"


def named(source: TaskSource, name: str) -> TaskSource:
    """The tasks of ``source`` under one name."""

    def drawn(g: torch.Generator) -> Task:
        task = source(g)
        return task._replace(spec=replace(task.spec, name=name))

    return drawn


SOURCES = {
    "classes": (clouds(3, 2), 3), "reals": (planes(), 1),
    "missing reals": (planes(2, missing=True), 2), "labels": (yes_or_no(2), 2),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
@EACH
def test_a_task_known_by_name_keeps_every_law_but_the_declared(name: str, kind: str) -> None:
    source, width = SOURCES[kind]
    cls = type(LEARNERS[name]())
    torch.manual_seed(0)
    learner = noisy(cls(net(), {"known": width, "other": 3, "third": 1})).eval()
    task = doubled(draw(named(source, "known"), 0, 0))
    kept = applicable(learner)
    assert set(LAWS) - set(kept) == {"relabelling_permutes_outputs",
                                     "joined_answer_changes_nothing"}  # fmt: skip
    check_laws(learner, task, kept)
    if kind == "classes":  # the two laws are broken indeed
        for law in set(LAWS) - set(kept):
            with pytest.raises(qs.testing.BrokenLaw):
                LAWS[law](learner, task)


@pytest.mark.parametrize("kind", ["classes", "missing reals"])
@EACH
def test_a_new_task_beside_known_ones_keeps_every_law(name: str, kind: str) -> None:
    source, width = SOURCES[kind]
    options = {"steps": 3} if name == "single_task" else {}
    cls = type(LEARNERS[name]())
    torch.manual_seed(0)
    learner = noisy(cls(net(), {"known": width, "other": 3}, **options)).eval()
    learner.requires_grad_(False)  # no gradient reaches the parts of the others
    check_laws(learner, doubled(draw(named(source, "new"), 0, 0)), LAWS)


def test_pooled_keeps_every_law_but_the_declared_whatever_the_name() -> None:
    for source, width in (SOURCES["classes"], SOURCES["missing reals"]):
        learner = noisy(qs.Pooled(net(), width)).eval()
        check_laws(learner, doubled(draw(named(source, "any"), 0, 0)), applicable(learner))


def test_per_task_names_the_parameters_with_a_row_per_task() -> None:
    for name in LEARNERS:
        learner, task = made(name), made_task("sign", 0)
        own = dict(learner.named_parameters())
        trained = {n for n, p in own.items() if p.requires_grad}
        shared = {n for n in trained if n.startswith("backbone.")}
        assert set(learner.per_task) == trained - shared
        _, gradients = by_engine(learner, [task], Mapping.LOOP)
        for each in learner.per_task:
            assert len(own[each]) == len(WIDTHS)
            rows = [i for i, g in enumerate(gradients[each]) if g.any()]
            assert rows == [learner.place_of("sign")], "the rows of other tasks have no gradient"
    assert qs.HardSharing(net()).per_task == ()


def test_a_new_task_of_hard_sharing_gets_the_linear_probe_on_the_trunk() -> None:
    learner = made("hard_sharing")
    probe = qs.LinearProbe(learner.backbone)
    for spec in (qs.classification(4), qs.regression(2), qs.multilabel(3)):
        task = doubled(made_task("new", 3, spec=spec))
        a, b = (each(task.support, task.spec)(task.query.inputs) for each in (learner, probe))
        assert torch.equal(a, b)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_new_task_of_single_task_is_trained_alone_from_the_same_start(frozen: bool) -> None:
    """Equal to the steps of torch.optim.SGD on a network and a head of zeros."""
    torch.manual_seed(0)
    backbone = net().double()
    backbone.layers[0].requires_grad_(not frozen)
    learner = qs.SingleTask(backbone, WIDTHS, steps=7, rate=0.1, update=sgd)
    known = [p for n, p in learner.named_parameters() if n.startswith("networks.")]
    starts = [p for p in backbone.parameters() if p.requires_grad]
    for stacked_, start in zip(known, starts, strict=True):
        assert all(torch.equal(own, start) for own in stacked_), "known tasks start there too"
    task = doubled(made_task("new", 3, (9, 4), qs.classification(3)))
    found = learner(task.support, task.spec)(task.query.inputs)
    head = torch.nn.Linear(5, 3).double()
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    network = torch.nn.Sequential(backbone, head)
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    for _ in range(7):
        optimiser.zero_grad()
        losses = F.cross_entropy(
            network(task.support.inputs), task.support.targets, reduction="none"
        )
        ((task.support.weights * losses).sum() / task.support.weights.sum()).backward()
        optimiser.step()
    present = task.support.targets.bincount(minlength=3) > 0
    torch.testing.assert_close(found[:, present], network(task.query.inputs)[:, present].detach())
    assert all(not p.requires_grad for p in learner.backbone.parameters())


def test_the_rows_of_support_and_query_count_alike_even_where_their_sizes_differ() -> None:
    """Graphs of 2 and of 3 nodes cannot be computed in one pass; the loss is the same mean."""

    class Summed(torch.nn.Module):
        features = 4

        def forward(self, graph: dict[str, Tensor]) -> Tensor:
            return (graph["nodes"] * graph["mask"].unsqueeze(-1)).sum(1)

    def graphs(n: int, nodes: int, g: torch.Generator) -> Any:
        inputs = {"nodes": torch.randn(n, nodes, 4, generator=g), "mask": torch.ones(n, nodes)}
        return qs.examples(inputs, torch.randn(n, 1, generator=g))

    g = generator(0)
    small, large = graphs(3, 2, g), graphs(5, 3, g)
    learner = noisy(qs.Pooled(Summed()))
    task = doubled(Task(small, large, qs.regression()))
    squares = [
        (learner.head(learner.backbone(part.inputs)) - part.targets).square()
        for part in (task.support, task.query)
    ]
    found = all_rows_loss(learner, task)
    torch.testing.assert_close(found.loss, torch.cat(squares).mean())
    torch.testing.assert_close(found.score, squares[1].mean().detach())


class Stacked:
    """A source that draws a stack at once."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, g: torch.Generator) -> Task:
        return self.task

    def stacked(self, generators: Any) -> Task:
        return stack([self.task for _ in generators])


WRONG_WIDTH = r"'kind' was declared with 3 outputs, but its answer has 2 .*Give the spec"


@EACH
def test_a_known_name_with_another_width_is_refused_wherever_it_comes(name: str) -> None:
    learner = made(name).float()
    wrong = made_task("kind", 0, spec=qs.classification(2))
    right = made_task("kind", 1)  # they would share a stack

    def source(g: torch.Generator) -> Task:
        return wrong if int(torch.randint(3, (), generator=g)) else right

    with pytest.raises(ValueError, match=WRONG_WIDTH):
        learner(wrong.support, wrong.spec)
    with pytest.raises(ValueError, match=WRONG_WIDTH):
        prepare_tasks(learner, [right, wrong])
    with pytest.raises(ValueError, match=WRONG_WIDTH):
        draw_stacks(Stacked(wrong), 0, range(2), name_key=learner.name_key)
    with pytest.raises(ValueError, match=WRONG_WIDTH):
        qs.fit(learner, source, 1, 4, progress=False)
    with pytest.raises(ValueError, match=WRONG_WIDTH):
        qs.evaluate(learner, source, 4, baselines=False)


def test_pooled_refuses_tasks_of_another_width_wherever_they_come() -> None:
    learner, tasks = qs.Pooled(net(), 3), [made_task("kind", 0), made_task("sign", 0)]
    with pytest.raises(ValueError, match=r"each must have 3 outputs; found 2 of the task 'sign'"):
        prepare_tasks(learner, tasks)
    with pytest.raises(ValueError, match=r"use qs.HardSharing|Use qs.HardSharing"):
        learner(tasks[1].support, tasks[1].spec)


@EACH
def test_an_unknown_name_without_labels_lists_the_known_ones(name: str) -> None:
    learner, task = made(name).float(), made_task("unheard", 0, spec=qs.classification(3))
    blind = task.support._replace(targets=torch.full_like(task.support.targets, -1))
    message = r"knows no task 'unheard'.*price, kind, yes, sign, place, age.*adapt"
    with pytest.raises(ValueError, match=message):
        learner(blind, task.spec)
    with pytest.raises(ValueError, match=message):
        qs.evaluate(learner, lambda g: task._replace(support=blind), 2, baselines=False)
    with pytest.raises(ValueError, match=message):  # in the engine, where adapt cannot read values
        prepare_tasks(learner, [task._replace(support=blind)])
    assert learner(task.support, task.spec)(task.query.inputs).shape == (4, 3)
    many = type(learner)(net(), {f"task {i}": 1 for i in range(139)})
    with pytest.raises(ValueError, match=r"task 0, .*, task 5 and 133 more"):
        many(blind, task.spec)


@EACH
def test_a_known_task_needs_no_label_to_be_evaluated(name: str) -> None:
    learner = made(name).float()

    def source(g: torch.Generator) -> Task:
        task = mixed(g)
        return task._replace(support=task.support._replace(weights=0 * task.support.weights))

    assert qs.evaluate(learner, source, 12, baselines=False).tasks == 12


@pytest.mark.parametrize(
    ("tasks", "message"),
    [({"": 1}, "needs a name"), ({3: 1}, "needs a name"), ({"a": 0}, "at least 1; found 0 for 'a'"),
     ({"a": True}, "whole number"), ({"a": 1.0}, "whole number"),
     (["a"], "must be a mapping .*found list"), (qs.tasks.related(2).tasks, "has them all as")],
)  # fmt: skip
@EACH
def test_wrong_tasks_are_refused(name: str, tasks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        type(LEARNERS[name]())(net(), tasks)


def test_backbones_that_need_the_support_set_are_refused() -> None:
    def conv(norm: Any) -> Conv4:
        return Conv4(channels=4, norm=norm, image_size=16)

    for make in (lambda: qs.HardSharing(conv("support"), {"a": 1}),
                 lambda: qs.SingleTask(conv("support"), {"a": 1}),
                 lambda: qs.Pooled(conv("support"))):  # fmt: skip
        with pytest.raises(ValueError, match="norm='support'"):
            make()
    with pytest.raises(ValueError, match="norm='running' keeps statistics of one network"):
        qs.SingleTask(conv("running"), {"a": 1})
    assert qs.HardSharing(conv("support")).tasks == {}, "a new task has a support set"


def test_single_task_trains_only_what_it_knows() -> None:
    learner = qs.SingleTask(net(), {"price": 1})
    new = made_task("age", 0)
    with pytest.raises(ValueError, match=r"trains only tasks that it knows by name; found 'age'"):
        qs.fit(learner, lambda g: new, 1, 2, progress=False)
    with pytest.raises(ValueError, match=r"no trainable parameters.*give it the tasks to learn"):
        qs.fit(qs.SingleTask(net()), lambda g: new, 1, 2, progress=False)


def test_a_named_task_without_a_head_is_told_where_others_have_one() -> None:
    learner = qs.HardSharing(net(), {"price": 1})
    names = ["price", "age"]

    def source(g: torch.Generator) -> Task:
        return made_task(names[int(torch.randint(len(names), (), generator=g))], 0)

    with pytest.warns(UserWarning, match="knows some of the tasks by name, but not age"):
        qs.fit(learner, source, 1, 2, progress=False)


def test_many_networks_tell_their_memory_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {f"assay {i}": 1 for i in range(617)}
    of_one = 4 * sum(p.numel() for p in net().parameters())
    monkeypatch.setattr(stacked_parameters, "free_memory", lambda device: 617 * of_one - 1)
    with pytest.raises(ValueError, match=r"617 networks of 260 B .*HardSharing.*fewer tasks"):
        qs.SingleTask(net(), tasks)
    monkeypatch.setattr(stacked_parameters, "free_memory", lambda device: 4 * 617 * of_one - 1)
    with pytest.warns(UserWarning, match="training them by Adam"):
        qs.SingleTask(net(), tasks)
    monkeypatch.setattr(stacked_parameters, "free_memory", memory.free_memory)
    qs.SingleTask(net(), tasks)


@EACH
def test_saved_learners_and_predictors_keep_their_names(name: str, tmp_path: Path) -> None:
    learner = made(name).float()
    task = made_task("kind", 0)
    loaded = qs.load(qs.save(learner, tmp_path / "learner.safetensors"))
    assert loaded.tasks == learner.tasks
    assert list(loaded.tasks) == list(learner.tasks)
    x = task.query.inputs
    for spec in (task.spec, qs.classification(3, name="new")):
        predictor = learner(task.support, spec)
        assert torch.equal(predictor(x), loaded(task.support, spec)(x))
        again = qs.load(qs.save(predictor, tmp_path / "predictor.safetensors"))
        assert again.spec == spec
        assert torch.equal(again(x), predictor(x))


@pytest.mark.parametrize("tasks", [{"pretrained": 1, "name": 2}, {"mapping": 1, "a/b.c é": 4}])
def test_any_text_can_name_a_task_in_a_file(tasks: Any, tmp_path: Path) -> None:
    learner = qs.HardSharing(net(), tasks)
    assert qs.load(qs.save(learner, tmp_path / "learner.safetensors")).tasks == tasks


@EACH
def test_a_resumed_run_ends_at_the_same_bits(name: str, tmp_path: Path) -> None:
    def trained(steps: int, run: str, resume: bool = False) -> Any:
        torch.manual_seed(0)
        learner = LEARNERS[name]()
        qs.fit(learner, mixed, steps, 6, run=tmp_path / run, resume=resume, progress=False)
        return learner.state_dict()

    whole = trained(6, "whole")
    trained(3, "parts")
    parts = trained(6, "parts", resume=True)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_training_uses_the_support_rows_of_known_tasks_alone() -> None:
    learner = made("hard_sharing")
    known = doubled(made_task("price", 0))
    new = doubled(made_task("new", 0, spec=qs.regression()))
    loss = objective_of(learner)
    assert torch.equal(loss(learner, known).loss, all_rows_loss(learner, known).loss)
    assert torch.equal(loss(learner, new).loss, query_loss(learner, new).loss)
    assert loss(learner, known).loss != query_loss(learner, known).loss


@pytest.mark.parametrize(
    "name", ["HardSharing", "SingleTask", "SoftSharing", "CrossStitch", "Sluice", "MMoE", "PLE"]
)
def test_learners_of_a_thousand_tasks_are_saved_and_loaded(name: str, tmp_path: Path) -> None:
    learner = getattr(qs, name)(MLP(4, (3,)), {f"task {i}": 1 + i % 2 for i in range(1000)})
    loaded: Any = qs.load(qs.save(learner, tmp_path / "learner"))
    assert torch.is_grad_enabled()
    assert loaded.tasks == learner.tasks
    for key, value in learner.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_heads_start_uniform_within_one_over_the_root_of_d_and_zero_beyond_their_width() -> None:
    heads = stacked_parameters.StackedHeads(400, [1, 3] * 50)
    weight, bias = heads.weight.detach(), heads.bias.detach()
    for own in (weight[::2, :, :1], weight[1::2], bias[1::2]):
        assert 0.045 < float(own.abs().max()) <= 0.05  # of at least 150 numbers
        assert abs(float(own.mean())) < 0.01
    assert not weight[::2, :, 1:].any()
    assert not bias[::2, 1:].any()


class LargestTensor(TorchDispatchMode):
    """Inside, remembers the number of elements of the largest tensor that was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        for leaf in found if isinstance(found, tuple | list) else (found,):
            if isinstance(leaf, Tensor):
                stored = leaf.untyped_storage().nbytes() // leaf.element_size()
                self.elements = max(self.elements, stored)
        return found


@pytest.mark.parametrize("name", ["HardSharing", "SingleTask", "SoftSharing", "MMoE"])
def test_a_stack_makes_no_copy_of_all_tasks_for_each_task(name: str) -> None:
    """Twice as many tasks need twice as much, not four times. (Stitched networks and PLE compute
    the networks of all tasks for the rows of each.)"""
    found = []
    for count in (30, 60):
        tasks = {f"task {i}": 1 for i in range(count)}
        learner = getattr(qs, name)(MLP(4, (16,)), tasks)
        x = torch.randn(8, 4, generator=generator(0))
        drawn = [Task(*(qs.examples(x, x[:, :1]),) * 2, qs.regression(name=each)) for each in tasks]
        with LargestTensor() as largest:
            plan = Plan(Mapping.VMAP, "", count)
            accumulate(learner, prepare_tasks(learner, drawn), objective_of(learner), plan)
        found.append(largest.elements)
    assert found[1] <= 2.2 * found[0]
