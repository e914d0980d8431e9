"""SimpleShot equals the paper's transformations and nearest centroid, written in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quickstudy as qs
from made_up import clouds, examples_of
from quickstudy.backbones import MLP
from quickstudy.testing import LAWS, check_learner

TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 2, -1])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
SPEC = qs.classification(4)


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1 + torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(**options: object) -> qs.SimpleShot:
    torch.manual_seed(0)
    backbone = qs.frozen(nn.Sequential(MLP(4, (6, 5)), nn.Linear(5, 5)).double())
    backbone.features = 5  # type: ignore[assignment]
    return qs.SimpleShot(backbone, **options)  # type: ignore[arg-type]


def features(learner: qs.SimpleShot, inputs: Tensor) -> np.ndarray:
    """The frozen network in numpy."""
    perceptron, last = learner.backbone  # type: ignore[misc]
    x = inputs.numpy()
    for layer in perceptron.layers:
        if isinstance(layer, nn.Linear):
            x = np.maximum(x @ layer.weight.numpy().T + layer.bias.numpy(), 0)
    return np.asarray(x @ last.weight.numpy().T + last.bias.numpy())


@pytest.mark.parametrize("transformation", ["UN", "L2N", "CL2N"])
def test_logits_equal_those_of_the_equations(transformation: str) -> None:
    centred = transformation == "CL2N"
    learner = made(normalise=transformation != "UN", centred=centred, scale=3.0)
    base, support, queries = numbers(3, 300, 4), numbers(1, 8, 4), numbers(2, 5, 4)
    if centred:
        assert learner.centre_on(base) is learner
    found = learner(examples_of(support, TARGETS, WEIGHTS), SPEC)(queries).numpy()
    m = features(learner, base).mean(0) if centred else 0

    def z(inputs: Tensor) -> np.ndarray:
        f = features(learner, inputs) - m
        return f if transformation == "UN" else f / np.linalg.norm(f, axis=1, keepdims=True)

    for k in range(3):
        of_class = (k == TARGETS).numpy()
        mean = np.average(z(support)[of_class], axis=0, weights=WEIGHTS.numpy()[of_class])
        expected = -3 * np.linalg.norm(z(queries) - mean, axis=1) ** 2
        np.testing.assert_allclose(found[:, k], expected, rtol=1e-10, atol=1e-12)
    assert (found[:, 3] < -1e20).all()


def test_the_centre_is_of_all_base_rows_and_is_saved(tmp_path: Path) -> None:
    """More rows than one call of the backbone takes, of classes of different sizes."""
    inputs = numbers(3, 300, 4)
    base = qs.LabelledRows(inputs, torch.tensor([10, 290]), ("few", "many"))
    learner = made(centred=True).centre_on(base)
    expected = features(learner, inputs.float().double()).mean(0)
    np.testing.assert_allclose(learner.centre, expected, rtol=1e-6)
    support = examples_of(numbers(1, 8, 4), TARGETS, WEIGHTS)
    path = qs.save(learner(support, SPEC), tmp_path / "centred.safetensors")
    loaded = qs.load(path, learner=made(centred=True))
    assert torch.equal(loaded.learner.centre, learner.centre)
    assert torch.equal(loaded(support.inputs), learner(support, SPEC)(support.inputs))


def test_centring_needs_a_centre_and_normalised_features() -> None:
    support = examples_of(numbers(1, 8, 4), TARGETS, WEIGHTS)
    with pytest.raises(ValueError, match=r"found none. Call centre_on"):
        made(centred=True)(support, SPEC)
    with pytest.raises(ValueError, match="centred=True needs normalise=True"):
        made(centred=True, normalise=False)
    with pytest.raises(ValueError, match="centre_on: needs SimpleShot"):
        made().centre_on(support.inputs)
    with pytest.raises(ValueError, match="normalises by statistics of a batch"):
        qs.SimpleShot(qs.backbones.Conv4(norm="batch"), centred=True).centre_on(support.inputs)


def test_dropout_is_off_while_the_centre_is_computed() -> None:
    backbone = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5))
    backbone.features = 5  # type: ignore[assignment]
    learner = qs.SimpleShot(backbone, centred=True).double().train().centre_on(numbers(3, 50, 4))
    expected = backbone[0](numbers(3, 50, 4)).mean(0)
    torch.testing.assert_close(learner.centre, expected)
    assert learner.training


def test_a_centred_learner_keeps_the_contract() -> None:
    torch.manual_seed(0)
    learner = qs.SimpleShot(MLP(4, (6, 6)), centred=True).double().eval()
    kept = check_learner(learner.centre_on(numbers(3, 50, 4)), clouds())
    assert set(kept) == set(LAWS)


def test_a_scale_must_be_positive() -> None:
    with pytest.raises(ValueError, match="scale must be positive; found -1"):
        made(scale=-1)
