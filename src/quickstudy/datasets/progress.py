"""A progress bar on standard error, shown only in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")


class Bar:
    """A progress bar with the remaining time; also has the methods that pooch's downloader calls.

    ``unit``  "bytes" for sizes, else the name of the counted items.
    """

    def __init__(self, title: str, total: int = 0, unit: str = "images") -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),  # names of folders are not markup
            BarColumn(),
            DownloadColumn() if unit == "bytes" else MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(title, total=total or None)
        self._total = total

    @property
    def total(self) -> int:
        """The amount at which the bar is full."""
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        self._total = value
        self._progress.update(self._task, total=value)

    def update(self, amount: int = 1) -> None:
        """Advance by ``amount``."""
        self._progress.advance(self._task, amount)

    def reset(self) -> None:
        """Start again from zero."""
        self._progress.reset(self._task, total=self._total)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def track(items: Iterable[Item], title: str, total: int, unit: str = "images") -> Iterator[Item]:
    """``items``, with a bar that advances as they are taken."""
    with Bar(title, total, unit) as bar:
        for item in items:
            yield item
            bar.update()
