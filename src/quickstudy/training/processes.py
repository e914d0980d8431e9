"""Several tasks at once on a CPU: workers that are processes, which share no lock of Python.

They do what threads do (:mod:`quickstudy.compute.workers`), and are faster where calling operators
takes much of the time: Python runs in one thread of a process at a time. They keep nothing from one
step to the next: with its tasks each is sent the learner as it is now, which takes milliseconds.
The first of the workers is the process that asks.

They are asked for, never chosen: learner, objective and tasks must be such that they can be sent,
each process holds torch anew, and only what is returned comes back: what an objective writes into a
list of its own does not. Of torch's settings the default type is sent, and no other.

Others are started by the first step that needs them, and end with the process that asks, however it
ends, since they then read the end of what they are sent. Ctrl-C does not reach them.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import torch

from quickstudy.backbones.norms import promised_alike, rows_count_alike
from quickstudy.base.errors import in_a_line, out_of_memory
from quickstudy.base.modules import convolves_on_cpu, device_of
from quickstudy.compute.allocation import keep_freed_memory
from quickstudy.core import Learner, Task
from quickstudy.training.sending import sent

if TYPE_CHECKING:
    from quickstudy.compute.engine import Plan

Result = TypeVar("Result")
Work = Callable[[Learner, Sequence[Task]], Result]

_START = """import sys
sys.path[:] = sys.argv[1:]
from quickstudy.training.processes import serve
serve()"""


class WorkerEnded(RuntimeError):
    """A worker process ended before it answered; the message says how."""


def shared_out(
    work: Work[Result], learner: Learner, tasks: Sequence[Task], workers: int
) -> list[Result]:
    """``work(learner, tasks[k::workers])`` of every worker k, all at once, each in a process.

    Raises what ``work`` raises in any of them, what says that something cannot be sent, and
    :class:`WorkerEnded`.
    """
    workers = min(workers, len(tasks))
    if workers == 1:
        return [work(learner, tasks)]
    threads = torch.get_num_threads()
    with _one_at_a_time:
        try:
            torch.set_num_threads(1)
            others = _started(workers - 1)
            for k, other in enumerate(others, start=1):
                other.send(sent((_Settings(), work, learner, tasks[k::workers])))
            own = work(learner, tasks[::workers])
            return [own, *(other.answer() for other in others)]
        except BaseException:  # none must answer later what was asked now
            _end()
            raise
        finally:
            torch.set_num_threads(threads)


@contextmanager
def worker_processes(
    plan: Plan, learner: Learner, objective: Callable[..., Any], task: Task
) -> Iterator[None]:
    """Inside, the processes that ``plan`` asks for are at hand; afterwards none.

    They have shown that they take ``learner``, ``objective`` and tasks such as ``task``.

    Raises ValueError where these cannot be sent, and what :func:`refuse_processes` raises.
    """
    workers = plan.workers
    if not plan.processes or workers == 1:  # as many as memory had room for
        yield
        return
    refuse_processes(learner, workers)
    try:
        shared_out(partial(_nothing, objective), learner, [task] * workers, workers)
    except Exception as error:
        if isinstance(error, WorkerEnded) or out_of_memory(error):
            raise
        raise ValueError(
            "processes=True: learner, objective and tasks are sent to other processes, but these "
            f"cannot be: {in_a_line(error)}. Leave it out, and workers are threads; or keep open "
            "files, locks and what only this process can import out of them."
        ) from error
    try:
        yield
    finally:
        with _one_at_a_time:
            _end()


def refuse_processes(learner: Learner, workers: int) -> None:
    """ValueError where processes cannot share the tasks of ``learner``."""
    if workers < 2:
        raise ValueError(
            f"processes=True: says what workers are; found workers={workers}. "
            "Give workers=2 or more, or leave it out."
        )
    if device_of(learner).type != "cpu":
        raise ValueError(
            f"processes=True: is for a CPU, but the learner is on {device_of(learner)}. "
            "Leave it out, or move the learner to the CPU."
        )
    hooked = [name for name, p in learner.named_parameters() if p._backward_hooks]
    if hooked:
        raise ValueError(
            "processes=True: hooks on gradients stay in this process, but there are some on "
            f"{', '.join(hooked[:3])}. Leave it out, and workers are threads; or change gradients "
            "in the optimiser."
        )


def _nothing(objective: Callable[..., Any], learner: Learner, tasks: Sequence[Task]) -> None:
    """The work of a worker that only shows that it is there."""


class _Worker:
    """Another process, which answers each message with one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *sys.path], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, start_new_session=True,  # where no Ctrl-C arrives
        )  # fmt: skip
        self._questions = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    def send(self, message: bytes) -> None:
        """Hand ``message`` over; returns when it has been taken."""
        try:
            pickle.dump(message, self._questions, pickle.HIGHEST_PROTOCOL)
            self._questions.flush()
        except OSError as error:
            raise self._ended() from error

    def answer(self) -> Any:
        """What the worker computed; raises what was raised there."""
        try:
            good, result = pickle.loads(pickle.load(self._answers))
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise self._ended() from error
        if good:
            return result
        raise result

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._questions, self._answers):
            try:
                pipe.close()
            except OSError:  # of what could not be sent
                continue

    def _ended(self) -> WorkerEnded:
        self._process.kill()
        return WorkerEnded(
            f"a worker process ended by itself, with status {self._process.wait()} (-9: it was "
            "killed, perhaps because memory ran out). What it said is above. Try fewer workers, "
            "or none; a run with a folder goes on from its last checkpoint."
        )


_workers: list[_Worker] = []
_one_at_a_time = threading.Lock()


def _started(count: int) -> Sequence[_Worker]:
    while len(_workers) < count:
        _workers.append(_Worker())
    return _workers[:count]


@atexit.register
def _end() -> None:
    while _workers:
        _workers.pop().end()


class _Settings:
    """What work depends on beside its arguments: taken where it is made, applied elsewhere."""

    def __init__(self) -> None:
        self.seed = int(torch.randint(1 << 62, ()))  # else all would draw the same numbers
        self.dtype = torch.get_default_dtype()
        self.gradients = torch.is_grad_enabled()
        self.alike = promised_alike()

    def call(self, work: Work[Result], learner: Learner, tasks: Sequence[Task]) -> Result:
        """``work(learner, tasks)`` as it would be where these settings were taken."""
        torch.manual_seed(self.seed)
        torch.set_default_dtype(self.dtype)
        if convolves_on_cpu(learner):
            keep_freed_memory()
        with (
            torch.set_grad_enabled(self.gradients),
            rows_count_alike() if self.alike else nullcontext(),
        ):
            return work(learner, tasks)


def serve() -> None:
    """Answer what comes through standard input, until it ends: the other process."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # of what they print, nothing gets in between
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it arrives all the same
    torch.set_num_threads(1)
    while True:
        try:
            message = pickle.load(questions)
        except EOFError:
            return
        answer = _answer(message)
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _answer(message: bytes) -> bytes:
    try:
        settings, work, learner, tasks = pickle.loads(message)
        return sent((True, settings.call(work, learner, tasks)))
    except BaseException as error:
        error.add_note("In a worker process:\n" + traceback.format_exc())
        return _sent_error(error)


def _sent_error(error: BaseException) -> bytes:
    try:
        message = sent((False, error))
        pickle.loads(message)
    except Exception:  # of a class that cannot be made again from what it keeps
        other = RuntimeError(f"{type(error).__name__}: {error}")
        other.__notes__ = error.__notes__
        return sent((False, other))
    return message
