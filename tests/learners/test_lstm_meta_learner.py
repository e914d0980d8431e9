"""The LSTM meta-learner equals torch's LSTM cell, and gradient descent with suitable gates."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.backbones import MLP, Conv4
from quickstudy.base.trees import map_tree
from quickstudy.core import Task
from quickstudy.learners.gradient.descend import Descent, gradients_of
from quickstudy.learners.gradient.lstm_meta_learner import UpdateRule
from quickstudy.learners.gradient.network import SupportLoss
from quickstudy.learners.preprocessing import preprocess
from quickstudy.objectives import query_loss
from quickstudy.tasks.examples import one_place


def made(steps: int = 3) -> qs.LSTMMetaLearner:
    torch.manual_seed(0)
    return qs.LSTMMetaLearner(MLP(3, (5,), outputs=4), steps, hidden=6).double()


def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 3, generator=generator).double()
    targets, ones = torch.arange(4).repeat(3), torch.ones(12).double()
    rows = qs.Examples(inputs, targets, ones, one_place(ones))
    support, query = (map_tree(lambda leaf, s=s: leaf[s], rows) for s in (slice(4), slice(4, 12)))
    return Task(support, query, qs.classification(4))


def test_constant_gates_give_gradient_descent() -> None:
    learner, one, rate = made(5), task(), 0.3
    with torch.no_grad():
        for gate, value in ((learner.rule.forget_gate, 1.0), (learner.rule.input_gate, rate)):
            gate.weight.zero_()
            gate.bias.fill_(math.log(value / (1 - value)) if value < 1 else 100.0)
    loss = SupportLoss(learner.backbone, one.support, one.spec)
    start = dict(learner.backbone.named_parameters())
    expected = Descent(5, rate).along(gradients_of(loss), start)
    found = learner.trajectory(one.support, one.spec)
    assert len(found) == 6
    for state, weights in zip(found, expected, strict=True):
        for name, weight in weights.items():
            torch.testing.assert_close(state["weights"][name], weight, rtol=1e-10, atol=1e-12)


def written_out(learner: qs.LSTMMetaLearner, one: Task) -> Tensor:
    """The query loss of the equations, one weight after the other, with torch's own LSTM cell."""
    rule, hidden = learner.rule, learner.rule.hidden
    cell = nn.LSTMCell(4, hidden).double()
    # torch keeps its gates in the order input, forget, candidate, output; ours is f, i, o, g.
    f, i, o, g = rule.lstm.weight.chunk(4)
    bf, bi, bo, bg = rule.lstm.bias.chunk(4)
    read, bias = torch.cat([i, f, g, o]), torch.cat([bi, bf, bg, bo])
    named = {
        "weight_ih": read[:, :4], "weight_hh": read[:, 4:],
        "bias_ih": bias, "bias_hh": torch.zeros_like(bias),
    }  # fmt: skip
    start = list(learner.backbone.parameters())
    sizes = [p.numel() for p in start]
    theta = torch.cat([p.flatten() for p in start])

    def loss(theta: Tensor, rows: qs.Examples) -> Tensor:
        parts = theta.split(sizes)
        a, b, c, d = (part.reshape(p.shape) for part, p in zip(parts, start, strict=True))
        return F.cross_entropy(F.linear(F.linear(rows.inputs, a, b).relu(), c, d), rows.targets)

    def size_and_sign(x: float) -> list[float]:
        if abs(x) >= math.exp(-10):
            return [math.log(abs(x)) / 10, math.copysign(1.0, x)]
        return [-1.0, math.exp(10) * x]

    zero = torch.zeros(1, hidden).double()
    memory = [(zero, zero, torch.zeros(1).double(), torch.zeros(1).double()) for _ in theta]
    for _ in range(learner.steps):
        known = theta.detach().requires_grad_()
        value = loss(known, one.support)
        gradients = torch.autograd.grad(value, known)[0].tolist()
        entries = []
        for k, gradient in enumerate(gradients):
            h, c, before_i, before_f = memory[k]
            seen = torch.tensor([size_and_sign(gradient) + size_and_sign(float(value))]).double()
            h, c = torch.func.functional_call(cell, named, (seen, (h, c)))
            here = theta[k : k + 1]
            take = rule.input_gate(torch.cat([h[0], here, before_i])).sigmoid()
            keep = rule.forget_gate(torch.cat([h[0], here, before_f])).sigmoid()
            memory[k] = (h, c, take, keep)
            entries.append(keep * here - take * gradient)
        theta = torch.cat(entries)
    return loss(theta, one.query)


def test_loss_and_gradients_equal_those_of_the_equations() -> None:
    learner, one = made(), task()
    with torch.no_grad():  # the first weights of the rule are too small to show differences
        for parameter in learner.rule.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    expected = written_out(learner, one)
    gradients = torch.autograd.grad(expected, list(learner.parameters()))
    found = query_loss(learner, one).loss
    found.backward()
    torch.testing.assert_close(found, expected)
    for parameter, gradient in zip(learner.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_preprocessing_equals_that_of_the_appendix() -> None:
    x = torch.tensor([1.0, -1.0, math.exp(-5), -math.exp(-10) / 2, 0.0]).double()
    expected = [[0.0, 1.0], [0.0, -1.0], [-0.5, 1.0], [-1.0, -0.5], [-1.0, 0.0]]
    torch.testing.assert_close(preprocess(x), torch.tensor(expected).double())


def test_the_initial_rule_is_descent_at_a_low_rate_with_little_decay() -> None:
    torch.manual_seed(0)
    weights = torch.ones(7)
    none, _ = UpdateRule(20)(weights, torch.zeros(7), torch.tensor(1.0), None)
    some, _ = UpdateRule(20)(weights, torch.ones(7), torch.tensor(1.0), None)
    assert bool(((none > 0.975) & (none < 1)).all())
    assert bool((none - some > 0).all())
    assert bool((none - some < 0.04).all())


def test_test_steps_may_differ_from_training_steps() -> None:
    torch.manual_seed(0)
    learner, one = qs.LSTMMetaLearner(MLP(3, (5,), outputs=4), 2, 6, test_steps=4).double(), task()
    assert len(learner.train().trajectory(one.support, one.spec)) == 3
    assert len(learner.eval().trajectory(one.support, one.spec)) == 5


def test_the_rule_has_the_type_of_the_weights_that_it_updates() -> None:
    learner = qs.LSTMMetaLearner(MLP(3, (5,), outputs=4).double())
    assert {p.dtype for p in learner.parameters()} == {torch.float64}
    learner(task().support, task().spec)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1; found 0"):
        made(0)
    with pytest.raises(ValueError, match="norm='running'"):
        qs.LSTMMetaLearner(Conv4(4, "running", outputs=5))
