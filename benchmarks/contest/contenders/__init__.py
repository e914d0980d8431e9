"""The contenders of ``peers.py``: a file for each library, a function for each use of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from contest.work import Prepare


@dataclass(frozen=True)
class Contender:
    """A library, and one use of it.

    ``function``  ``module.function`` in this package.
    ``package``   whose version is reported; "" for plain torch.
    ``needs``     how to install it, in addition to torch.
    ``squared_distances``  False where its prototypical networks take plain Euclidean distances:
                  then its gradient is different, and compared with its own equation.
    """

    name: str
    function: str
    package: str = ""
    needs: str = "nothing"
    squared_distances: bool = True

    def prepare(self) -> Prepare:
        """The function itself; raises ImportError where the library cannot be imported."""
        module, function = self.function.split(".")
        found: Prepare = getattr(import_module(f"{__name__}.{module}"), function)
        return found


OURS = "quickstudy"

_PARALLEL = "parallel-metalearn"
_PIP_PARALLEL = "pip install parallel-metalearn (its module is called metalearn)"

CONTENDERS: Sequence[Contender] = (
    Contender(OURS, "ours.two_workers", "quickstudy", "pip install quickstudy"),
    Contender("quickstudy, 1 worker", "ours.one_worker", "quickstudy", "pip install quickstudy"),
    Contender("quickstudy, compiled", "ours.compiled", "quickstudy",
              "pip install quickstudy, and a C++ compiler"),
    Contender("plain loop", "plain.loop"),
    Contender(
        "learn2learn", "learn2learn.loop", "learn2learn",
        "python setup.py build_ext --inplace in its source archive (needs cython), and that folder "
        "on PYTHONPATH: there is no wheel for Python 3.11 and later",
    ),
    Contender("higher", "higher.loop", "higher", "pip install higher"),
    Contender("TorchOpt", "torchopt.loop", "torchopt", "pip install torchopt"),
    Contender("torchmeta", "torchmeta.loop", "torchmeta",
              "pip install --no-deps torchmeta ordered-set: it requires torch < 1.10"),
    Contender("parallel-metalearn", "parallel_metalearn.vmapped", _PARALLEL, _PIP_PARALLEL),
    Contender("parallel-metalearn, sequential", "parallel_metalearn.sequential", _PARALLEL,
              _PIP_PARALLEL),
    Contender("easyfsl", "easyfsl.loop", "easyfsl",
              "pip install easyfsl, with the torchvision that belongs to this torch",
              squared_distances=False),
)  # fmt: skip
