"""The progress bar of training, and the handling of Ctrl-C and of other requests to end."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from quickstudy.evaluation.result import Result

_DECAY = 0.95  # of the running means, per optimiser step
_REQUESTS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Bar:
    """A progress bar on standard error: a title, counts, a description and a column of time."""

    def __init__(
        self, title: str, clock: ProgressColumn, visible: bool, total: int = 0, done: int = 0
    ) -> None:
        self._bar = Progress(
            TextColumn(f"[bold]{title}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.description}"),
            clock,
            console=Console(stderr=True),
            disable=not visible,
        )
        self._task = self._bar.add_task("", total=total, completed=done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


class Display(Bar):
    """Shows step, loss, score, validation, tasks per second and time left; keeps running means."""

    def __init__(self, steps: int, done: int, visible: bool) -> None:
        super().__init__("train", TimeRemainingColumn(compact=True), visible, steps, done)
        self._loss = self._score = math.nan
        self._tasks, self._began = 0, time.perf_counter()
        self._validation = ""

    def advance(self, step: int, tasks: int, loss: float, score: float) -> float:
        """Show an optimiser step; returns tasks per second since training began or resumed."""
        self._loss = self._mean(self._loss, loss)
        self._score = self._mean(self._score, score)
        self._tasks += tasks
        speed = self._tasks / (time.perf_counter() - self._began)
        scored = "" if math.isnan(self._score) else f"score {self._score:.3f}  "
        text = f"loss {self._loss:.3f}  {scored}{speed:.{0 if speed >= 10 else 1}f} tasks/s"
        self._bar.update(self._task, completed=step, description=text + self._validation)
        return speed

    def validated(self, result: Result) -> None:
        """Show the result of the last validation."""
        self._validation = f"  validation {result.mean:.3f}"

    @staticmethod
    def _mean(before: float, now: float) -> float:
        return now if math.isnan(before) else _DECAY * before + (1 - _DECAY) * now


class Interrupts:
    """A context in which a first request to end, such as Ctrl-C, only sets ``requested``.

    ``requested``  the number of the signal that asked for it; 0 without.

    The second one acts at once, as it does outside of the context. Requests are SIGINT (Ctrl-C),
    SIGTERM (a scheduler or a system that shuts down) and SIGHUP (a terminal that closes), except
    those that the process ignores, as under ``nohup``. Does nothing outside the main thread, where
    Python handles no signals.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in _REQUESTS if hasattr(signal, name)]
            self._before = {
                number: handler
                for number in numbers
                # None is a handler that was not set from Python, so that Python cannot restore it
                if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
            }
            for number in self._before:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """Act on the request as the process would have without this context; call it outside."""
        signal.raise_signal(self.requested)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        self.requested = number
