"""Every application has a class, a page and a row, and its names are its own."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from quickstudy.answers import Answer
from quickstudy.applications import listing, registry
from quickstudy.applications.application import Application
from quickstudy.datasets.registry import CARDS as DATASETS
from quickstudy.interfaces.application_runs.made import application_class, make_application

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", registry.CARDS)
def test_the_class_on_a_card_is_an_application_whose_options_all_have_defaults(name):
    cls = application_class(name)
    assert issubclass(cls, Application)
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert cls.name == name
    assert len(set(cls.learners)) == len(cls.learners) > 0
    assert all(p.default is not p.empty for p in inspect.signature(cls).parameters.values())
    assert make_application(name, {}) == cls()


@pytest.mark.parametrize("name", registry.CARDS)
def test_data_name_a_data_set_with_a_licence_and_no_one_of_another_use(name):
    card = registry.CARDS[name]
    for data in card.data.values():
        assert data.dataset in DATASETS, f"{data.name}: name the data set with the licence"
    assert card.names
    if card.own:
        assert name not in DATASETS
        assert name not in card.data


def test_a_name_belongs_to_one_application():
    names = [name for card in registry.CARDS.values() for name in card.names]
    assert len(names) == len(set(names))
    assert registry.DATA.keys() == set(names)


def test_the_application_that_a_data_set_names_is_one_that_reads_it():
    for name, dataset in DATASETS.items():
        if dataset.application:
            used = registry.card(dataset.application).data.values()
            assert name in [data.dataset for data in used]


def test_cards_name_kinds_of_answers():
    kinds = {cls.kind for cls in _subclasses(Answer) if hasattr(cls, "kind")}
    assert {card.answer for card in registry.CARDS.values()} <= kinds


def _subclasses(cls: type) -> set[type]:
    direct = set(cls.__subclasses__())
    return direct.union(*map(_subclasses, direct)) if direct else set()


@pytest.mark.parametrize("name", registry.CARDS)
def test_every_application_has_a_page_that_begins_with_one_command(name):
    page = (ROOT / "docs" / "applications" / f"{name}.md").read_text()
    before, _, rest = page.partition("```")
    assert rest.partition("```")[0].count("quickstudy run --data") >= 1
    assert "## " not in before


def test_the_index_lists_all_applications():
    found = (ROOT / listing.INDEX).read_text()
    assert found == listing.listed(ROOT), f"run {listing.COMMAND}"


def test_a_wrong_card_names_its_file(tmp_path):
    path = tmp_path / "odd.toml"
    path.write_text('class = "Odd"\ntitle = "Odd"\ncolour = "red"\n')
    with pytest.raises(ValueError, match=r"odd\.toml: a card needs the fields of Card"):
        registry.read_card(path)
    with pytest.raises(ValueError, match="'segmentaton' is unknown"):
        registry.card("segmentaton")
