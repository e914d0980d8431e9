import importlib
import re
import subprocess
import sys

import pytest

from quickstudy import datasets
from quickstudy.datasets.registry import CARDS, card


def test_listing_imports_neither_torch_nor_numpy():
    code = (
        "import sys; from quickstudy.datasets import registry; "
        "import quickstudy.datasets as d; d.card('glyphs'); "
        "print(sorted({'torch', 'numpy', 'PIL', 'pooch', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'omniglot'"):
        card("omnigloth")
    with pytest.raises(ValueError, match="Did you mean 'mini_imagenet'"):
        datasets.load("mini-imagnet")


@pytest.mark.parametrize("name", CARDS)
def test_every_card_is_complete(name):
    found = CARDS[name]
    assert found.licence
    assert found.citation
    assert found.summary
    module, function = found.loader.split(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.downloads])
def test_downloads_have_the_checksums_of_the_card(name):
    lengths = {"md5": 32, "sha256": 64}
    for stated in CARDS[name].checksum:
        assert re.fullmatch(f"[0-9a-f]{{{lengths[stated.algorithm]}}}", stated.digest)
        assert str(stated) == f"{stated.what} {stated.algorithm}:{stated.digest}"
    assert any(stated.algorithm == "sha256" for stated in CARDS[name].checksum)
    assert any(
        stated.what.endswith((".zip", ".tar.gz", ".json")) for stated in CARDS[name].checksum
    )


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("omniglot", "images_background.zip"),
        ("cifar_fs", "cifar-100-binary.tar.gz"),
        ("caltech101", "caltech-101.zip"),
    ],
)
def test_downloads_are_verified_by_the_card(name, first, tmp_path, monkeypatch):
    """The stand-in for the download records the request, and fails as a network does."""
    requested = {}

    def fetch(url, folder, known_hash):
        requested[url.rsplit("/", 1)[-1]] = known_hash
        raise OSError("no network")

    module = importlib.import_module(CARDS[name].loader.split(":")[0])
    monkeypatch.setattr(module, "fetch", fetch)
    with pytest.raises(OSError, match="no network"):
        datasets.load(name, tmp_path)
    stated = {s.what: f"{s.algorithm}:{s.digest}" for s in CARDS[name].checksum}
    assert requested == {first: stated[first]}


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if not card.application])
def test_loader_takes_exactly_the_options_of_its_card(name):
    import inspect

    module, function = CARDS[name].loader.split(":")
    loader = getattr(__import__(module, fromlist=[function]), function)
    assert set(inspect.signature(loader).parameters) - {"root"} == CARDS[name].options


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.named_tasks])
def test_the_loader_of_named_tasks_takes_the_parts_of_its_card(name):
    import inspect

    module, function = CARDS[name].named_tasks.split(":")
    loader = getattr(__import__(module, fromlist=[function]), function)
    assert ("part" in inspect.signature(loader).parameters) == bool(CARDS[name].parts)


def test_an_option_that_does_not_apply_is_refused():
    with pytest.raises(ValueError, match=r"glyphs does not take rotations, size.*no options"):
        datasets.load("glyphs", rotations=True, size=28)
    with pytest.raises(ValueError, match="omniglot does not take strict"):
        datasets.load("omniglot", strict=True)


def test_attributes_are_imported_lazily():
    assert datasets.folder.__name__ == "folder"
    assert datasets.arrays.__name__ == "arrays"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = datasets.nothing
