"""Lake's 20 one-shot runs: the published 20-way test tasks of Omniglot.

Each run takes 20 characters of one alphabet of Omniglot's evaluation set. One person drew the 20
support images, another the 20 queries, one of each character. Each of ten alphabets has two runs.
The images are made exactly as those of Omniglot here (:func:`.omniglot.reduce`).

Only Omniglot's 30 background alphabets may be trained on (``split="lake"``).

Reference: Lake, Salakhutdinov and Tenenbaum (2015), Human-level concept learning through
probabilistic program induction.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from quickstudy.answers.specs import classification
from quickstudy.core import Task
from quickstudy.datasets.cache import data_root, writable_folder
from quickstudy.datasets.limits import ArchiveError, Limits
from quickstudy.datasets.omniglot import check_size, ink, reduce
from quickstudy.datasets.published import PublishedTasks
from quickstudy.datasets.registry import card
from quickstudy.datasets.sources import entries, fetch, find
from quickstudy.tasks.examples import examples
from quickstudy.tasks.fixed import fixed

URL = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
    "one-shot-classification/all_runs.zip"
)
RUNS, WAYS = 20, 20
ALPHABETS = (
    "Atlantean", "Ge_ez", "Glagolitic", "Gurmukhi", "Kannada", "Malayalam", "Manipuri",
    "Old_Church_Slavonic_(Cyrillic)", "Tengwar", "Tibetan",
)  # fmt: skip
"""Of runs 1 and 2, 3 and 4, and so on; found by comparing the drawings with Omniglot's."""
PART = re.compile(r"run\d\d/(?:test/item\d\d\.png|training/class\d\d\.png|class_labels\.txt)$")
"""The end of the names of the files in use."""


class Drawings(NamedTuple):
    """One run at full size: ink is True.

    ``support``  (20, 105, 105), one drawing of each class, in order of the classes.
    ``queries``  (20, 105, 105), and ``targets`` (20,), their classes.
    """

    support: np.ndarray
    queries: np.ndarray
    targets: np.ndarray


def load(
    root: str | Path | None = None,
    *,
    size: int | None = None,
    shuffled: bool = False,
    download: bool = True,
) -> PublishedTasks:
    """The 20 runs as fixed tasks: 20 ways, 1 shot, 20 queries, images (1, size, size).

    ``root``      holds ``lake_runs/all_runs.zip``, or it unpacked; otherwise it is downloaded.
    ``size``      side in pixels, default 28.
    ``shuffled``  support rows in a fixed random order, for learners that read them as a sequence;
                  otherwise in the published order, which is that of the classes.
    """
    side = check_size("lake_runs", size)
    runs = read_runs(root, download)
    generator = torch.Generator().manual_seed(0)

    def task(run: Drawings) -> Task:
        order = torch.randperm(WAYS, generator=generator) if shuffled else torch.arange(WAYS)
        support, queries = (
            torch.from_numpy(reduce(each, side)) for each in (run.support, run.queries)
        )
        return Task(
            examples(support[order], order),
            examples(queries, torch.from_numpy(run.targets)),
            classification(WAYS),
        )

    names = tuple(f"run{n + 1:02d}, {ALPHABETS[n // 2]}" for n in range(RUNS))
    return PublishedTasks(card("lake_runs"), fixed([task(run) for run in runs]), names)


def read_runs(root: str | Path | None = None, download: bool = True) -> list[Drawings]:
    """The drawings of every run at full size, verified; arguments as those of :func:`load`."""
    folder = data_root(root)
    source = find([folder / "lake_runs", folder], ["all_runs.zip", "all_runs"])
    if source is None and (folder / "lake_runs" / "run01").is_dir():
        source = folder / "lake_runs"
    if source is None:
        if not download:
            raise FileNotFoundError(
                f"lake_runs: neither all_runs.zip nor all_runs is in {folder / 'lake_runs'}. "
                f"Allow the download, or get it from {URL} and put it there."
            )
        digest = card("lake_runs").digest("all_runs.zip")
        source = fetch(URL, writable_folder(folder, "lake_runs"), f"sha256:{digest}")
    runs = list(_decode(source))
    found, expected = content_digest(runs), card("lake_runs").digest("drawings and their classes")
    if found != expected:
        raise ArchiveError(
            f"{source}: the runs differ from the published ones (digest {found[:16]}…, expected "
            f"{expected[:16]}…). Delete it and download it again."
        )
    return runs


def _decode(source: Path) -> Iterator[Drawings]:
    """Every run in ``source``, in order."""
    found = entries(source, lambda name: PART.search(name) is not None, Limits(file_bytes=2**16))
    files = {PART.findall(name)[-1]: data for name, data in found}
    for number in range(1, RUNS + 1):
        run = f"run{number:02d}"

        def drawings(kind: str, run: str = run) -> np.ndarray:
            names = [f"{run}/{kind}{place:02d}.png" for place in range(1, WAYS + 1)]
            return np.stack([ink(_take(files, n, source), f"{source}: {n}") for n in names])

        targets = _targets(_take(files, f"{run}/class_labels.txt", source), run, source)
        yield Drawings(drawings("training/class"), drawings("test/item"), targets)


def _take(files: dict[str, bytes], name: str, source: Path) -> bytes:
    if name not in files:
        raise ArchiveError(
            f"{source}: must hold {RUNS} runs of {WAYS} classes; {name} is missing. "
            "Delete it and download it again."
        )
    return files[name]


def _targets(labels: bytes, run: str, source: Path) -> np.ndarray:
    """(20,): the class of each query. A line reads ``run01/test/item01.png …/class08.png``."""
    pairs = re.findall(
        rf"{run}/test/item(\d\d)\.png\s+{run}/training/class(\d\d)\.png",
        labels.decode("ascii", "replace"),
    )
    class_of = {int(item): int(number) - 1 for item, number in pairs}
    if sorted(class_of) != list(range(1, WAYS + 1)):
        raise ArchiveError(
            f"{source}: {run}/class_labels.txt must give the class of each of {WAYS} items; found "
            f"{len(class_of)}. Delete it and download it again."
        )
    return np.array([class_of[item] for item in sorted(class_of)])


def content_digest(runs: list[Drawings]) -> str:
    """SHA-256 over the ink and the classes of all runs, independent of packing."""
    total = hashlib.sha256()
    for run in runs:
        total.update(np.packbits(run.support).tobytes())
        total.update(np.packbits(run.queries).tobytes())
        total.update(run.targets.astype(np.uint8).tobytes())
    return total.hexdigest()


def pixel_error(runs: list[Drawings]) -> float:
    """The share of queries whose nearest support drawing, by ink, is of another class.

    The distance is :func:`modified_hausdorff` of drawings centred at their mean. This is the
    baseline that was published with the runs, 38.8%; it takes half a minute.
    """
    errors = []
    for run in runs:
        support, queries = ([ink_points(each) for each in part] for part in run[:2])
        errors.append(nearest_error(support, queries, run.targets))
    return float(np.mean(errors))


def nearest_error(
    support: list[np.ndarray], queries: list[np.ndarray], targets: np.ndarray
) -> float:
    """The share of ``queries`` whose nearest of ``support`` is not that of their target."""
    nearest = [np.argmin([modified_hausdorff(q, s) for s in support]) for q in queries]
    return float(np.mean(nearest != targets))


def ink_points(drawing: np.ndarray) -> np.ndarray:
    """(n, 2): the places of the ink, around their mean."""
    points: np.ndarray = np.argwhere(drawing).astype(float)
    centred: np.ndarray = points - points.mean(0)
    return centred


def modified_hausdorff(a: np.ndarray, b: np.ndarray) -> float:
    """The distance between two sets of points (n, d) and (m, d).

        max( mean_i min_j |a_i - b_j|,  mean_j min_i |a_i - b_j| )

    Reference: Dubuisson and Jain (1994), A modified Hausdorff distance for object matching.
    """
    from scipy.spatial.distance import cdist

    distances = cdist(a, b)
    return float(max(distances.min(1).mean(), distances.min(0).mean()))
