"""Rows of the tables that were scored on the same tasks, compared in pairs: see ``tables.py``."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from results_files import read
from table_rows import SHIFTS, TEXT_NAMES

from quickstudy.evaluation.intervals import Interval, half_width
from quickstudy.evaluation.paired import Pair, figures, pairs
from quickstudy.evaluation.result import Result
from quickstudy.reports.tables import markdown_table


@dataclass(frozen=True)
class Group:
    """Rows scored on the same tasks.

    ``over``     what the scores are of: "600 tasks".
    ``scores``   row -> its scores, in the same order of tasks.
    ``share``    whether scores are shares, so that half a point matters; else 1% of the best mean
                 does.
    ``higher``   whether higher is better.
    """

    title: str
    over: str
    scores: Mapping[str, Sequence[float]]
    share: bool = True
    higher: bool = True


@dataclass(frozen=True)
class Compared:
    """A group's rows from the best to the worst, and all pairs of them.

    ``digest``   of the scores that were compared.
    ``ranked``   row -> its mean and 95% interval.
    """

    digest: str
    ranked: Mapping[str, tuple[float, Interval]]
    pairs: tuple[Pair, ...]
    matters: float

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        ranked = {name: [mean, *of.to_json()] for name, (mean, of) in self.ranked.items()}
        return {"digest": self.digest, "matters": self.matters, "ranked": ranked,
                "pairs": [pair.to_json() for pair in self.pairs]}  # fmt: skip

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Compared:
        """What :meth:`to_json` gave."""
        ranked = {name: (mean, Interval(low, high))
                  for name, (mean, low, high) in values["ranked"].items()}  # fmt: skip
        found = tuple(map(Pair.from_json, values["pairs"]))
        return Compared(values["digest"], ranked, found, values["matters"])


def digest_of(group: Group) -> str:
    """Of the group's scores, and of how they are compared."""
    about = [{n: list(s) for n, s in group.scores.items()}, group.share, group.higher]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def paired(group: Group) -> Compared:
    """The group's pairs, with the intervals and verdicts of ``quickstudy.evaluation.paired``."""
    results = {name: [_result(scores, group)] for name, scores in group.scores.items()}
    best = sorted(results, key=lambda n: results[n][0].mean * (-1 if group.higher else 1))
    results = {name: results[name] for name in best}
    matters = 0.005 if group.share else 0.01 * abs(results[best[0]][0].mean)
    found = {name: figures(of) for name, of in results.items()}
    ranked = {name: (of.mean, of.these) for name, of in found.items()}
    return Compared(digest_of(group), ranked, pairs(results, matters), matters)


def _result(scores: Sequence[float], group: Group) -> Result:
    values = torch.tensor(scores, dtype=torch.float64)
    unit = "%" if group.share else ""
    return Result(
        "", "score", unit, group.higher, False, True, tuple({} for _ in scores), values,
        float(values.mean()), half_width(values),
    )  # fmt: skip


def groups() -> Iterator[Group]:
    """All groups of at least two rows."""
    for group in (
        *_instances(), *_shifts(), *_domains(), *_gate(), *_text(), *_photographs(),
        *_transferability(), *_negative_transfer(), *_fine_tuning(), *_pulled(), *_sinusoids(),
        *_questions(),
    ):  # fmt: skip
        if len(group.scores) > 1:
            yield group


def _instances() -> Iterator[Group]:
    for problem, found in read("instances").items():
        over = f"{len(found['seeds']['soft'])} seeds"
        yield Group(f"instances: error on {problem}", over, found["seeds"], higher=False)


def _shifts() -> Iterator[Group]:
    """Means of the five splits of each seed, since splits of one data set are not independent."""
    results = read("shifts")["results"]
    for shift, title in SHIFTS.items():
        scores = {
            f"{name}, by {way}" if len(by_way) > 1 else name: [
                statistics.mean(by_way[way][shift][k : k + 5]) for k in range(0, 25, 5)
            ]
            for name, by_way in results.items()
            for way in by_way
            if len(by_way[way][shift]) == 25
        }
        yield Group(f"shifts: {title}", "5 seeds", scores)


def _domains() -> Iterator[Group]:
    found = read("domain_pairs")
    amazon = {
        name: [statistics.mean(values) for values in by_pair.values()]
        for name, by_pair in found["amazon"]["scores"].items()
        if len(by_pair) == 12
    }
    yield Group("domain_pairs: Amazon reviews", "12 pairs of domains", amazon)
    for part, scores in (
        ("shallow", found["digits"]["scores"]), ("networks", found["digits"]["networks"]["scores"])
    ):  # fmt: skip
        for pair in next(iter(scores.values())):
            of = {name: by_pair[pair] for name, by_pair in scores.items()}
            over = f"{len(next(iter(of.values())))} draws"
            yield Group(f"domain_pairs: {pair}, {part}", over, of)


def _gate() -> Iterator[Group]:
    for name, found in read("gate").items():
        if isinstance(found, dict):
            scores = {method: row["scores"] for method, row in found["rows"].items()}
            yield Group(f"gate: {name.replace('_', ' ')}", f"{found['tasks']} tasks", scores)


def _text() -> Iterator[Group]:
    found = read("text")
    for split in ("intents", "domains"):
        for shots in ("1", "5"):
            scores = {}
            for key, row in found.items():
                name, _, of_shots = key.removeprefix(split).strip().rpartition(" ")
                if key.startswith(split) and of_shots == shots and len(row["scores"]) == 600:
                    scores[TEXT_NAMES.get(name, name)] = row["scores"]
            yield Group(f"text: unseen {split}, {shots}-shot", "600 tasks", scores)


def _photographs() -> Iterator[Group]:
    rows = read("pretrained_photographs")["rows"]
    keys = dict.fromkeys((r["domain"], r["side"], r["shots"], r["tasks"]) for r in rows)
    for key in keys:
        domain, side, shots, tasks = key
        scores = {
            r["method"]: r["scores"]
            for r in rows
            if (r["domain"], r["side"], r["shots"], r["tasks"]) == key
        }
        title = f"pretrained_photographs: {domain}, {side} pixels, {shots}-shot"
        yield Group(title + (f", {tasks} tasks" if tasks < 600 else ""), f"{tasks} tasks", scores)


def _transferability() -> Iterator[Group]:
    for data, found in read("transferability")["measured"]["data"].items():
        scores = {name: row["scores"] for name, row in found["table"].items() if "scores" in row}
        over = f"{len(next(iter(scores.values()), ()))} tasks"
        yield Group(f"transferability: a probe on {data}", over, scores)


def _negative_transfer() -> Iterator[Group]:
    found = read("negative_transfer")
    for kind in ("flipped labels", "other function"):
        scores = {name: of["families"] for name, of in found[kind]["auc"].items()}
        over = f"{found[kind]['families']} families"
        yield Group(f"negative_transfer: area under the curve, {kind}", over, scores)


def _fine_tuning() -> Iterator[Group]:
    for setting, of in read("fine_tuning")["results"].items():
        scores = {name: row["scores"] for name, row in of.items()}
        yield Group(f"fine_tuning: {setting}", f"{len(scores['nearest mean'])} tasks", scores)


def _pulled() -> Iterator[Group]:
    for world, found in read("pulled")["worlds"].items():
        scores = {
            way: [statistics.mean(draw[way]) for draw in found["draws"]]
            for way in ("alone", "together", "pulled")
        }
        over = f"{len(found['draws'])} draws"
        yield Group(f"pulled: error, {world}", over, scores, share=False, higher=False)


def _sinusoids() -> Iterator[Group]:
    found = read("sinusoid_learners")
    scores = {name: row["scores"] for name, row in found.items() if "scores" in row}
    yield Group(
        "sinusoid_learners: mean squared error", "1,000 tasks", scores, share=False, higher=False
    )


def _questions() -> Iterator[Group]:
    found = read("questions")
    for known in dict.fromkeys(row["known_tasks"] for row in found["one_set"]):
        for which in ("known", "new"):
            scores = {
                row["method"]: row["errors"][which]
                for row in found["one_set"]
                if row["known_tasks"] == known
            }
            over = f"{len(next(iter(scores.values())))} sinusoids"
            title = f"questions: squared error on {which} tasks, {known} known"
            yield Group(title, over, scores, share=False, higher=False)
    for part, keys in (("size", ("filters", "blocks")), ("classes", ("classes",))):
        rows = found[part]
        scores = {
            ", ".join([row["learner"], *(f"{row[key]} {key}" for key in keys)]): row["scores"]
            for row in rows
        }
        yield Group(f"questions: accuracy by {part}", f"{len(rows[0]['scores'])} tasks", scores)


def page(every: Mapping[str, tuple[Group, Compared]]) -> str:
    """``pairs.md``: every row against the best one of its group."""
    parts = [_INTRODUCTION]
    for title, (group, found) in every.items():
        scale, unit = (100, " points") if group.share else (1, "")
        digits = 1 if group.share else 4
        best = next(iter(found.ranked))
        against = {pair.second: pair for pair in found.pairs if pair.first == best}
        rows = []
        for name, (mean, of) in found.ranked.items():
            row: dict[str, object] = {
                "row": name,
                "mean": f"{scale * mean:.{digits}f}",
                "95% interval": _interval(of.low, of.high, scale, digits),
            }
            if pair := against.get(name):
                low, high = pair.these.low, pair.these.high
                row |= {
                    "the best is better by": f"{scale * pair.difference:.{digits}f}",
                    "its 95% interval": _interval(low, high, scale, digits),
                    "p (Holm)": f"{pair.p_holm:.1g}", "the best is": pair.verdict,
                }  # fmt: skip
            rows.append(row)
        verdicts = [pair.verdict for pair in found.pairs]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
        parts.append(
            f"## {title}\n\nOver {group.over}; {scale * found.matters:.2g}{unit} matter. "
            f"All {len(verdicts)} pairs: {counts}.\n\n{markdown_table(rows)}"
        )
    return "\n".join(parts)


def _interval(low: float, high: float, scale: float, digits: int) -> str:
    return f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"


_INTRODUCTION = """# Rows of the tables in pairs

Made by `python benchmarks/tables.py` from `results/`. Each section has rows of one table of the
[README](README.md) that were scored on the same tasks (seeds, draws), from the best to the worst,
and each against the best. Intervals are BCa bootstraps over these tasks (with few of them,
Student's t), p-values of Wilcoxon's test with Holm's correction for all pairs of the section. "The
best is better" needs all three: a corrected p of at most .05, an interval without 0, and a
difference of at least what matters. "Equivalent" is an interval within it. Else it is "not known".
Nothing here is about another training or other classes: each row is of one training, for which
that interval is not known. Every pair is in `results/pairs.json`.
"""
