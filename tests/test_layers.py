"""Modules import only from their own layer and lower ones, and importing is fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "quickstudy"

# Lower layers first; a module imports from its own layer and from those before it.
LAYERS = [
    "base", "core", "answers", "tasks", "datasets", "backbones", "objectives", "learners", "files",
    "compute", "balancing", "contract", "evaluation", "training", "relations", "selection",
    "applications", "reports", "interfaces",
]  # fmt: skip
LEVEL = {name: level for level, name in enumerate(LAYERS)}
WITHOUT_TORCH = {
    "quickstudy.base.names", "quickstudy.base.shown", "quickstudy.datasets.registry",
    "quickstudy.learners.cards", "quickstudy.backbones.pretrained.registry",
    "quickstudy.applications.registry",
}  # fmt: skip
"""Modules from which the command line makes lists; they import only one another, and no torch."""


def modules() -> dict[str, Path]:
    """Every module by name, except the two that are above all layers."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("quickstudy", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return {n: p for n, p in found.items() if n not in ("quickstudy", "quickstudy.testing")}


MODULES = modules()


def imported(path: Path) -> set[str]:
    """The modules of quickstudy that ``path`` imports anywhere, inside functions included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in inner}
    return {name for name in names if name.startswith("quickstudy.")}


def layer(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_only_from_lower_layers(module):
    own = layer(module)
    assert own in LEVEL, f"{own} has no layer: add it to LAYERS in this test"
    higher = {name for name in imported(MODULES[module]) if LEVEL[layer(name)] > LEVEL[own]}
    assert not higher, f"{module} imports from higher layers: {higher}"


def test_there_are_no_circular_imports():
    graph = {module: imported(path) & set(MODULES) for module, path in MODULES.items()}
    # A module inside a package does not depend on the re-exports in the package's __init__.
    graph = {
        module: {other for other in others if not module.startswith(f"{other}.")}
        for module, others in graph.items()
    }
    while leaves := [module for module, others in graph.items() if not others & set(graph)]:
        for module in leaves:
            del graph[module]
    assert not graph, f"circular imports among, or below: {sorted(graph)}"


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short_and_not_deeply_nested(module):
    assert len(MODULES[module].read_text().splitlines()) <= 325
    assert len(module.split(".")) <= 4


@pytest.mark.parametrize("module", sorted(WITHOUT_TORCH))
def test_modules_for_lists_import_nothing_heavy(module):
    assert imported(MODULES[module]) <= {*WITHOUT_TORCH, module}
    assert not loaded_by(f"import {module}") & {"torch", "numpy", "yaml"}


def test_no_two_test_files_have_one_name():
    """Pytest imports a test file by its bare name, and refuses to collect two of one name."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, files in names.items() if files > 1] == []


def test_compute_and_training_have_few_files():
    files = [name for name in MODULES if layer(name) in ("compute", "training")]
    assert len(files) <= 22


def loaded_by(code: str) -> set[str]:
    command = f"import sys; {code}; print(*sorted(sys.modules))"
    finished = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    return set(finished.stdout.split())


def test_listing_on_the_command_line_imports_no_torch():
    for command in ("--help", "datasets", "backbones", "learners", "run --help"):
        code = (
            "from click.testing import CliRunner; from quickstudy.interfaces.cli import main; "
            f"assert CliRunner().invoke(main, {command.split()!r}).exit_code == 0"
        )
        heavy = loaded_by(code) & {"torch", "numpy", "matplotlib", "sklearn", "PIL"}
        assert not heavy, (command, heavy)


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"matplotlib", "sklearn", "scipy", "PIL", "click", "rich", "pooch", "yaml"}
    assert not loaded_by("import quickstudy") & (heavy | {"torch"})
    assert not loaded_by("from quickstudy import MAML, Prototypical") & heavy
    assert "rich" not in loaded_by("import quickstudy as qs; qs.episodes")


def test_every_public_name_resolves():
    import quickstudy

    for name in quickstudy.__all__:
        assert getattr(quickstudy, name) is not None
    assert set(quickstudy.__all__) <= set(dir(quickstudy))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = quickstudy.nothing
