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


def test_unknown_name_gets_the_nearest():
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


@pytest.mark.parametrize("name", CARDS)
def test_loader_takes_exactly_the_options_of_its_card(name):
    import inspect

    module, function = CARDS[name].loader.split(":")
    loader = getattr(__import__(module, fromlist=[function]), function)
    assert set(inspect.signature(loader).parameters) - {"root"} == CARDS[name].options


def test_an_option_that_does_not_apply_is_refused():
    with pytest.raises(ValueError, match=r"glyphs does not take rotations, size.*no options"):
        datasets.load("glyphs", rotations=True, size=28)
    with pytest.raises(ValueError, match="omniglot does not take strict"):
        datasets.load("omniglot", strict=True)


def test_attributes_arrive_late_and_unknown_ones_not_at_all():
    assert datasets.folder.__name__ == "folder"
    assert datasets.arrays.__name__ == "arrays"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = datasets.nothing
