"""Every door converts the same data in the same way, and refuses the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import clouds

PIXELS = np.random.RandomState(0).randint(0, 256, (4, 1, 16, 16))
IDS = [0, 1, 0, 1]
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Endless(torch.utils.data.Dataset[Any]):
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(3), 0


def adapted(inputs: Any = X, **options: Any) -> qs.Predictor:
    net = qs.backbones.MLP(3, **options)
    return qs.Prototypical(net)(qs.examples(inputs, IDS), qs.classification(2))


DOORS: dict[str, Callable[[Any], Any]] = {
    "examples": lambda x: qs.examples(x, IDS),
    "rows": lambda x: qs.LabelledRows.from_labels(x, IDS),
    "predictor": lambda x: adapted()(x),
    "learner": lambda x: qs.Prototypical(qs.backbones.MLP(3))(
        qs.Examples(x, torch.tensor(IDS), torch.ones(4), torch.zeros(4).long()),
        qs.classification(2),
    ),
    "estimator": lambda x: qs.FewShotClassifier().fit(x, IDS),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "odd",
    [torch.full((4, 3), torch.nan), X / 0, Endless(), [Endless()], {}, "rows", None, [[1], [2, 3]],
     torch.zeros(4, 3).to(torch.complex64), np.array([["a"] * 3] * 4)],
    ids=["nan", "inf", "dataset", "datasets", "empty", "text", "none", "ragged", "complex",
         "texts"],
)  # fmt: skip
def test_every_door_refuses(door: str, odd: Any) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        DOORS[door](odd)
    assert "RuntimeError" not in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.filterwarnings("ignore:The PyTorch API of")  # nested and masked tensors
def test_every_door_refuses_tensors_whose_values_it_would_not_see(door: str) -> None:
    nested = torch.nested.nested_tensor([X[:2], X[2:]])
    masked = torch.masked.masked_tensor(X, X > 0)
    for odd in (nested, masked):
        with pytest.raises(ValueError, match="must be dense tensors of real numbers; found a"):
            DOORS[door](odd)


@pytest.mark.parametrize("door", ["examples", "rows", "predictor", "learner"])
def test_no_whole_number_becomes_negative(door: str) -> None:
    large = np.full((4, 3), 2**63, dtype=np.uint64)
    for odd in (large, torch.from_numpy(large)):
        with pytest.raises(ValueError, match=r"must be integers below 2\^63"):
            DOORS[door](odd)


def test_estimators_read_any_order_and_type_of_reals() -> None:
    values = X.numpy()
    expected = qs.FewShotClassifier().fit(values, IDS).predict_proba(values)
    reversed_twice = values[::-1, ::-1].copy()[::-1, ::-1]
    for same in (
        reversed_twice,
        torch._neg_view(-X),
        X.to_sparse(),
        X.clone().requires_grad_(),
    ):
        found = qs.FewShotClassifier().fit(same, IDS).predict_proba(same)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    eighths = X.to(torch.float8_e4m3fn)
    assert qs.FewShotClassifier().fit(eighths, IDS).predict(eighths).shape == (4,)
    with pytest.raises(ValueError, match="must have values; found a tensor on the meta device"):
        qs.FewShotClassifier().fit(X.to("meta"), IDS)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16])
def test_integer_images_are_scaled_as_uint8_is(kind: type) -> None:
    pixels = PIXELS.astype(np.uint8)
    expected = qs.examples(pixels, IDS)
    found = qs.examples(PIXELS.astype(kind), IDS)
    assert torch.equal(found.inputs, expected.inputs)
    net = qs.backbones.Conv4(4, image_size=16)
    predictor = qs.Prototypical(net)(found, qs.classification(2))
    assert torch.equal(predictor(PIXELS.astype(kind)), predictor(expected.inputs))
    fitted = qs.FewShotClassifier(qs.Prototypical(net)).fit(pixels, IDS)
    again = fitted.predict_proba(PIXELS.astype(kind))
    np.testing.assert_array_equal(again, fitted.predict_proba(pixels))
    with pytest.raises(ValueError, match="pixels in 0…255; found inputs from 0 to 999"):
        qs.examples(np.where(PIXELS.max() == PIXELS, 999, PIXELS % 255 * 0), IDS)


def test_token_ids_stay_integers_at_every_door() -> None:
    ids = np.array([[16777217, 1], [2, 3], [4, 5], [6, 7]])
    seen = []

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(8, 3)

        def forward(self, given: Tensor) -> Tensor:
            seen.append(given)
            return self.table(given % 8).flatten(1)

    learner = qs.Prototypical(Reader())
    learner(qs.examples(ids, IDS), qs.classification(2))(ids)
    qs.FewShotClassifier(learner).fit(ids, IDS)
    rows = qs.LabelledRows.from_labels(ids, IDS)
    assert {each.dtype for each in [*seen, rows.inputs]} == {torch.int64}
    assert all(int(each.max()) == 16777217 for each in [*seen, rows.inputs])


@pytest.mark.parametrize("learner", [
    lambda: qs.LinearProbe(nn.Identity()),
    lambda: qs.ConditionalNeuralProcess(qs.backbones.MLP(3), size=8),
])  # fmt: skip
def test_targets_and_weights_get_the_type_of_the_inputs(learner: Any) -> None:
    rows = qs.examples(X, X[:, :1])
    mixed = rows._replace(targets=rows.targets.double(), weights=rows.weights.double())
    assert learner()(mixed, qs.regression())(X).dtype == torch.float32


def test_reals_get_the_type_of_the_learner() -> None:
    assert adapted().learner(qs.examples(X, IDS), qs.classification(2))(X.double()).dtype == X.dtype
    double = qs.Prototypical(qs.backbones.MLP(3)).double()
    assert double(qs.examples(X, IDS), qs.classification(2))(X.numpy()).dtype == torch.float64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", None, "a"], "1 of 4 labels are unknown"),
        (["a", "b", float("nan"), "a"], "unknown"),
        (np.array(["a", "b", np.nan, "a"]), "unknown"),
        ([0, 1, -1, 0], "unknown"),
        (torch.tensor([0.0, 1.0, torch.nan, 0.0]), "unknown"),
        ([0.5, 1.5, 0.5, 1.5], "real numbers, such as 0.5"),
        (Endless(), "data set or loader Endless|must be a list, an array or a tensor"),
        ([1, "a", 1, "a"], "of one type"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qs.LabelledRows.from_labels(X, labels)


@pytest.mark.parametrize("chosen", [[], [2], [-1], ["0"], [True], [0.0]])
def test_a_selection_names_classes_that_there_are(chosen: Any) -> None:
    with pytest.raises(ValueError, match=r"at least 1 class, each by its index 0 … 1"):
        qs.LabelledRows.from_labels(X, IDS).select(chosen)


class Tuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_backbone_that_gives_a_tuple_is_refused() -> None:
    for learner in (qs.Prototypical(Tuple()), qs.LinearProbe(Tuple())):
        with pytest.raises(ValueError, match=r"must give a tensor of features.*found tuple"):
            learner(qs.examples(X, IDS), qs.classification(2))
    with pytest.raises(ValueError, match="predict"):
        qs.MAML(nn.Sequential(nn.Linear(3, 2), Tuple()))(qs.examples(X, IDS), qs.classification(2))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.MSELoss(), r"must give one loss for each row.*found \(\)"),
        (lambda p, t: 1.0, "found float"),
        (lambda p, t: p @ t, "RuntimeError: .*Change the function"),
        (lambda p, t: (p > t).all(-1), "must give real numbers; found torch.bool"),
    ],
)
def test_odd_losses_are_refused(loss: Any, message: str) -> None:
    learner = qs.MAML(qs.backbones.MLP(3, outputs=2))
    with pytest.raises(ValueError, match=message):
        learner(qs.examples(X, X[:, :2]), qs.spec(2, loss))
    with pytest.raises(ValueError, match="Give an instance"):
        qs.spec(2, nn.MSELoss)


class WithoutRate(torch.optim.Optimizer):
    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})


class Spoiling(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.data.fill_(torch.nan)


def test_weights_that_the_last_step_spoils_are_refused() -> None:
    learner = qs.Prototypical(qs.backbones.MLP(4))
    with pytest.raises(ArithmeticError, match="weights became NaN or infinite in the last step"):
        qs.fit(learner, clouds(), 1, optimiser=lambda p: Spoiling(p, lr=0.1), progress=False)


@pytest.mark.parametrize(
    "optimiser",
    [
        torch.optim.LBFGS,
        torch.optim.SGD([nn.Parameter(X)], lr=1),
        "adam",
        lambda p: None,
        lambda: 0,
        lambda p: torch.optim.SGD(p, lr=float("nan")),
        lambda p: torch.optim.SGD(p, lr=float("inf")),
        WithoutRate,
    ],
)
def test_optimisers_that_cannot_train_are_refused(optimiser: Any) -> None:
    learner = qs.Prototypical(qs.backbones.MLP(4))
    with pytest.raises(ValueError, match="optimiser must"):
        qs.fit(learner, clouds(), 1, optimiser=optimiser, progress=False)


def test_predictions_that_are_not_finite_are_refused() -> None:
    learner = qs.MAML(qs.backbones.MLP(3, outputs=1), steps=5, rate=0.1)
    with pytest.raises(ValueError, match=r"predictions must be finite.*lower the rate"):
        learner(qs.examples(1e6 * X, X[:, :1]), qs.regression())(X)
