"""Episodes per second on one core: 5-way 1-shot with 15 queries of 28x28, all rows in memory.

    python benchmarks/sampling.py
    python benchmarks/sampling.py --root DATA     # the rows of Omniglot instead of random ones

Every contender reads the same uint8 rows (4112 classes of 20, as in Omniglot's training split with
rotations), samples a *new* task each time, and delivers float32 images in [0, 1] with targets 0 to
4, split into support and query. Building its tables is not timed.

Contenders take turns, round by round, so that whatever else the machine does disturbs all equally.
Rates are per second of the process's own CPU time; those by the clock are recorded beside them.

Peers are optional. learn2learn is measured twice: over a ``TensorDataset``, the type of its own
in-memory data set, and over the same tensor with labels as Python integers, which spares it many
tensor comparisons. Neither it nor torchmeta is slowed by a ``DataLoader``, and the masks that split
learn2learn's rows are made once, while its examples make them for every task.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib import import_module
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

import quickstudy as qs
from quickstudy.base.version import __version__
from quickstudy.reports.tables import markdown_table
from quickstudy.tasks.numbering import draw, generator

RESULTS = Path(__file__).parent / "results"
WAYS, SHOTS, QUERIES = 5, 1, 15
CLASSES, ROWS, SIDE = 4112, 20, 28
OURS = "quickstudy"


class Episode(NamedTuple):
    """What every contender delivers: images (n, 1, side, side) and targets (n,)."""

    support: Tensor
    support_targets: Tensor
    query: Tensor
    query_targets: Tensor


Sampler = Callable[[], Episode]


class IntegerLabels(Dataset):  # type: ignore[type-arg]
    """Rows of a tensor with Python integers as labels."""

    def __init__(self, inputs: Tensor, labels: list[int]) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], self.labels[index]


def quickstudy_sampler(data: qs.LabelledRows) -> Sampler:
    """Tasks by number, drawn as in training."""
    source, index = qs.episodes(data, WAYS, SHOTS, QUERIES), count()

    def sample() -> Episode:
        support, query, _ = draw(source, 0, next(index))
        return Episode(support.inputs, support.targets, query.inputs, query.targets)

    return sample


def learn2learn_tensors(data: qs.LabelledRows) -> Sampler:
    """``Taskset`` over a ``TensorDataset``."""
    return _learn2learn(TensorDataset(data.inputs, torch.tensor(_labels(data))), data)


def learn2learn_integers(data: qs.LabelledRows) -> Sampler:
    """``Taskset`` over a data set whose labels are integers."""
    return _learn2learn(IntegerLabels(data.inputs, _labels(data)), data)


def _learn2learn(rows: Dataset, data: qs.LabelledRows) -> Sampler:  # type: ignore[type-arg]
    l2l = import_module("learn2learn")
    blocks = torch.arange(len(data.inputs)).split(data.counts.tolist())
    by_class = {c: block.tolist() for c, block in enumerate(blocks)}
    dataset = l2l.data.MetaDataset(rows, labels_to_indices=by_class)
    transforms = import_module("learn2learn.data.transforms")
    steps = [
        transforms.FusedNWaysKShots(dataset, n=WAYS, k=SHOTS + QUERIES),
        transforms.LoadData(dataset),
        transforms.RemapLabels(dataset),
        transforms.ConsecutiveLabels(dataset),
    ]
    # num_tasks=-1 samples anew each time; a positive number would repeat cached descriptions.
    tasks = l2l.data.Taskset(dataset, steps, num_tasks=-1)
    in_support = torch.arange(WAYS * (SHOTS + QUERIES)) % (SHOTS + QUERIES) < SHOTS
    in_query = ~in_support

    def sample() -> Episode:
        inputs, ways = tasks.sample()
        inputs = inputs.float().div_(255)
        return Episode(inputs[in_support], ways[in_support], inputs[in_query], ways[in_query])

    return sample


def torchmeta_sampler(data: qs.LabelledRows) -> Sampler:
    """``CombinationMetaDataset`` over class data sets that hold views of the tensor."""
    utils = import_module("torchmeta.utils.data")
    transforms = import_module("torchmeta.transforms")
    collate = import_module("torchmeta.utils.data.dataloader").BatchMetaCollate(
        torch.utils.data.default_collate
    )

    class OneClass(utils.Dataset):  # type: ignore[misc, name-defined]
        def __init__(self, index: int) -> None:
            super().__init__(index)
            self.inputs = data.rows(index)

        def __len__(self) -> int:
            return len(self.inputs)

        def __getitem__(self, row: int) -> tuple[Tensor, Any]:
            return self.inputs[row], self.target_transform(self.index)

    class AllClasses(utils.ClassDataset):  # type: ignore[misc, name-defined]
        num_classes = len(data)

        def __getitem__(self, index: int) -> OneClass:
            return OneClass(index)

    splitter = transforms.ClassSplitter(num_support_per_class=SHOTS, num_query_per_class=QUERIES)
    tasks = utils.CombinationMetaDataset(
        AllClasses(meta_train=True), WAYS,
        target_transform=transforms.Categorical(WAYS), dataset_transform=splitter,
    )  # fmt: skip

    def sample() -> Episode:
        task = collate.collate_task(tasks.sample_task())
        (support, ways), (query, query_ways) = task["support"], task["query"]
        return Episode(support.float().div_(255), ways, query.float().div_(255), query_ways)

    return sample


CONTENDERS: dict[str, tuple[str, Callable[[qs.LabelledRows], Sampler]]] = {
    OURS: ("quickstudy", quickstudy_sampler),
    "learn2learn, tensor labels": ("learn2learn", learn2learn_tensors),
    "learn2learn, integer labels": ("learn2learn", learn2learn_integers),
    "torchmeta": ("torchmeta", torchmeta_sampler),
}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    data = _data(args.root)
    samplers: dict[str, Sampler] = {}
    missing: dict[str, str] = {}
    for name, (_, make) in CONTENDERS.items():
        try:
            sample = make(data)
            check(name, sample())
        except (ImportError, NotImplementedError) as error:  # not installed, or for another torch
            missing[name] = str(error)
            print(f"{name}: not measured, it does not run here ({error})")
        else:
            samplers[name] = sample
    rates = measured(samplers, args.rounds, args.seconds)
    rows = [_row(name, rates) for name in samplers]
    about = {
        "setting": f"{WAYS}-way {SHOTS}-shot, {QUERIES} queries, {SIDE}x{SIDE}, new tasks",
        "data": "random rows" if args.root is None else "Omniglot, training split with rotations",
        "classes": len(data), "rows_per_class": ROWS, "threads": torch.get_num_threads(),
        "rounds": args.rounds, "seconds_per_turn": args.seconds,
        "processor": platform.machine(), "python": platform.python_version(),
        "torch": torch.__version__, "version": __version__,
        "peers": {name: _version(module) for name, (module, _) in CONTENDERS.items()
                  if name in samplers and name != OURS},
        "missing": missing, "results": rows, "rates_per_round": rates,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    target = args.out or RESULTS / "sampling.json"
    target.write_text(json.dumps(about, indent=1) + "\n")
    print(markdown_table([_shown(row) for row in rows]))
    print(f"written to {target}")


def check(name: str, episode: Episode) -> None:
    """ValueError unless ``episode`` has the required shapes, types and values."""
    images = [(tuple(t.shape), t.dtype) for t in (episode.support, episode.query)]
    wanted = [((WAYS * n, 1, SIDE, SIDE), torch.float32) for n in (SHOTS, QUERIES)]
    per_way = [t.bincount(minlength=WAYS).tolist()
               for t in (episode.support_targets, episode.query_targets)]  # fmt: skip
    in_unit = 0 <= float(episode.query.min()) < float(episode.query.max()) <= 1
    if images != wanted or per_way != [[SHOTS] * WAYS, [QUERIES] * WAYS] or not in_unit:
        raise ValueError(f"{name}: not the required episode; found {images}, {per_way}.")


def measured(
    samplers: dict[str, Sampler], rounds: int, seconds: float
) -> dict[str, dict[str, list[float]]]:
    """Episodes per second of every round: name -> "cpu" and "clock" -> (rounds,)."""
    turns = {name: _episodes_per_turn(sample, seconds) for name, sample in samplers.items()}
    rates: dict[str, dict[str, list[float]]] = {n: {"cpu": [], "clock": []} for n in samplers}
    for _ in range(rounds):
        for name, sample in samplers.items():
            clock, cpu = time.perf_counter(), time.process_time()
            for _ in range(turns[name]):
                sample()
            cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
            rates[name]["cpu"].append(round(turns[name] / cpu, 1))
            rates[name]["clock"].append(round(turns[name] / clock, 1))
    return rates


def _episodes_per_turn(sample: Sampler, seconds: float) -> int:
    """How many episodes take about ``seconds`` of CPU time; also warms up."""
    done, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        sample()
        done += 1
    return done


def _row(name: str, rates: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(rates[OURS]["cpu"], rates[name]["cpu"], strict=True)]
    return {
        "loader": name,
        "episodes_per_cpu_second": _spread(rates[name]["cpu"]),
        "episodes_per_second": _spread(rates[name]["clock"]),
        "quickstudy_is_faster": None if name == OURS else _spread(ratios),
        "ratio_of_medians": round(median(rates[OURS]["cpu"]) / median(rates[name]["cpu"]), 2),
    }


def _spread(values: list[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4)
    return {"median": round(median(values), 2), "quartile_1": round(low, 2),
            "quartile_3": round(high, 2)}  # fmt: skip


def _shown(row: dict[str, Any]) -> dict[str, object]:
    def cell(spread: dict[str, float], digits: int) -> str:
        middle, low, high = (f"{v:,.{digits}f}" for v in spread.values())
        return f"{middle} ({low} to {high})"

    ratio = row["quickstudy_is_faster"]
    return {
        "loader": row["loader"],
        "episodes per CPU second": cell(row["episodes_per_cpu_second"], 0),
        "by the clock": cell(row["episodes_per_second"], 0),
        "quickstudy is faster": ratio and cell(ratio, 1),
        "ratio of medians": row["ratio_of_medians"],
    }


def _data(root: Path | None) -> qs.LabelledRows:
    if root is not None:
        return qs.datasets.load("omniglot", root=root, rotations=True).train
    shape = (CLASSES * ROWS, 1, SIDE, SIDE)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(0))
    names = tuple(str(c) for c in range(CLASSES))
    return qs.LabelledRows(pixels, torch.full((CLASSES,), ROWS), names)


def _labels(data: qs.LabelledRows) -> list[int]:
    labels: list[int] = torch.arange(len(data)).repeat_interleave(data.counts).tolist()
    return labels


def _version(module: str) -> str:
    return str(getattr(import_module(module), "__version__", "unknown"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=None, help="data root with Omniglot")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=0.4, help="CPU time of one turn")
    parser.add_argument("--out", type=Path, default=None, help="default results/sampling.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
