"""The progress bar of training, and the handling of Ctrl-C."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from quickstudy.evaluation.result import Result

_DECAY = 0.95  # of the running means, per optimiser step


class Display:
    """Shows step, loss, score, validation, tasks per second and time left; keeps running means."""

    def __init__(self, steps: int, done: int, visible: bool) -> None:
        self._loss = self._score = math.nan
        self._tasks, self._began = 0, time.perf_counter()
        self._bar = Progress(
            TextColumn("[bold]train"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.description}"),
            TimeRemainingColumn(),
            disable=not visible,
        )
        self._task = self._bar.add_task("", total=steps, completed=done)
        self._validation = ""

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, step: int, tasks: int, loss: float, score: float) -> float:
        """Show an optimiser step; returns tasks per second since training began or resumed."""
        self._loss = self._mean(self._loss, loss)
        self._score = self._mean(self._score, score)
        self._tasks += tasks
        speed = self._tasks / (time.perf_counter() - self._began)
        scored = "" if math.isnan(self._score) else f"score {self._score:.3f}  "
        text = f"loss {self._loss:.3f}  {scored}{speed:.0f} tasks/s"
        self._bar.update(self._task, completed=step, description=text + self._validation)
        return speed

    def validated(self, result: Result) -> None:
        """Show the result of the last validation."""
        self._validation = f"  validation {result.mean:.3f}"

    @staticmethod
    def _mean(before: float, now: float) -> float:
        return now if math.isnan(before) else _DECAY * before + (1 - _DECAY) * now


class Interrupts:
    """A context in which the first Ctrl-C only sets ``requested``; the second interrupts at once.

    Does nothing outside the main thread, where Python handles no signals.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
