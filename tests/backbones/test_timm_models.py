"""``timm:NAME`` with a stand-in for the package timm: download on request, cache, hash, errors."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import quickstudy as qs
from quickstudy.backbones.pretrained.source import unchanged

NAME = "timm:tiny.a1_in1k"


class Tiny(nn.Module):
    """Three features; reads 16 pixels alone if it is ``strict``, as vision transformers do."""

    def __init__(self, strict: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.num_features, self.strict = 3, strict

    def forward(self, x):
        if self.strict and x.shape[-1] != 16:
            raise AssertionError("Input height (20) doesn't match model (16).")
        return self.norm(self.conv(x)).mean((2, 3))


class Timm(SimpleNamespace):
    """Counts downloads; ``offline`` fails them, and ``published`` is the seed of the weights."""

    def __init__(self) -> None:
        self.downloads, self.offline, self.published, self.channels = 0, False, 0, 3
        self.data = SimpleNamespace(resolve_data_config=self.form)

    def create_model(self, name, pretrained, num_classes):
        assert num_classes == 0
        if not name.startswith("tiny"):
            raise RuntimeError(f"Unknown model ({name})")
        if pretrained:
            if self.offline:
                raise OSError("no network")
            self.downloads += 1
            torch.manual_seed(self.published)
        return Tiny(strict="strict" in name)

    def form(self, args, model):
        return {
            "input_size": (self.channels, 16, 16), "interpolation": "bilinear",
            "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "crop_pct": 0.875,
        }  # fmt: skip


@pytest.fixture
def timm(tmp_path, monkeypatch) -> Timm:
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "timm", timm := Timm())
    return timm


def test_weights_are_fetched_on_request_alone_and_once(timm):
    with pytest.raises(FileNotFoundError, match="download=True"):
        qs.pretrained(NAME)
    assert timm.downloads == 0
    first = qs.pretrained(NAME, download=True)
    timm.offline = True
    again = qs.pretrained(NAME)
    assert timm.downloads == 1
    assert again.pretrained_source == first.pretrained_source
    assert again.pretrained_source.options == {"size": 16}
    assert unchanged(again)


def test_pictures_are_prepared_as_timm_says(timm):
    backbone = qs.pretrained(NAME, download=True).double()
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]))
    prepared = ((images.movedim(1, -1) - mean) / std).movedim(-1, 1)
    torch.testing.assert_close(backbone(images), backbone.model(prepared), rtol=1e-6, atol=1e-6)
    assert backbone(images[:, :1, :9]).shape == (2, 3)
    assert backbone.features == 3


def test_norms_keep_their_statistics_where_the_weights_are_trained(timm):
    backbone = qs.pretrained(NAME, download=True, frozen=False).train()
    images = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(backbone(images)[:1], backbone(images[:1]))
    backbone(images).sum().backward()
    assert backbone.model.conv.weight.grad is not None


def test_a_damaged_copy_is_fetched_again_and_must_be_the_same(timm, tmp_path):
    qs.pretrained(NAME, download=True)
    (kept,) = (tmp_path / "pretrained").glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    with pytest.raises(FileNotFoundError, match="not in the cache"):
        qs.pretrained(NAME)
    qs.pretrained(NAME, download=True)
    assert timm.downloads == 2
    kept.unlink()
    timm.published = 1
    with pytest.raises(ValueError, match="those of the first download"):
        qs.pretrained(NAME, download=True)
    assert not kept.exists()


def test_what_timm_or_the_network_refuses_is_an_error_of_ours(timm):
    timm.offline = True
    with pytest.raises(OSError, match=r"download of its weights failed .OSError: no network"):
        qs.pretrained(NAME, download=True)
    with pytest.raises(ValueError, match=r"timm cannot make this model .Unknown model"):
        qs.pretrained("timm:giant", download=True)
    with pytest.raises(ValueError, match="must name a model of timm"):
        qs.pretrained("timm:hf_hub:someone/model", download=True)
    with pytest.raises(ValueError, match="does not take head"):
        qs.pretrained(NAME, head=True)


def test_models_of_one_size_or_of_other_channels_are_refused(timm):
    qs.pretrained("timm:tiny_strict", download=True)
    with pytest.raises(ValueError, match=r"does not read pictures of 20 pixels.*own size is 16"):
        qs.pretrained("timm:tiny_strict", size=20)
    timm.channels = 1
    with pytest.raises(ValueError, match="3 channels; found 1"):
        qs.pretrained(NAME, download=True)


def test_without_timm_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        qs.pretrained(NAME)


def test_the_hash_is_kept_beside_the_weights(timm, tmp_path):
    qs.pretrained(NAME, download=True)
    (record,) = (tmp_path / "pretrained").glob("*.json")
    assert len(json.loads(record.read_text())["digest"]) == 64
