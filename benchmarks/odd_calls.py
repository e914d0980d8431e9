"""Count what happens when learners are given odd data: an answer, a clear error, or neither.

Calls every learner through every door with data of odd types, shapes and values, drawn with a seed,
and counts raw errors (raised by torch or Python rather than by a check that explains the rule) and
silent NaN (predictions or rows that are not finite). Both should be 0.

    python benchmarks/odd_calls.py --calls 10000
"""

from __future__ import annotations

import argparse
import json
import linecache
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import quickstudy as qs
from quickstudy.answers import Classes
from quickstudy.base.trees import leaves
from quickstudy.contract.compare import BrokenLaw
from quickstudy.files.registry import LEARNERS, resolve
from quickstudy.interfaces.runs.assemble import make_learner
from quickstudy.interfaces.runs.recipe import Recipe
from quickstudy.training.fit import NonFiniteLoss

RESULT = Path(__file__).parent / "results" / "odd_calls.json"
WAYS, ROWS, SIZE, SIDE = 3, 6, 4, 16
SMALL: dict[str, dict[str, Any]] = {
    "reptile": {"test_steps": 3}, "snail": {"filters": 8}, "lstm_meta_learner": {"steps": 2},
    "mann": {"hidden": 8, "slots": 16, "width": 6}, "in_context": {"size": 8, "heads": 2},
    "conditional_neural_process": {"size": 8},
    "attentive_conditional_neural_process": {"size": 8, "heads": 2},
}  # fmt: skip


def learner_of(name: str, pictures: bool) -> qs.Learner:
    """A small learner of vectors (4,), or of pictures (1, 16, 16)."""
    recipe = Recipe(learner=name, backbone="conv4" if pictures else "mlp", channels=4, ways=WAYS,
                    train_ways=WAYS, shots=2, options=SMALL.get(name, {}))  # fmt: skip
    shape = (1, SIDE, SIDE) if pictures else (SIZE,)
    return make_learner(recipe, shape).eval()


def classifies(name: str) -> bool:
    """Whether the learner has tasks of classes, as these calls have."""
    return issubclass(Classes, resolve("learner", name, LEARNERS).answers)


class Endless(torch.utils.data.Dataset[Any]):
    """A data set without an end."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(SIZE), 0


class Wordy:
    """An object that is nothing like an array."""


class Odd:
    """Draws odd data."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numpy = np.random.default_rng(seed)

    def one_of(self, *values: Any) -> Any:
        """One of ``values``."""
        return self.random.choice(values)

    def rows(self, shape: tuple[int, ...]) -> Any:
        """Rows of about ``shape``, of any type, value and container."""
        if self.random.random() < 0.06:
            return self.no_data()
        array = self.values(self.odd_shape(shape) if self.random.random() < 0.25 else shape)
        return self.contained(self.typed(array))

    def no_data(self) -> Any:
        """What holds no numbers."""
        return self.one_of(
            None, "rows", b"rows", 3, 2.5, True, {}, [], (), {"a": []}, [None] * ROWS, Wordy(),
            [Wordy()], Endless(), [Endless()], torch.utils.data.DataLoader(Endless()), iter([1, 2]),
            range(ROWS), {1, 2}, np.array(["a"] * ROWS), np.array([None] * ROWS), nn.Linear(1, 1),
            [[1.0], [2.0, 3.0]], torch.zeros(ROWS, SIZE).to_sparse(), np.datetime64("2020-01-01"),
            torch.zeros(ROWS, SIZE, dtype=torch.complex64), [torch.zeros(2), torch.zeros(3)],
            np.ma.masked_array(np.ones((ROWS, SIZE)), mask=np.eye(ROWS, SIZE)), float, len,
        )  # fmt: skip

    def odd_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape near ``shape``."""
        n, *rest = shape
        return self.one_of(
            (), (n,), (0, *rest), (n + 1, *rest), (1, *rest), (n, *rest, 1), (n, 1, *rest), (n, 0),
            tuple(rest), (n, *(s + 1 for s in rest)), (n, *rest[:-1]), (n, *rest[::-1]), (2 * n,),
            (n, SIDE, SIDE), (n, 3, SIDE, SIDE), (n, SIDE, SIDE, 1), (n, SIZE), (n, 3, 2, 2),
        )  # fmt: skip

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """Ordinary, constant, tiny, huge, or not finite."""
        normal = self.numpy.standard_normal(shape)
        kind = self.one_of("normal", "normal", "pixels", "ids", "constant", "scaled", "spoilt")
        if kind == "pixels":
            return self.numpy.integers(0, 256, shape).astype(float)
        if kind == "ids":
            return self.numpy.integers(self.one_of(0, -1), WAYS + self.one_of(0, 1), shape) * 1.0
        if kind == "constant":
            return np.full(shape, self.one_of(0.0, 1.0, 255.0, -1.0, 1e6, 16777217.0))
        if kind == "scaled":
            return normal * self.one_of(1e-4, 1e-8, 1e-20, 1e-40, 1e3, 1e6, 1e12, 1e30, 1e300)
        spoilt, wrong = np.array(normal), self.one_of(np.nan, np.inf, -np.inf)
        if spoilt.size and shape:
            spoilt.flat[self.random.randrange(spoilt.size)] = wrong
        return spoilt

    def typed(self, array: np.ndarray) -> Any:
        """``array`` in one of numpy's or torch's types."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = self.one_of(
                "float32", "float32", "float64", "float16", "int64", "int32", "int16", "uint8",
                "bool", "uint16", "uint64", "longdouble", ">f4", "object", "complex64", "bfloat16",
            )  # fmt: skip
            if kind == "bfloat16":
                return torch.tensor(array).to(torch.bfloat16)
            return np.array(array).astype(kind)

    def contained(self, array: Any) -> Any:
        """As an array, a tensor, a list, a tuple, a tree, or something like an array."""
        if isinstance(array, Tensor):
            return array
        kind = self.one_of("array", "tensor", "tensor", "list", "tuple", "dict", "rows", "frozen")
        if kind == "tensor":
            try:
                return torch.from_numpy(array)
            except (TypeError, ValueError):  # a type that torch lacks
                return array
        if kind == "frozen":
            array.flags.writeable = False
        return {
            "array": lambda: array, "frozen": lambda: array, "list": array.tolist,
            "tuple": lambda: (array,), "dict": lambda: {"a": array},
            "rows": lambda: list(array) if array.ndim else [array],
        }[kind]()  # fmt: skip

    def targets(self, n: int) -> Any:
        """Class ids, or targets of other kinds."""
        if self.random.random() < 0.6:
            ids = np.arange(n) % WAYS
            return self.one_of(ids, ids.tolist(), torch.from_numpy(ids), ids.astype(np.int32))
        return self.one_of(
            self.rows((n,)), self.rows((n, 2)), np.full(n, -1), np.full(n, 7), np.zeros(n) + 0.5,
            np.zeros((n, 1)), np.full((n, 1), np.nan), np.arange(n) % 2 == 0, ["a"] * n, [None] * n,
        )  # fmt: skip

    def labels(self, n: int) -> Any:
        """Labels of a data set."""
        names = [f"class {i % 6}" for i in range(n)]
        return self.one_of(
            names, np.array(names), [i % 6 for i in range(n)], torch.arange(n) % 6,
            [*names[:-1], None], [*names[:-1], np.nan], np.array([*names[:-1], np.nan]),
            np.arange(n) * 0.7, np.arange(n) % 6 - 1, [1, "a"] * (n // 2), names[:-1],
            self.rows((n,)), tuple(names), np.array(names, dtype=object), np.arange(n) % 6 * 1.0,
        )  # fmt: skip

    def weights(self, n: int) -> Any:
        """Row weights."""
        if self.random.random() < 0.6:
            return None
        return self.one_of(
            np.ones(n), np.zeros(n), [1] * n, torch.full((n,), 2.0), -np.ones(n), np.ones(n + 1),
            np.full(n, np.nan), np.full(n, np.inf), 3, "heavy", np.full(n, 1e-30), np.full(n, 1e30),
            torch.ones(n, dtype=torch.float64), np.ones(n, dtype=int), self.rows((n,)), [],
        )  # fmt: skip

    def spec(self) -> Any:
        """The spec of a classification, or something else."""
        if self.random.random() < 0.7:
            return qs.classification(WAYS)
        return self.one_of(
            qs.regression(), qs.regression(2), qs.regression(1, missing=True), qs.multilabel(2),
            qs.classification(2), qs.classification(9), qs.segmentation(2), qs.detection(2),
            qs.tokens(5), qs.answers.Classes(3), 3, "classes", None, self.own_loss(),
        )  # fmt: skip

    def own_loss(self) -> Any:
        """A spec with an odd loss."""
        losses: list[Any] = [
            lambda p, t: (p - t).square(), lambda p, t: (p - t).square().mean(),
            lambda p, t: float((p - t).square().mean()), lambda p, t: None, lambda p, t: p,
            lambda p, t: (p > 0).all(-1), lambda p, t: (p - t).detach().square(), nn.MSELoss(),
            nn.MSELoss(reduction="none"), nn.CrossEntropyLoss(reduction="none"),
            lambda p, t: p @ t, lambda p, t: p["a"], lambda p: p, lambda p, t: (p - t).log(),
            lambda p, t: (p / 0).mean(-1), lambda p, t: [1.0] * len(p), lambda p, t: p.argmax(-1),
        ]  # fmt: skip
        return qs.spec(self.one_of(1, 2, WAYS), self.random.choice(losses))


Call = Callable[[], Any]
Door = Callable[[Odd], Call]


def to_examples(odd: Odd) -> Call:
    """``qs.examples``."""
    given = (
        odd.rows((ROWS, SIZE)),
        odd.targets(ROWS),
        odd.weights(ROWS),
        odd.one_of(None, None, [0]),
    )
    return lambda: qs.examples(*given)[0::2]  # inputs and weights; targets may be unknown


def to_rows(odd: Odd) -> Call:
    """``LabelledRows``, and what it is made of."""
    shape = odd.one_of((12, SIZE), (12, 1, 8, 8))
    inputs, labels = odd.rows(shape), odd.labels(12)
    counts = odd.one_of([2] * 6, torch.tensor([12]), [6.0, 6.0], [0, 12], "many", [], None, [5, 5])
    names = odd.one_of([f"c{i}" for i in range(6)], ("a",), "ab", ["a", "a"], [])
    chosen = odd.one_of([], [0, 1], [9], ["a"], torch.tensor([0]), [-1], [True], [0, 0], range(2))
    return odd.one_of(
        lambda: qs.LabelledRows(inputs, counts, names).inputs,
        lambda: qs.LabelledRows.from_labels(inputs, labels).inputs,
        lambda: qs.datasets.arrays(inputs, labels).train.inputs,
        lambda: qs.LabelledRows.from_labels(np.ones((4, 2)), [0, 0, 1, 1]).select(chosen).inputs,
        lambda: (
            qs.episodes(qs.LabelledRows.from_labels(inputs, labels), 2, 1, 1)(
                torch.Generator().manual_seed(0)
            ).support.inputs
        ),
    )


def good_support(pictures: bool) -> qs.Examples:
    """An ordinary support set."""
    shape = (ROWS, 1, SIDE, SIDE) if pictures else (ROWS, SIZE)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return qs.examples(inputs, torch.arange(ROWS) % WAYS)


def to_learner(name: str) -> Door:
    """``learner(support, spec)`` with support sets of ``qs.examples`` or made by hand."""

    def door(odd: Odd) -> Call:
        pictures = odd.random.random() < 0.2
        learner, good = learner_of(name, pictures), good_support(pictures)
        spec, given = odd.spec(), odd.rows(tuple(good.inputs.shape))
        targets, weights = odd.targets(ROWS), odd.weights(ROWS)

        def call() -> Any:
            by_hand = qs.Examples(
                given, targets, good.weights if weights is None else weights, good.groups
            )
            support = odd.one_of(by_hand, by_hand, good, given)
            if odd.random.random() < 0.5:
                support = qs.examples(given, targets, weights)
            return learner(support, spec)(good.inputs)

        return call

    return door


def to_predictor(name: str) -> Door:
    """``predictor(inputs, weights)``."""

    def door(odd: Odd) -> Call:
        pictures = odd.random.random() < 0.2
        good = good_support(pictures)
        predictor = learner_of(name, pictures)(good, qs.classification(WAYS))
        inputs, weights = odd.rows(tuple(good.inputs.shape)), odd.weights(ROWS)
        return lambda: predictor(inputs, weights)

    return door


def to_estimator(name: str) -> Door:
    """``FewShotClassifier(learner).fit(X, y).predict_proba(X)``."""

    def door(odd: Odd) -> Call:
        pictures = odd.random.random() < 0.2
        shape = tuple(good_support(pictures).inputs.shape)
        given = odd.one_of(None, name, learner_of(name, pictures), "no such learner", 3)
        X, y, weights, more = (
            odd.rows(shape), odd.targets(ROWS), odd.weights(ROWS), odd.rows(shape),
        )  # fmt: skip

        def call() -> Any:
            model = qs.FewShotClassifier(given).fit(X, y, sample_weight=weights)
            return [model.predict_proba(X), model.predict_proba(more)]

        return call

    return door


def to_fit(odd: Odd) -> Call:
    """``fit`` and ``evaluate`` with odd arguments, tasks and losses."""
    good, spec = good_support(False), odd.spec()
    given, targets = odd.rows((ROWS, SIZE)), odd.targets(ROWS)
    by_hand = qs.Examples(given, targets, good.weights, good.groups)
    support = odd.one_of(good, good, by_hand)
    parameters = [nn.Parameter(torch.zeros(1))]
    source = odd.one_of(
        *[lambda _: qs.Task(support, odd.one_of(support, good), spec)] * 6, None, [], good,
        lambda _: None, lambda _: qs.Task(given, good, spec), lambda: good, Endless(),
    )  # fmt: skip
    arguments = odd.one_of(
        *[{}] * 6, {"steps": 0}, {"steps": "2"}, {"steps": 2.5}, {"tasks_per_step": 0},
        {"tasks_per_step": None}, {"optimiser": torch.optim.LBFGS}, {"optimiser": "adam"},
        {"optimiser": torch.optim.Adam(parameters)}, {"optimiser": lambda p: None},
        {"optimiser": torch.optim.Adam}, {"optimiser": torch.optim.SGD}, {"schedule": 0.1},
        {"objective": "loss"}, {"combine": "mean"}, {"validation": source}, {"seed": "0"},
        {"seed": 1.5}, {"compute": "vmap"}, {"checkpoint_every": 0}, {"log_every": 0},
        {"schedule": lambda share: None}, {"objective": lambda learner, task: None},
        {"optimiser": torch.optim.LBFGS}, {"optimiser": nn.Linear(1, 1)}, {"seed": -1},
    )  # fmt: skip
    name = odd.one_of(
        "prototypical", "maml", "linear_probe", "mann", "attentive_conditional_neural_process"
    )
    learner = odd.one_of(*[learner_of(name, False)] * 8, nn.Linear(2, 2), None, tupled())
    settings = {"steps": 1, "tasks_per_step": 2, "progress": False, **arguments}
    return odd.one_of(
        lambda: [list(r.values()) for r in qs.fit(learner, source, **settings).rows],
        lambda: [row.mean for row in qs.evaluate(learner, source, 2).rows],
    )


class Tuple(nn.Module):
    """A backbone that gives a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """The inputs, and nothing."""
        return x, None


def tupled() -> qs.Learner:
    """A learner whose backbone gives a tuple."""
    return qs.Prototypical(nn.Sequential(nn.Linear(SIZE, 5), Tuple()))


def doors() -> Iterator[tuple[str, Door, int]]:
    """Every door with its name and its share of the calls."""
    yield "examples", to_examples, 20
    yield "rows", to_rows, 20
    yield "fit and evaluate", to_fit, 5
    for name in filter(classifies, LEARNERS):
        yield f"{name}: learner", to_learner(name), 3
        yield f"{name}: predictor", to_predictor(name), 3
        yield f"{name}: estimator", to_estimator(name), 1


def judge(call: Call) -> tuple[str, str]:
    """ "answered", "refused", "raw" or "silent", and what was found."""
    try:
        found = call()
    except (ValueError, TypeError, BrokenLaw, NonFiniteLoss, FileExistsError) as error:
        return ("refused" if _explains(error) else "raw"), f"{type(error).__name__}: {error}"
    except Exception as error:
        return "raw", f"{type(error).__name__}: {error}"
    return ("answered" if _is_finite(found) else "silent"), ""


def _explains(error: BaseException) -> bool:
    """Whether a check of ours, or of scikit-learn, raised it."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    assert last is not None
    file = last.tb_frame.f_code.co_filename
    lines = "".join(linecache.getline(file, last.tb_lineno - i) for i in range(3))
    return ("quickstudy" in file or "sklearn" in file) and "raise" in lines


def _is_finite(found: Any) -> bool:
    numbers = [torch.as_tensor(leaf) for leaf in leaves(found) if not isinstance(leaf, str)]
    return all(bool(each.double().isfinite().all()) for each in numbers)


def count(calls: int, seed: int) -> dict[str, Any]:
    """The numbers of outcomes of ``calls`` calls, and examples of those that should not be."""
    warnings.simplefilter("ignore")
    torch.manual_seed(seed)
    names, makers, shares = zip(*doors(), strict=True)
    chooser = random.Random(seed)
    outcomes: Counter[str] = Counter()
    by_door: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    for number in range(calls):
        (which,) = chooser.choices(range(len(names)), shares)
        outcome, found = judge(makers[which](Odd(seed + number)))
        outcomes[outcome] += 1
        by_door[names[which].split(": ")[-1]] += 1
        if outcome in ("raw", "silent"):
            wrong.setdefault(f"{names[which]}, {outcome}: {found[:160]}", f"call {number}")
    return {
        "calls": calls, "seed": seed, "answered": outcomes["answered"],
        "refused": outcomes["refused"], "raw errors": outcomes["raw"],
        "silent": outcomes["silent"], "calls by door": dict(sorted(by_door.items())),
        "wrong": wrong,
    }  # fmt: skip


def main() -> None:
    """Count, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = count(given.calls, given.seed)
    print(json.dumps(result, indent=1))
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(bool(result["wrong"]))


if __name__ == "__main__":
    main()
