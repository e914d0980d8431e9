"""The law of threads: a learner that several threads use gives what it gives to one."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Barrier
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from quickstudy.base.errors import BrokenLaw, first_line
from quickstudy.base.trees import map_tree
from quickstudy.compute.gradients import as_outcome
from quickstudy.contract.compare import compare, predicted, same
from quickstudy.core import Examples, Learner, Predictor, Task
from quickstudy.objectives import objective_of

THREADS = 8
_REMEDY = (
    "Keep nothing in the module while adapting or predicting, not even for one call: return it, "
    "or put it into the state. torch.func.functional_call changes the module; "
    "base.replica.call_with does not."
)


def threads_equal_turns(learner: Learner, task: Task) -> None:
    """Threads that adapt, predict by one predictor and differentiate, all at the same time, get
    what each would get alone. The learner keeps its tensors, and their values."""
    tasks = [task, task._replace(support=_with_moved_inputs(task.support))]
    with torch.no_grad():
        predictor = learner(task.support, task.spec)
    objects, values = _tensors_of(learner)
    expected = [_turn(learner, predictor, each) for each in tasks]
    barrier = Barrier(THREADS)

    def work(k: int) -> Any:
        barrier.wait(timeout=60)
        with _Yielding():
            return _turn(learner, predictor, tasks[k % 2])

    with ThreadPoolExecutor(THREADS) as pool:
        runs = [pool.submit(copy_context().run, work, k) for k in range(THREADS)]
        found = [_result(run) for run in runs]
    for k, result in enumerate(found):
        compare(expected[k % 2], result, "threads must get what they get in turns", _REMEDY)
    objects_after, values_after = _tensors_of(learner)
    if objects_after != objects or not same(values, values_after):
        raise BrokenLaw(f"threads must not change the learner's tensors. {_REMEDY}")


def _result(run: Future[Any]) -> Any:
    try:
        return run.result()
    except Exception as error:  # in turns there was none
        raise BrokenLaw(f"a thread raised: {first_line(error)} {_REMEDY}") from error


class _Yielding(TorchFunctionMode):
    """Lets other threads run before every operation of this one, so that calls overlap."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        time.sleep(1e-5)
        return function(*args, **(kwargs or {}))


def _turn(learner: Learner, predictor: Predictor, task: Task) -> list[Any]:
    """Predictions of ``predictor`` and of a new one, and the gradient of the objective."""
    trained = [p for p in learner.parameters() if p.requires_grad]
    with torch.no_grad():
        given = predictor(task.query.inputs)
    adapted = predicted(learner, task.support, task)
    if not trained:
        return [given, adapted]
    loss = as_outcome(objective_of(learner)(learner, task)).loss
    return [given, adapted, torch.autograd.grad(loss, trained, materialize_grads=True)]


def _tensors_of(learner: Learner) -> tuple[list[int], list[Tensor]]:
    """The ids and the values of parameters and buffers."""
    tensors = [*learner.parameters(), *learner.buffers()]
    return [id(t) for t in tensors], [t.detach().clone() for t in tensors]


def _with_moved_inputs(support: Examples) -> Examples:
    """The inputs of each row with the targets of the next: another support of the same shapes."""
    moved = map_tree(lambda leaf: leaf.roll(1, 0), support.inputs)
    return support._replace(inputs=moved)
