"""Four made-up shifts of two classes in the plane, by the protocol of skada's published benchmark.

    python benchmarks/shifts.py                    # all methods, some minutes of CPU time
    python benchmarks/shifts.py CORAL --seeds 1    # one method, one seed
    python benchmarks/shifts.py --table            # print the results

``skada.datasets.make_shifted_datasets`` with 800 rows a side (2,400 for subspace) and the noise of
skada-bench; 5 seeds, each split 5 times by ``StratifiedDomainShuffleSplit(5, test_size=0.2,
random_state=0)``. A learner adapts to the labelled source rows and the unlabelled target rows of
the training part, on top of a plain ``SVC()``, and is scored on the target rows of the test part.

Where a method has settings, they are chosen on 5 further splits of the training part, in two ways:
by the labels of the target (what could be reached; nobody has them), and by circular validation
(which reads none). Results, with the score of every split, go to results/shifts.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.base.atomic import write_atomically
from quickstudy.core import Examples, Learner, TaskSpec
from quickstudy.interfaces.runs.provenance import commit
from quickstudy.learners.domains.criteria import circular_validation
from quickstudy.learners.domains.density_ratios import KLIEP, KMM
from quickstudy.reports.tables import markdown_table

RESULTS = Path(__file__).parent / "results" / "shifts.json"
SPEC = qs.classification(2)
SHIFTS = {
    "covariate_shift": (1, 0.6),
    "target_shift": (1, 0.8),
    "conditional_shift": (1, 0.8),
    "subspace": (3, 0.4),
}
"""For each shift, hundreds of rows in each of 8 clusters, and the standard deviation of noise."""


def svm() -> Learner:
    """scikit-learn's plain ``SVC()``, at its own tolerance."""
    return qs.SVM(nn.Identity(), tol=1e-3)


def raw() -> nn.Module:
    """The two columns as they are."""
    return nn.Identity()


class SkadaTCA:
    """skada's own pipeline, on rows in a random order, as in its benchmark."""

    def __init__(self, components: int, mu: float) -> None:
        self.components, self.mu = components, mu

    def adapt(self, support: Examples, spec: TaskSpec) -> Any:
        """The fitted pipeline, or the only class."""
        from skada import TransferComponentAnalysis
        from sklearn.svm import SVC

        order = np.random.RandomState(0).permutation(len(support.weights))
        rows = at(support, order)
        domain = np.where(rows.groups == 0, -2, 1)
        seen = rows.targets[rows.groups > 0].unique()
        if len(seen) == 1:  # on the way back of circular validation; SVC refuses a single class
            return int(seen)
        pipeline = TransferComponentAnalysis(SVC(), n_components=self.components, mu=self.mu)
        return pipeline.fit(rows.inputs.numpy(), rows.targets.numpy(), sample_domain=domain)

    def predict(self, state: Any, inputs: Tensor, spec: TaskSpec) -> Tensor:
        """The predicted classes, one-hot (n, classes)."""
        if isinstance(state, int):
            ids = torch.full((len(inputs),), state)
        else:
            domain = np.full(len(inputs), -2)
            ids = torch.from_numpy(state.predict(inputs.numpy(), sample_domain=domain))
        return nn.functional.one_hot(ids, spec.outputs)


Method = Sequence[Callable[[], Any]]
"""One function for each setting."""

Found = dict[str, dict[str, list[float]]]
"""Scores by way of choosing and shift, one for each split."""

REGULARISATIONS = (1e-8, 1e-6, 0.1, 1.0, 10.0)
METHODS: dict[str, Method] = {
    "source only": [svm],
    "KLIEP": [
        lambda g=g: qs.Reweighted(svm(), KLIEP(gammas=(g,)))
        for g in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
    ],
    "KMM": [lambda g=g: qs.Reweighted(svm(), KMM(gamma=g)) for g in (0.1, 1.0, 10.0)],
    "CORAL": [lambda c=c: qs.CORAL(raw(), svm(), centred=c) for c in (True, False)],
    "subspace alignment": [
        lambda k=k: qs.SubspaceAlignment(raw(), svm(), components=k) for k in (1, 2)
    ],
    "TCA": [
        lambda k=k, mu=mu: qs.TCA(raw(), svm(), components=k, mu=mu)
        for k in (1, 2, 5, 10, 20, 50, 100) for mu in (0.01, 0.1)
    ],
    "linear transport": [
        lambda r=r, c=c: qs.LinearTransport(raw(), svm(), regularisation=r, centred=c)
        for r in REGULARISATIONS for c in (True, False)
    ],
    "TCA of skada 0.6": [
        lambda k=k, mu=mu: SkadaTCA(k, mu) for k in (1, 2, 5, 10, 20, 50, 100) for mu in (10, 100)
    ],
}  # fmt: skip
"""The settings of each method: those of skada's benchmark, where it has the method."""

FEWER_ROWS = {"TCA": 200, "TCA of skada 0.6": 200}
"""Rows of both sides together that a method adapts to, as in skada's benchmark."""


class Split(NamedTuple):
    """Rows to adapt to, with and without the labels of the target, and target rows to predict."""

    support: Examples
    labels: Tensor
    query: Examples


def splits(shift: str, seed: int) -> Iterator[Split]:
    """The 5 splits of one data set."""
    from skada.datasets import make_shifted_datasets

    hundreds, noise = SHIFTS[shift]
    inputs, labels, domain = make_shifted_datasets(
        100 * hundreds, 100 * hundreds, shift=shift, noise=noise, label="binary",
        center_cov_shift=(-0.4, 3), random_state=seed,
    )  # fmt: skip
    for train, test in _shuffled(inputs, labels, domain):
        of_target = test[domain[test] < 0]
        hidden = np.where(domain > 0, labels, -1)
        yield Split(
            _examples(inputs[train], hidden[train], domain[train]),
            torch.from_numpy(labels[train]),
            _examples(inputs[of_target], labels[of_target], domain[of_target]),
        )


def _shuffled(inputs: Any, labels: Any, domain: Any) -> Iterator[tuple[Any, Any]]:
    from skada.model_selection import StratifiedDomainShuffleSplit

    cut = StratifiedDomainShuffleSplit(5, test_size=0.2, random_state=0)
    yield from cut.split(inputs, labels, domain)


def _examples(inputs: Any, labels: Any, domain: Any) -> Examples:
    return Examples(
        torch.from_numpy(inputs), torch.from_numpy(labels).long(),
        torch.ones(len(labels), dtype=torch.float64), torch.from_numpy(np.where(domain > 0, 1, 0)),
    )  # fmt: skip


def accuracy(learner: Learner, support: Examples, query: Examples) -> float:
    """The share of target rows that are predicted right."""
    state = learner.adapt(support, SPEC)
    predicted = learner.predict(state, query.inputs, SPEC).argmax(-1)
    return float((predicted == query.targets).double().mean())


def at(rows: Examples, which: Any) -> Examples:
    return Examples(*(leaf[torch.as_tensor(which)] for leaf in rows))


def fewer(rows: Examples, most: int | None) -> Examples:
    """At most so many rows, the same share of each side, by a fixed seed."""
    if most is None or most >= len(rows.weights):
        return rows
    order = torch.randperm(len(rows.weights), generator=torch.Generator().manual_seed(0))
    sides = [order[rows.groups[order] == side] for side in (0, 1)]
    return at(rows, torch.cat([side[: round(most * len(side) / len(order))] for side in sides]))


def scores(name: str, split: Split) -> dict[str, float]:
    """The score of one method on one split, by the way in which its settings are chosen."""
    settings, most = METHODS[name], FEWER_ROWS.get(name)
    chosen = {"target labels": 0, "circular validation": 0}
    if len(settings) > 1:
        found: dict[str, list[list[float]]] = {way: [] for way in chosen}
        s = split.support
        inner = _shuffled(s.inputs.numpy(), s.targets.numpy(), np.where(s.groups == 0, -2, 1))
        for fitted, held in inner:
            train, rest = fewer(at(s, fitted), most), at(s, held)
            known = rest._replace(targets=split.labels[held])
            target = at(known, known.groups == 0)
            found["target labels"].append([accuracy(m(), train, target) for m in settings])
            found["circular validation"].append(
                [circular_validation(m(), train, rest, SPEC) for m in settings]
            )
        chosen = {way: int(np.mean(each, 0).argmax()) for way, each in found.items()}
    support = fewer(split.support, most)
    by_setting = {
        k: accuracy(settings[k](), support, split.query) for k in sorted(set(chosen.values()))
    }
    return {way: by_setting[k] for way, k in chosen.items()}


def target_only(split: Split) -> float:
    """An SVM fitted to the target's own labels, which no method has."""
    own = split.support.groups == 0
    labelled = at(split.support._replace(targets=split.labels), own)
    return accuracy(svm(), labelled, split.query)


def measure(name: str, seed: int, found: Found) -> None:
    """Add the scores of one method for one seed, on all shifts, to ``found``."""
    for shift in SHIFTS:
        for split in splits(shift, seed):
            by_way = (
                {"target labels": target_only(split)} if name == "target only"
                else scores(name, split)
            )  # fmt: skip
            for way, score in by_way.items():
                found.setdefault(way, {}).setdefault(shift, []).append(score)


def table(results: dict[str, Found]) -> str:
    """Accuracies in percent, with standard errors over splits."""
    return markdown_table([
        {"method": name, "settings by": way if len(METHODS.get(name, ())) > 1 else "–"}
        | {shift: shown(values) for shift, values in by_shift.items()}
        | {"splits": len(next(iter(by_shift.values())))}
        for name, by_way in results.items()
        for way, by_shift in by_way.items()
        if len(METHODS.get(name, ())) > 1 or way == "target labels"
    ])  # fmt: skip


def shown(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{100 * statistics.mean(values):.1f} ± {100 * error:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help="by default all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="print the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    saved = json.loads(options.results.read_text()) if options.results.exists() else {}
    results: dict[str, Found] = saved.get("results", {})
    if not options.table:
        warnings.filterwarnings("ignore", module="(skada|ot|sklearn).*")
        for name in options.methods or [*METHODS, "target only"]:
            found = results[name] = {}
            for seed in range(options.seeds):  # saved seed by seed
                measure(name, seed, found)
                about = {"commit": commit(), "results": results}
                write_atomically(options.results, json.dumps(about, indent=1).encode())
    print(table(results))


if __name__ == "__main__":
    main()
