"""The examples in docstrings run, and the names that docstrings mention exist."""

from __future__ import annotations

import ast
import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

import quickstudy as qs
from quickstudy.learners.cards import cards

PACKAGE = Path(qs.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


WITH_EXAMPLES = [module_name(path) for path in SOURCES if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_run(module: str) -> None:
    result = doctest.testmod(import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def test_every_learner_has_an_example() -> None:
    assert {card.home for card in cards().values()} <= set(WITH_EXAMPLES)


def docstrings(path: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def exists(name: str) -> bool:
    """Whether ``name``, dotted, leads to a module, or to something in one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:n]))
        except ImportError:
            continue
        for part in parts[n:]:
            annotations = getattr(found, "__annotations__", {})
            if not hasattr(found, part):
                return part in annotations
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_names_in_docstrings_exist(path: Path) -> None:
    for text in docstrings(path):
        roles = re.findall(r":\w+:`[~!]?(quickstudy\.[\w.]+)`", text)
        written = re.findall(r"\bqs\.([A-Za-z_][\w.]*\w)", text)
        for name in [*roles, *(f"quickstudy.{each}" for each in written)]:
            assert exists(name), f"{path.name} mentions {name}, which does not exist"
