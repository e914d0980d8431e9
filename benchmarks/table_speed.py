"""The tables of ``README.md`` on speed: see ``tables.py``."""

from __future__ import annotations

import statistics

import adaptation
from results_files import Rows, Scores, read


def sampling() -> Rows:
    """Loaders, by CPU time; medians and quartiles over rounds."""
    found = read("sampling")["rates_per_round"]
    own = found["quickstudy"]["cpu"]
    names = {"learn2learn, tensor labels": "learn2learn 0.2.0, `TensorDataset`",
             "learn2learn, integer labels": "learn2learn 0.2.0, integer labels",
             "torchmeta": "torchmeta 1.8.0, in memory"}  # fmt: skip
    return [
        {"loader": names.get(name, name), "episodes per CPU second": _quartiles(of["cpu"], 0),
         "quickstudy is faster": None if of["cpu"] == own else
         _quartiles([a / b for a, b in zip(own, of["cpu"], strict=True)], 1)}
        for name, of in found.items()
    ]  # fmt: skip


def _quartiles(values: Scores, digits: int) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def fast_paths() -> Rows:
    """Each path with and without."""
    keys = ("path", "workload", "with, ms", "without, ms", "ratio", "quartiles")
    return [{key: row[key] for key in keys} for row in read("fast_paths")]


def named_tasks() -> Rows:
    """A step over many named tasks."""
    return [
        {"learner": row["learner"], "stacked (`fit`), ms": round(row["stacked, ms"], 1),
         "our loop, ms": round(row["looped, ms"]),
         "plain PyTorch loop, ms": round(row["plain, ms"]),
         "our loop / stacked": row["looped / stacked"], "plain / stacked": row["plain / stacked"]}
        for row in read("named_tasks")["rows"]
    ]  # fmt: skip


def memory_learners() -> Rows:
    """A step of memory learners beside plain batched operations."""
    what = {"mann": "64 given features, 5 + 45 rows", "mann_conv4": "Conv4 at 28×28, 5 + 45 rows",
            "snail_one_query": "64 given features, 25 + 1 rows",
            "snail_five_queries": "64 given features, 25 + 5 rows",
            "snail_conv4": "Conv4 at 28×28, 25 + 5 rows"}  # fmt: skip
    found = read("memory_learners")
    return [
        {"workload": name, "rows": rows, "ours, ms": round(found[name]["ours_ms"]),
         "plain, ms": round(found[name]["plain_ms"]),
         "ratio (quartiles)": f"{found[name]['ratio']:.2f} "
         "({:.2f} to {:.2f})".format(*found[name]["ratio_quartiles"])}
        for name, rows in what.items()
    ]  # fmt: skip


def adaptation_of(backbone: str) -> str:
    """Time to adapt and predict on one backbone."""
    return adaptation.table({backbone: read("adaptation")[backbone]}).split("\n\n", 1)[1]


def pretrained() -> Rows:
    """Time of a picture and of a task."""
    found = read("pretrained")
    tasks = {row["size"]: row for row in found["tasks"]}
    return [
        {"pixels": row["size"], "batch": row["batch"], "ours, ms a picture":
         round(row["ours_ms"], 1), "package": round(row["package_ms"], 1),
         "ratio": "{:.2f} ({:.2f}–{:.2f})".format(row["ratio"], *row["ratio_range"]),
         "a task by pictures, ms": f"{tasks[row['size']]['by_pictures_ms']:,.0f}",
         "by features": round(tasks[row["size"]]["by_features_ms"], 1)}
        for row in found["networks"]
    ]  # fmt: skip
