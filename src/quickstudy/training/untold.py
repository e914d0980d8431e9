"""Whether what is computed changes with how far training is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from quickstudy.core import Learner


@contextmanager
def untold_progress(learner: Learner) -> Iterator[None]:
    """TypeError where something inside looks at :attr:`Learner.progress`, even where it is caught.

    What is found out once, about tasks computed inside, then holds for the whole of training.
    """
    progress, untold = learner.progress, _Untold()
    learner.progress = untold  # type: ignore[assignment]
    try:
        yield
    finally:
        learner.progress = progress
    if untold.looked_at:
        untold._refuse()


class _Untold:
    """Stands for how far training is: handed on, but never looked at."""

    looked_at = False

    def _refuse(self, *_: object) -> NoReturn:
        self.looked_at = True
        raise TypeError("what it computes changes with Learner.progress")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _refuse
    __mod__ = __rmod__ = __divmod__ = __rdivmod__ = __pow__ = __rpow__ = _refuse
    __neg__ = __pos__ = __abs__ = __round__ = __trunc__ = __floor__ = __ceil__ = _refuse
    __bool__ = __int__ = __index__ = __float__ = __complex__ = _refuse
    __hash__ = None  # type: ignore[assignment]
