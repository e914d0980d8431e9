"""A learner that keeps all laws, in a few lines, and learners that each break one law."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from quickstudy.answers.classes import Classes
from quickstudy.base.trees import concatenate
from quickstudy.core import Examples, Learner, State, TaskSpec
from quickstudy.learners.outputs import element_weights
from quickstudy.tasks.examples import without_absent


class Smoother(Learner):
    """Keeps all laws: predicts the mean target of the support, weighted towards near rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 3)

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        dtype = support.inputs.dtype
        return {
            "keys": self.net(support.inputs),
            "values": spec.answer.encode(support.targets, dtype),
            "weights": element_weights(support, spec.answer, dtype),
        }

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        nearness = (self.net(inputs) @ state["keys"].mT).unsqueeze(-1) + state["weights"].log()
        predictions: Tensor = (nearness.softmax(1) * state["values"]).sum(1)
        return self.mask_absent(predictions, state, spec)

    def mask_absent(self, predictions: Tensor, state: State, spec: TaskSpec) -> Tensor:
        if not isinstance(spec.answer, Classes):
            return predictions
        return without_absent(predictions, (state["weights"] * state["values"]).sum(0) > 0)


class Growing(Smoother):
    """Accepts more support later, and keeps all laws; before any it predicts 0."""

    def prior(self, spec: TaskSpec) -> State:
        nothing = self.net.weight.new_zeros(0, spec.outputs)
        keys = self.net.weight.new_zeros(0, 3)
        return {"keys": keys, "values": nothing, "weights": nothing}

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        return concatenate(state, self.adapt(support, spec))


class Forgetting(Growing):
    """Loses the weights of the rows before."""

    def extend(self, state: State, support: Examples, spec: TaskSpec) -> State:
        faded = state | {"weights": state["weights"] / 2}
        return super().extend(faded, support, spec)


class Prejudiced(Growing):
    """Its prior contains a row that was not given."""

    def prior(self, spec: TaskSpec) -> State:
        one = self.net.weight.new_ones(1, spec.outputs)
        return {"keys": self.net.weight.new_zeros(1, 3), "values": one, "weights": one}


class Flat(Smoother):
    """Gives (n,) for (n, 1), which squared error would silently broadcast to (n, n)."""

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        predictions = super().predict(state, inputs, spec)
        return predictions.squeeze(-1) if spec.outputs == 1 else predictions


class Counting(Smoother):
    """Counts its adaptations in a buffer, as running statistics do."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        self.calls += 1
        return super().adapt(support, spec)


class Sequence(Smoother):
    """Treats queries as a sequence: each prediction also depends on the query before it."""

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        before = torch.cat([torch.zeros_like(inputs[:1]), inputs[:-1]])
        return super().predict(state, inputs + 0.1 * before, spec)


class Reweighing(Smoother):
    """Changes the weights before it uses them."""

    def weigh(self, weights: Tensor) -> Tensor:
        raise NotImplementedError

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return super().adapt(support._replace(weights=self.weigh(support.weights)), spec)


class SeeingPadding(Reweighing):
    def weigh(self, weights: Tensor) -> Tensor:
        return weights.clamp_min(0.01)


class CountingOnce(Reweighing):
    def weigh(self, weights: Tensor) -> Tensor:
        return weights.sign()


class Ageing(Reweighing):
    """Later rows count more, and two rows count other than one of weight 2."""

    def weigh(self, weights: Tensor) -> Tensor:
        return weights * (1 + 0.1 * (2 * weights.cumsum(0) - weights))


class UnknownAsZero(Smoother):
    """Treats unknown elements as zeros, which count like any other number."""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        state = super().adapt(support, spec)
        return state | {"weights": support.weights.unsqueeze(-1).expand_as(state["values"])}


class WeighingRows(Smoother):
    """Omits rows without known elements, but treats unknown elements of other rows as zeros."""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        state = super().adapt(support, spec)
        rows = state["weights"].amax(-1, keepdim=True)
        return state | {"weights": rows.expand_as(state["values"])}


class WithoutMask(Smoother):
    """Gives classes without a support row a logit of 0, which is a probability."""

    def mask_absent(self, predictions: Tensor, state: State, spec: TaskSpec) -> Tensor:
        return predictions


class Peeking(Smoother):
    """Reads a value in Python, which vmap cannot map."""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        assert float(support.weights.sum()) > 0
        return super().adapt(support, spec)


class LearntHead(Smoother):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(3))

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return super().predict(state, inputs, spec) + self.bias[: spec.outputs]


class Idle(Smoother):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(2))


class Widening(Smoother):
    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return super().predict(state, inputs, spec).double()


class Remembering(Smoother):
    """Keeps in the module what the state should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: list[State] = []

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        self.memory.append(super().adapt(support, spec))
        return {"place": len(self.memory) - 1}

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        if state["place"] >= len(self.memory):
            return torch.zeros(len(inputs), spec.outputs, dtype=inputs.dtype)
        return super().predict(self.memory[state["place"]], inputs, spec)


class Directed(Smoother):
    """Reads the direction of its inputs, which zeros have not."""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        return super().adapt(support._replace(inputs=self.direction(support.inputs)), spec)

    def predict(self, state: State, inputs: Any, spec: TaskSpec) -> Tensor:
        return super().predict(state, self.direction(inputs), spec)

    def direction(self, inputs: Tensor) -> Tensor:
        return inputs / inputs.norm(dim=-1, keepdim=True)


class Exchanging(Smoother):
    """Exchanges weights in the module for one call, as torch's ``functional_call`` does."""

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        doubled = {"weight": 2 * self.net.weight}
        keys = functional_call(self.net, doubled, support.inputs)
        return super().adapt(support, spec) | {"keys": keys}


class Hoarding(Smoother):
    """Keeps the result of every step until the last."""

    steps = 2

    def adapt(self, support: Examples, spec: TaskSpec) -> State:
        path = [super().adapt(support, spec)["keys"]]
        for _ in range(self.steps):
            path.append(0.9 * path[-1])
        return super().adapt(support, spec) | {"keys": path[-1]}


BROKEN: dict[str, type[Learner]] = {
    "shape_is_right_and_finite": Flat,
    "adapt_is_pure": Counting,
    "queries_are_independent": Sequence,
    "weight_zero_is_absent": SeeingPadding,
    "weight_two_is_twice": CountingOnce,
    "support_order_is_irrelevant": Ageing,
    "unknown_element_is_absent": UnknownAsZero,
    "joined_answer_changes_nothing": WithoutMask,
    "vmap_equals_loop": Peeking,
    "relabelling_permutes_outputs": LearntHead,
    "every_parameter_gets_a_gradient": Idle,
    "dtype_and_device_are_kept": Widening,
    "saved_predictor_is_the_same": Remembering,
    "plain_features_give_finite_answers": Directed,
    "threads_equal_turns": Exchanging,
    "memory_does_not_grow_with_steps": Hoarding,
    "extending_the_prior_equals_adapting": Prejudiced,
    "extending_equals_adapting_to_all": Forgetting,
}
"""By the one law that each breaks."""
