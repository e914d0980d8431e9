"""Features computed once: what is kept, what is computed again, and what is refused."""

from __future__ import annotations

from hashlib import sha256

import pytest
import torch
from safetensors.torch import save as to_safetensors
from torch import nn

import quickstudy as qs
from made_up import random_classes
from quickstudy.backbones.pretrained import feature_cache as cache_module
from quickstudy.backbones.pretrained.source import PretrainedSource, digest_of, mark


class Counting(nn.Module):
    """Channel means, with a "pretrained" source; counts the rows that it computes."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.size, self.rows, self.features = size, 0, 3
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, images):
        self.rows += len(images)
        return images.mean((1, 2, 3))[:, None] * self.weight


def counting(size: int = 8) -> Counting:
    backbone = qs.frozen(Counting(size))
    mark(backbone, PretrainedSource("counting", digest_of(backbone), {"size": size}))
    return backbone


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    return tmp_path / "features"


@pytest.fixture
def rows() -> qs.LabelledRows:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return qs.LabelledRows.from_labels(images, ["a", "b", "c"] * 4)


def direct(rows: qs.LabelledRows) -> torch.Tensor:
    means = rows.inputs.double().div(255).mean((1, 2, 3))
    return means[:, None] * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_features_are_those_of_the_backbone_on_pixels_in_the_unit_range(rows, batch):
    found = qs.featurise(rows, counting(), batch=batch)
    assert found.names == rows.names
    assert torch.equal(found.counts, rows.counts)
    torch.testing.assert_close(found.inputs.double(), direct(rows), rtol=1e-5, atol=1e-6)


def test_each_picture_is_computed_once(rows):
    first, second, third = counting(), counting(), counting()
    features = qs.featurise(rows, first).inputs
    assert first.rows == 12
    assert torch.equal(qs.featurise(rows, second).inputs, features)
    assert second.rows == 0
    new = torch.full((1, 3, 8, 8), 7, dtype=torch.uint8)
    more = qs.LabelledRows.from_labels(torch.cat([new, rows.inputs[:3], new]), [*"abcde"])
    torch.testing.assert_close(
        qs.featurise(more, third).inputs.double(), direct(more), rtol=1e-5, atol=1e-6
    )
    assert third.rows == 1  # the new one, which stands there twice


def test_another_option_or_weight_has_features_of_its_own(rows, cache):
    qs.featurise(rows, counting())
    other = counting(size=9)
    qs.featurise(rows, other)
    assert other.rows == 12
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("change", ["weight", "size", "no source", "cache=False"])
def test_only_features_of_unchanged_sources_are_kept(rows, cache, change):
    backbone = counting()
    if change == "weight":
        with torch.no_grad():
            backbone.weight[0] = 5.0
    if change == "size":
        backbone.size = 9
    if change == "no source":
        mark(backbone, None)
    found = qs.featurise(rows, backbone, cache=change != "cache=False").inputs
    assert not cache.exists()
    torch.testing.assert_close(found[:, 1].double(), direct(rows)[:, 1], rtol=1e-5, atol=1e-6)
    assert (found[:, 0] > found[:, 1]).all() == (change == "weight")


@pytest.mark.parametrize("damage", ["shorter", "a bit", "empty", "other tensors"])
def test_damaged_files_are_computed_again(rows, cache, damage):
    features = qs.featurise(rows, counting()).inputs
    (file,) = cache.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "shorter":
        content = content[:-1]
    elif damage == "a bit":
        content[-1] ^= 1
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(to_safetensors({"rows": torch.zeros(3)}))
        file.unlink()
        file = file.with_name(f"{sha256(content).hexdigest()[:32]}.safetensors")
    file.write_bytes(content)
    backbone = counting()
    assert torch.equal(qs.featurise(rows, backbone).inputs, features)
    assert backbone.rows == 12
    qs.featurise(rows, again := counting())
    assert again.rows == 0


def test_many_files_are_joined_and_lose_nothing(rows, cache, monkeypatch):
    monkeypatch.setattr(cache_module, "_MOST_FILES", 3)
    for index in range(3):
        for row in range(4):
            one = qs.LabelledRows.from_labels(rows.rows(index)[row : row + 1], ["a"])
            qs.featurise(one, counting())
    assert len(list(cache.rglob("*.safetensors"))) <= 4
    qs.featurise(rows, backbone := counting())
    assert backbone.rows == 0


def test_no_cache_folder_is_no_error(rows, tmp_path, monkeypatch):
    (blocked := tmp_path / "a file").write_text("")
    monkeypatch.setenv("QUICKSTUDY_DATA", str(blocked))
    monkeypatch.setattr("quickstudy.datasets.cache.user_cache", lambda: blocked / "inside")
    found = qs.featurise(rows, counting()).inputs
    torch.testing.assert_close(found.double(), direct(rows), rtol=1e-5, atol=1e-6)


def test_an_interruption_keeps_what_was_computed(rows, monkeypatch):
    monkeypatch.setattr("quickstudy.backbones.pretrained.features._KEPT_AT_ONCE", 4)
    backbone = counting()
    forward = backbone.forward

    def interrupted(images):
        if backbone.rows >= 8:
            raise KeyboardInterrupt
        return forward(images)

    backbone.forward = interrupted
    with pytest.raises(KeyboardInterrupt):
        qs.featurise(rows, backbone, batch=2)
    qs.featurise(rows, rest := counting())
    assert rest.rows == 4


def test_data_sets_and_examples_are_featurised_too():
    data = qs.datasets.arrays(
        torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8), [i % 10 for i in range(60)]
    )
    found = qs.featurise(data, counting())
    assert found.train.inputs.shape == (len(data.train.inputs), 3)
    assert found.test.names == data.test.names
    support = qs.examples(data.train.inputs, torch.zeros(len(data.train.inputs), dtype=torch.long))
    rows = qs.featurise(support, counting())
    torch.testing.assert_close(rows.inputs, found.train.inputs)
    assert torch.equal(rows.weights, support.weights)


def test_a_tree_of_inputs_is_told_apart_by_every_leaf():
    class Text(nn.Module):
        features = 1

        def forward(self, inputs):
            return (inputs["ids"] * inputs["mask"]).sum(1, keepdim=True).float()

    ids = torch.tensor([[1, 2], [1, 2]])
    rows = qs.LabelledRows.from_labels(
        {"ids": ids, "mask": torch.tensor([[True, True], [True, False]])}, ["a", "b"]
    )
    assert qs.featurise(rows, qs.frozen(Text())).inputs.tolist() == [[3.0], [1.0]]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)), "found one in training mode"),
        (nn.Dropout(), "found one in training mode"),
        (qs.backbones.Conv4(norm="batch", in_channels=3).eval(), "depend on other inputs"),
        (qs.frozen(nn.Flatten(0)), "one row for each of 8 inputs; found torch.float32"),
    ],
)
def test_backbones_whose_features_change_are_refused(rows, backbone, message):
    with pytest.raises(ValueError, match=message):
        qs.featurise(rows, backbone)


def test_other_data_are_refused(rows):
    with pytest.raises(ValueError, match="found Tensor"):
        qs.featurise(rows.inputs, counting())
    with pytest.raises(ValueError, match="batch must be at least 1"):
        qs.featurise(random_classes(), counting(), batch=0)
    with pytest.raises(ValueError, match="at least 1 row; found none"):
        qs.featurise(rows.without_classes(), counting())
