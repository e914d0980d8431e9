"""Cards agree with their learners; invalid ones are refused; lists of learners come from them."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import quickstudy as qs
from quickstudy.core import Learner
from quickstudy.files.registry import resolve
from quickstudy.interfaces.runs.assemble import make_learner
from quickstudy.interfaces.runs.recipe import OPTIMISERS, Recipe, read_recipe
from quickstudy.learners.cards import FAMILIES, Card, Range, Space, cards, read_card, read_cards
from quickstudy.learners.listing import COMMAND, listings
from quickstudy.training import optimisers

CHECKOUT = Path(__file__).parents[2]

CARD = """
class = "Nearest"
title = "Nearest neighbour"
year = 1967
authors = "Cover and Hart"
learns = "a feature space"
published_inductively = "-"

[training]
steps = 10
tasks_per_step = 1
"""
ALL = pytest.mark.parametrize("card", cards().values(), ids=lambda card: card.name)


def write(folder: Path, text: str, name: str = "metric/nearest.toml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_minimal_card_gets_defaults_for_the_rest(tmp_path: Path) -> None:
    card = read_card(write(tmp_path, CARD))
    assert (card.name, card.family, card.module) == ("nearest", "metric", "nearest")
    assert card.target == "quickstudy.learners.metric.nearest:Nearest"
    assert (card.training.rate, card.training.optimiser) == (1e-3, "adam")
    assert card.training.train_ways is None
    assert not any([card.head, card.maps, card.choices, card.search, card.search_options])


def test_a_card_with_every_field_is_read(tmp_path: Path) -> None:
    text = (
        'module = "neighbours"\nhead = true\nmaps = true\n'
        + CARD
        + """
        train_ways = 20
        optimiser = "sgd"
        [choices.distance]
        cosine = "distances:cosine"
        [search]
        rate = { between = [1e-3, 1], log = true }
        [search.options]
        rate = { between = [1, 9] }
        distance = ["cosine"]
    """
    )
    card = read_card(write(tmp_path, text))
    assert card.home == "quickstudy.learners.metric.neighbours"
    assert card.head
    assert card.maps
    assert card.training.train_ways == 20
    assert card.training.rate == OPTIMISERS["sgd"]
    assert card.choices == {"distance": {"cosine": "quickstudy.learners.metric.distances:cosine"}}
    assert card.search == {"rate": Range(0.001, 1, log=True)}
    assert card.search_options == {"rate": Range(1, 9), "distance": ("cosine",)}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("year = 1967", "yaer = 1967", "'yaer' is not a key here. Valid keys: class, title, year"),
        ("year = 1967", "", "needs the keys 'year', which are missing"),
        ("year = 1967", 'year = "1967"', "year must be a whole number; found '1967'"),
        ("year = 1967", "year = true", "year must be a whole number; found True"),
        ("year = 1967", "year = 1967\nhead = 1", "head must be true or false; found 1"),
        ("year = 1967", "year =", "must be TOML"),
        ('inductively = "-"', 'inductively = "maybe"', "must be one of 'yes', 'no', .*'maybe'"),
        ("steps = 10", "steps = 0", "training: steps must be at least 1; found 0"),
        ("steps = 10", "steps = 10\nrate = -1", "rate must be a positive number; found -1.0"),
        ("steps = 10", 'steps = 10\noptimiser = "lion"', "one of 'adam', 'sgd'; found 'lion'"),
        ("steps = 10", "", "training: needs the keys 'steps'"),
        ("[training]", "[search]\nsteps = [1]\n[training]", "search: 'steps' is not a key"),
        ("[training]", "[search]\nrate = 1\n[training]", "a list of values or a range"),
        ("[training]", "[search]\nrate = []\n[training]", "a list of values or a range"),
        ("[training]", "[search]\noptions = 1\n[training]", "options must be a table; found 1"),
        ("[training]", "[search.options]\na = {between = [1]}\n[training]", "two numbers"),
        ("[training]", "[search.options]\na = {between = [2, 1]}\n[training]", "low must be less"),
        (
            "[training]", "[search.options]\na = {between = [0, 1], log = true}\n[training]",
            "positive with log = true",
        ),
        ("[training]", "[choices]\na = 1\n[training]", "choices.a must be a table; found 1"),
        ("[training]", '[choices.a]\nb = "c"\n[training]', 'b must be "module:function"'),
    ],
)  # fmt: skip
def test_an_invalid_card_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CARD
    path = write(tmp_path, CARD.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        read_card(path)


def test_a_family_must_exist_and_a_name_must_be_unique(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder of its family, 'metric'.* found 'metrics'"):
        read_card(write(tmp_path, CARD, "metrics/nearest.toml"))
    (tmp_path / "twice").mkdir()
    write(tmp_path / "twice", CARD)
    write(tmp_path / "twice", CARD, "memory/nearest.toml")
    with pytest.raises(ValueError, match="names of learners must be unique"):
        read_cards(tmp_path / "twice")


def test_cards_are_sorted_by_family_and_year() -> None:
    found = [(FAMILIES.index(card.family), card.year, card.title) for card in cards().values()]
    assert found == sorted(found)
    assert len({card.class_name for card in cards().values()}) == len(found)


@ALL
def test_a_card_names_a_public_class(card: Card) -> None:
    cls = resolve("learner", card.name, cards())
    assert issubclass(cls, Learner)
    assert cls.__module__ == card.home
    assert getattr(qs, card.class_name) is cls
    assert {card.class_name} <= set(qs.__all__) & set(dir(qs))


def test_importing_everything_imports_the_learners() -> None:
    names: dict[str, Any] = {}
    exec("from quickstudy import *", names)
    assert {card.class_name for card in cards().values()} <= set(names)


@ALL
def test_the_choices_of_a_card_are_valid_arguments(card: Card) -> None:
    cls = resolve("learner", card.name, cards())
    for argument, named in card.choices.items():
        assert argument in inspect.signature(cls).parameters
        for name, target in named.items():
            module, attribute = target.split(":")
            chosen = getattr(import_module(module), attribute)
            found = getattr(made(card, {argument: name}), argument)
            assert chosen in (found, type(found))  # a function, or the class of a part


@ALL
def test_a_learner_can_be_made_with_every_value_of_its_search_space(card: Card) -> None:
    # A forest is grown for each task alone: no rate of training changes it.
    assert ("rate" in card.search) == (card.name != "random_forest")
    for argument, space in card.search_options.items():
        for value in ends(space):
            made(card, {argument: value})


def ends(space: Space) -> tuple[Any, ...]:
    return (space.low, space.high) if isinstance(space, Range) else space


def made(card: Card, options: dict[str, Any]) -> Learner:
    values = {"learner": card.name, "options": options, "channels": 8, "train_ways": 5}
    return make_learner(read_recipe(values), (1, 16, 16))


@ALL
def test_a_recipe_trains_as_the_card_says(card: Card) -> None:
    budget = Recipe(learner=card.name).budget()
    assert budget.steps == card.training.steps
    assert budget.tasks_per_step == card.training.tasks_per_step
    assert budget.train_ways == (card.training.train_ways or 5)
    assert budget.rate == card.training.rate


def test_cards_and_training_have_the_same_optimisers() -> None:
    assert all(callable(getattr(optimisers, name)) for name in OPTIMISERS)


@ALL
def test_a_learner_has_a_page_that_names_its_class(card: Card) -> None:
    page = CHECKOUT / "docs" / "learners" / f"{card.module}.md"
    assert page.is_file(), "write it"
    assert card.class_name in page.read_text()


def test_the_lists_of_learners_are_up_to_date() -> None:
    for path, text in listings(CHECKOUT).items():
        assert path.read_text() == text, f"{path} is out of date: run `{COMMAND}` in the checkout"


def test_lists_are_written_only_in_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must run in a checkout of quickstudy"):
        listings(tmp_path)
    for name in ("src/quickstudy/__init__.py", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("nothing\n")
    with pytest.raises(ValueError, match=r"Restore them\."):
        listings(tmp_path)
