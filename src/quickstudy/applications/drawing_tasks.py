"""Tasks made of drawings: complete one, or make new ones of the same character."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quickstudy.answers.specs import regression
from quickstudy.base.door import to_unit
from quickstudy.core import Task
from quickstudy.tasks.examples import examples
from quickstudy.tasks.rows import LabelledRows


def places(side: int) -> Tensor:
    """(side², 2): the centres of a picture's pixels, from top to bottom in [-1, 1]², row by row."""
    along = (2 * torch.arange(side) + 1) / side - 1
    return torch.cartesian_prod(along, along)


@dataclass(frozen=True, eq=False)
class Completions:
    """A task is one drawing: some of its pixels are given, and the others are asked for.

    Inputs are the places of pixels (n, 2), targets their ink (n, 1) from 0 to 1.

    ``drawings``  of which each is equally likely.
    ``given``     pixels in the support set, drawn at random.
    ``turned``    whether drawings are turned by a random number of right angles, for training.
    """

    drawings: LabelledRows
    given: int
    turned: bool = False

    def __post_init__(self) -> None:
        pixels = self.drawings.inputs[0].numel()
        if not 1 <= self.given < pixels:
            raise ValueError(
                f"generation: given must be 1 to {pixels - 1} of the {pixels} pixels of a drawing; "
                f"found {self.given}."
            )

    def __call__(self, generator: torch.Generator) -> Task:
        """A drawing, divided at random into given pixels and others."""
        rows = self.drawings.inputs
        row = int(torch.randint(len(rows), (1,), generator=generator))
        picture = _drawn(rows[row : row + 1], self.turned, generator)
        where = places(picture.shape[-1])
        order = torch.randperm(len(where), generator=generator)
        ink, where = picture.reshape(-1, 1)[order], where[order]
        n = self.given
        return Task(
            examples(where[:n], ink[:n]), examples(where[n:], ink[n:]), regression(1)
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class NewDrawings:
    """A task is one character: drawings of it are given, and the typical one is asked for.

    Inputs are noise (n, noise), targets the ink of drawings (n, pixels). The noise of support rows
    is standard normal, for training; that of queries is 0, for which a learner predicts the typical
    drawing.

    ``characters``  a class for each, all equally likely.
    ``shots``       drawings in the support set.
    ``queries``     further drawings of the same character.
    ``noise``       numbers of noise that a learner takes.
    ``turned``      whether characters are turned by a random number of right angles, for training.
    """

    characters: LabelledRows
    shots: int
    queries: int
    noise: int
    turned: bool = False

    def __post_init__(self) -> None:
        fewest = int(self.characters.counts.min())
        asked = max(1, self.queries)  # none to compare with is none to score by
        if min(self.shots, self.queries) < 1 or self.shots + asked > fewest:
            raise ValueError(
                f"generation: {self.shots} drawings and {asked} to compare with are asked for, at "
                f"least 1 of each, but a class has {fewest}. Lower --shots, or bring more drawings "
                "of each."
            )

    def __call__(self, generator: torch.Generator) -> Task:
        """A character, and drawings of it at random."""
        rows, counts = self.characters.inputs, self.characters.counts
        which = int(torch.randint(len(counts), (1,), generator=generator))
        start, total = int(counts[:which].sum()), self.shots + self.queries
        taken = torch.randperm(int(counts[which]), generator=generator)[:total]
        ink = _drawn(rows[start + taken], self.turned, generator).flatten(1)
        noise = torch.randn(total, self.noise, generator=generator)
        noise[self.shots :] = 0
        n = self.shots
        return Task(
            examples(noise[:n], ink[:n]), examples(noise[n:], ink[n:]), regression(ink.shape[1])
        )  # fmt: skip


def _drawn(pictures: Tensor, turned: bool, generator: torch.Generator) -> Tensor:
    """(n, 1, side, side) reals in [0, 1], all turned alike."""
    ink = to_unit(pictures)
    if not turned:
        return ink
    quarter = int(torch.randint(4, (1,), generator=generator))
    return torch.rot90(ink, quarter, (2, 3))
