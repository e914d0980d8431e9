"""A progress bar on standard error, shown only where someone looks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")


class Bar:
    """A bar with time left; also speaks the few words by which a downloader moves a bar.

    ``unit`` is "bytes" for sizes, else what is counted.
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
            TextColumn("{task.description}", markup=False),  # names of folders are only text
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
        """How much there is to do."""
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        self._total = value
        self._progress.update(self._task, total=value)

    def update(self, amount: int = 1) -> None:
        """Go on by ``amount``."""
        self._progress.advance(self._task, amount)

    def reset(self) -> None:
        """Begin anew."""
        self._progress.reset(self._task, total=self._total)

    def close(self) -> None:
        """Take the bar away."""
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


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """``items``, with a bar that moves as they are taken."""
    with Bar(title, total) as bar:
        for item in items:
            yield item
            bar.update()
