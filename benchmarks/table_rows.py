"""The tables of ``README.md``, each computed from its results file: see ``tables.py``.

Where a file keeps the score of every task (or seed, draw, split), mean and interval are computed
from these, not read. Those on speed are in ``table_speed.py``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import domain_pairs
import heterogeneity
import language_tables
import omniglot
import questions
import scaling
import sinusoid_learners
from contest import report
from omniglot_learners import ENTRIES
from results_files import RESULTS, Rows, Scores, figure, gain, known, mean_of, minus, read
from table_speed import (
    adaptation_of,
    fast_paths,
    memory_learners,
    named_tasks,
    pretrained,
    sampling,
)

from quickstudy.reports.tables import markdown_table


def omniglot_longer() -> Rows:
    """The three longer trainings."""
    rows: Rows = []
    for name in ("prototypical_group", "maml_batch", "maml_group"):
        found = read(f"omniglot_{name}")
        cells = {(e["ways"], e["shots"]): known(e) for e in found["evaluations"]}
        title = ENTRIES[found["learner"]].title
        rows.append({
            "learner": title + (", second order" if title == "MAML" else ""),
            "norm": found["norm"], "protocol": found["evaluations"][0]["protocol"],
            "5-way 1-shot": cells[5, 1], "20-way 1-shot": cells.get((20, 1)),
            "published": ", ".join(map(str, found["published"])),
            "CPU minutes": round(found["train_cpu_minutes"], 1),
        })  # fmt: skip
    return rows


def lake_runs() -> Rows:
    """Errors on the published runs, in percent."""
    published = (
        ("pixels by modified Hausdorff distance", "38.8", "the baseline that comes with them"),
        ("Siamese network", "8.0", "Koch et al., 2015"),
        ("people", "4.5", "Lake et al., 2015"),
        ("Bayesian program learning", "3.3", "Lake et al., 2015"),
    )
    errors = [1 - score for score in read("lake_runs")["evaluation"]["scores"]]
    ours = ("Prototypical", figure(errors), f"{len(errors)} tasks, inductive")
    rows = (published[0], ours, *published[1:])
    return [dict(zip(("method", "error in %", "source"), row, strict=True)) for row in rows]


def sinusoids() -> Rows:
    """MAML beside a pre-trained network, by shots and steps."""

    def cell(row: Mapping[str, Any]) -> str:
        if "scores" in row:
            return figure(row["scores"], 3, 1)
        return f"{row['mse']:.3f} ± {row['half_width']:.3f}"

    shown = ((5, 1), (5, 10), (10, 0), (10, 1), (10, 5), (10, 10), (20, 1), (20, 10))
    by_shots = {found["shots"]: found for found in read("sinusoid")["results"]}
    return [
        {"shots": n, "steps": k, "MAML": cell(by_shots[n]["maml"][k]),
         "pre-trained": cell(by_shots[n]["baseline"][k])}
        for n, k in shown
    ]  # fmt: skip


def sinusoid_learners_rows() -> Rows:
    """Every learner that regresses."""
    return [
        row | {"mean squared error": known(found, 4, 1)}
        for row, found in zip(
            sinusoid_learners._table(read("sinusoid_learners")),
            read("sinusoid_learners").values(), strict=True,
        )
    ]  # fmt: skip


def instances() -> Rows:
    """Errors of TrAdaBoost and what it is compared with, over seeds."""
    rows: Rows = []
    for problem, found in read("instances").items():
        seeds, wanted = found["seeds"], found["published"]
        rows.append(
            {"problem": problem, "labels": found["labels"]}
            | {name: figure(errors, 3, 1) for name, errors in seeds.items()}
            | {f"soft − {n}": figure(minus(seeds["soft"], seeds[n]), 3, 1)
               for n in ("pooled", "target")}
            | {"to be reached": " / ".join(f"{value:.3f}" for value in wanted.values())}
        )  # fmt: skip
    return rows


def photographs() -> Rows:
    """The folder path and the episodes."""
    found = read("photographs_prototypical")
    folders, episodes = found["folders"], found["episodes"]
    return [
        {"what": f"folders: {folders['draws']} draws of 5 new classes, 125 photographs each",
         "accuracy": known(folders)},
        {"what": f"episodes: {episodes['tasks']} test tasks, 5-way 5-shot, 15 queries",
         "accuracy": known(episodes)},
    ]  # fmt: skip


SHIFTS = {"covariate_shift": "covariate shift", "target_shift": "target shift",
          "conditional_shift": "conditional shift", "subspace": "subspace"}  # fmt: skip
SKADA = {
    ("source only", "target labels"): ".881 / .850 / .662 / .190",
    ("target only", "target labels"): ".92 / .93 / .82 / .98",
    ("KLIEP", "target labels"): ".888 / .878 / .660 / .203",
    ("KLIEP", "circular validation"): ".884 / .856 / .659 / .191",
    ("KMM", "target labels"): ".890 / .875 / .673 / .190",
    ("CORAL", "target labels"): ".742 / .838 / .815 / .187",
    ("CORAL", "circular validation"): ".741 / .699 / .757 / .179",
    ("subspace alignment", "target labels"): ".74 / .81 / .80 / .13",
    ("linear transport", "target labels"): ".893 / .810 / .814 / .190",
    ("linear transport", "circular validation"): ".734 / .727 / .758 / .175",
    ("TCA of skada 0.6", "target labels"): ".401 / .461 / .495 / .583",
}
"""skada's figures; with three digits recomputed with skada 0.6, with two as published."""


def standard_error(scores: Scores) -> str:
    """ "88.1 ± 0.5": percent, with one standard error, as skada's tables have it."""
    error = statistics.stdev(scores) / math.sqrt(len(scores))
    return f"{100 * statistics.mean(scores):.1f} ± {100 * error:.1f}"


def shifts() -> Rows:
    """Methods on four made shifts."""
    results = read("shifts")["results"]
    return [
        {"method": name, "settings by": way if len(by_way) > 1 else "–"}
        | {title: standard_error(by_way[way][shift]) for shift, title in SHIFTS.items()}
        | {"splits": len(by_way[way]["subspace"]), "skada's": SKADA.get((name, way))}
        for name, by_way in results.items()
        for way in by_way
    ]


def shifts_settings() -> Rows:
    """Each setting of two methods by itself."""
    found = read("shifts")["single_settings"]
    names = {"CORAL": "CORAL", "LT 1e-08": "linear transport 1e-8", "LT 1": "linear transport 1",
             "LT 10": "linear transport 10"}  # fmt: skip
    return [
        {"setting": f"{title}, {how}"}
        | {shift_title: standard_error(found[f"{key} {how[0]}"][shift])
           for shift, shift_title in SHIFTS.items()}
        for key, title in names.items()
        for how in ("centred", "not centred")
    ]  # fmt: skip


def amazon() -> str:
    """Reviews, over pairs of domains."""
    order = ("linear, in its domain", "linear", "network", "DANN", "DAN", "Deep CORAL")
    found = read("domain_pairs")["amazon"]["scores"]
    return domain_pairs.amazon_table({name: found[name] for name in order})


def digits(part: str) -> Rows:
    """Digits in both directions, over draws: "shallow" methods or "networks"."""
    about = read("domain_pairs")["digits"]
    networks = part == "networks"
    scores = about["networks"]["scores"] if networks else about["scores"]
    base = "network" if networks else "SVM"
    rows: Rows = []
    for name, by_pair in scores.items():
        row: dict[str, object] = {"method": name}
        for pair, values in by_pair.items():
            title = pair.replace("mnist", "MNIST").replace("usps", "USPS")
            row[title] = figure(values)
            below = None if name == base else figure(minus(values, scores[base][pair]))
            row[f"minus {base}, {title}"] = below
        rows.append(row | {"draws": len(values)})
    return rows


def gate() -> Rows:
    """What the gate loses against the better mean."""
    rows: Rows = []
    for name, found in read("gate").items():
        if not isinstance(found, dict):
            continue
        scores = {method: row["scores"] for method, row in found["rows"].items()}
        better = scores[found["better"]]
        row: dict[str, object] = {"data": name.replace("_", " "), "tasks": len(better)}
        row |= {m: figure(scores[m]) for m in ("target only", "source only", "pooled", "gate")}
        counts = found["choices"]["gate"]
        row["lost"] = figure(minus(better, scores["gate"]))
        row["chosen"] = " / ".join(str(counts.get(n, 0)) for n in ("target only", "source only",
                                                                   "SVM"))  # fmt: skip
        more = scores.get("gate, more methods")
        row["gate with CORAL and transport"] = more and figure(more)
        row["it lost"] = more and figure(minus(better, more))
        rows.append(row)
    return rows


TEXT_NAMES = {"int8, nearest mean": "MiniLM in 8 bits, nearest mean",
              "fine-tuned": "MiniLM fine-tuned, last 2 layers, 10 steps"}  # fmt: skip


def text(split: str) -> Rows:
    """Requests of unseen intents or domains."""
    found = read("text")
    names = dict.fromkeys(k.rsplit(" ", 1)[0] for k in found if k.startswith(split))
    rows: Rows = []
    for name in names:
        one, five = (found[f"{name} {shots}"] for shots in (1, 5))
        title = name.removeprefix(split).strip()
        rows.append({
            "method": TEXT_NAMES.get(title, title), "1 shot": known(one), "5 shots": known(five),
            "ms a text": round(one["encoding_ms"], 1) or None,
            "ms a task (1 / 5)": f"{one['task_ms']:.1f} / {five['task_ms']:.1f}",
            "tasks": len(one["scores"]),
        })  # fmt: skip
    return rows


def pretrained_photographs() -> Rows:
    """Methods on frozen features, by domain."""
    found = read("pretrained_photographs")["rows"]
    keys = dict.fromkeys((row["domain"], row["side"], row["method"]) for row in found)
    rows: Rows = []
    for key in keys:
        of = {r["shots"]: r for r in found if (r["domain"], r["side"], r["method"]) == key}
        rows.append(
            dict(zip(("tasks", "pixels", "method"), key, strict=True))
            | {("1 shot" if k == 1 else f"{k} shots"): known(of[k]) if k in of else None
               for k in (1, 5)}
            | {"ms a task": round(next(iter(of.values()))["ms_per_task"])}
        )  # fmt: skip
    return rows


def segmentation(part: str) -> Rows:
    """Learners of masks: emoji of new classes, or regions of cells."""
    found = [row for row in read("segmentation")["rows"] if row["part"] == part]
    rows: Rows = []
    for label in dict.fromkeys(row["learner"] for row in found):
        of = {row["shots"]: row for row in found if row["learner"] == label}
        some = next(iter(of.values()))
        rows.append(
            {"learner": label.replace("_", " ")}
            | {name: known(of[k]) if k in of else None for k, name in ((1, "1 shot"),
                                                                      (5, "5 shots"))}
            | {"training, CPU s": round(some["training_s"]) or None,
               "a task, CPU s": round(some["task_s"], 1), "tasks": some["tasks"]}
        )  # fmt: skip
    return rows


def transferability_accuracy() -> Rows:
    """A probe on each set of features, by data set."""
    data = read("transferability")["measured"]["data"]
    names = next(iter(data.values()))["table"]

    def cell(row: Mapping[str, Any]) -> str:
        return known(row | {"mean": row["accuracy"]})

    return [
        {"features": name} | {title: cell(found["table"][name]) for title, found in data.items()}
        for name in names
    ]


def transferability_scores() -> Rows:
    """Agreement of each score, and what its first choice loses."""
    data = read("transferability")["measured"]["data"]
    scores = next(iter(data.values()))["tau"]
    rows: Rows = []
    for score in scores:
        both = {title: (of["tau"][score], 100 * of["lost_by_the_first"][score])
                for title, of in data.items()}  # fmt: skip
        both["mean"] = tuple(map(statistics.mean, zip(*both.values(), strict=True)))  # type: ignore[assignment]
        row: dict[str, object] = {"score (weighted τ / points lost by its first)": score}
        rows.append(row | {t: f"{_short(tau)} / {lost:.1f}" for t, (tau, lost) in both.items()})
    return rows


def _short(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1)


def negative_transfer() -> Rows:
    """How well planted sources are told from good ones, over families."""
    found = read("negative_transfer")
    kinds = {"flipped labels": "flipped labels", "other function": "another function"}
    rows: Rows = []
    for name in found["flipped labels"]["auc"]:
        row: dict[str, object] = {"figure of `qs.negative_transfer`": name}
        for kind, title in kinds.items():
            values = found[kind]["auc"][name]["families"]
            row[f"{title} ({len(values)} families)"] = figure(values, 3, 1)
        rows.append(row)
    return rows


def fine_tuning() -> Rows:
    """Learners on unseen glyphs and on clothes, beside the probe."""
    results = read("fine_tuning")["results"]
    glyphs, clothes = (results[f"{what}, 5-way 5-shot"] for what in ("unseen glyphs", "clothes"))
    probe = "probe (logistic)"
    rows: Rows = []
    for name in glyphs:
        row: dict[str, object] = {"learner": name}
        for title, of in (("unseen glyphs", glyphs), ("clothes", clothes)):
            over = None if name in ("nearest mean", probe) else gain(
                of[name]["scores"], of[probe]["scores"])  # fmt: skip
            row |= {title: known(of[name]), f"{title}, over the probe": over}
        seconds = glyphs[name]["cpu_seconds_per_task"] + clothes[name]["cpu_seconds_per_task"]
        rows.append(row | {"CPU s a task": round(seconds / 2, 2)})
    return rows


def pulled() -> Rows:
    """A pull beside single and common models, over draws."""
    rows: Rows = []
    for name, found in read("pulled")["worlds"].items():
        draws = {way: [statistics.mean(d[way]) for d in found["draws"]]
                 for way in ("alone", "together", "pulled")}  # fmt: skip
        rows.append({"tasks": name} | {way: figure(v, 3, 1) for way, v in draws.items()}
                    | {"ratio": round(mean_of(draws["pulled"]) / mean_of(draws[found["better"]]), 3)
                       })  # fmt: skip
    return rows


def questions_part(part: str) -> Rows:
    """A part of what ``docs/questions.md`` needs."""
    return questions.tables(read("questions"))[part]


TABLES: dict[str, Callable[[], Rows | str]] = {
    "omniglot": omniglot._table,
    "omniglot_longer": omniglot_longer,
    "lake_runs": lake_runs,
    "sinusoid": sinusoids,
    "sinusoid_learners": sinusoid_learners_rows,
    "instances": instances,
    "sampling": sampling,
    "peers": lambda: report.summary_table(report.load(RESULTS / "peers")),
    "fast_paths": fast_paths,
    "named_tasks": named_tasks,
    "memory_learners": memory_learners,
    "adaptation_conv4": lambda: adaptation_of("conv4"),
    "adaptation_mlp": lambda: adaptation_of("mlp"),
    "scaling": lambda: scaling.table(read("scaling")),
    "photographs": photographs,
    "shifts": shifts,
    "shifts_settings": shifts_settings,
    "amazon": amazon,
    "digits": lambda: digits("shallow"),
    "digits_networks": lambda: digits("networks"),
    "pretrained": pretrained,
    "gate": gate,
    "text_intents": lambda: text("intents"),
    "text_domains": lambda: text("domains"),
    **language_tables.TABLES,
    "pretrained_photographs": pretrained_photographs,
    "segmentation_emoji": lambda: segmentation("emoji"),
    "segmentation_cells": lambda: segmentation("cells"),
    "transferability_accuracy": transferability_accuracy,
    "transferability_scores": transferability_scores,
    "negative_transfer": negative_transfer,
    "fine_tuning": fine_tuning,
    "pulled": pulled,
    "heterogeneity": lambda: heterogeneity.table(read("heterogeneity")),
    **{f"questions_{part}": partial(questions_part, part) for part in questions.PARTS},
}


def markdown(name: str) -> str:
    """The table called ``name``."""
    found = TABLES[name]()
    return (found if isinstance(found, str) else markdown_table(found)).strip()
