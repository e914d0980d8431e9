"""The layout tells the story only while imports go one way; and importing must stay cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "quickstudy"

# Lower layers first; a module imports from its own layer and from those before it.
LAYERS = [
    {"base", "core"},
    {"backbones", "files", "tasks"},
    {"datasets", "objectives"},
    {"compute", "learners"},
    {"contract"},
    {"evaluation", "testing"},
    {"training"},
    {"reports"},
    {"interfaces"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The layers whose modules ``path`` imports at its top (not inside a function)."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "quickstudy":
                names = [f"quickstudy.{alias.name}" for alias in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("quickstudy.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    here = layer(path)
    assert here in LEVEL, f"{here} has no layer: give it one in this test"
    above = {name for name in imported(path) if LEVEL[name] > LEVEL[here]}
    assert not above, f"{path.name} ({here}) imports from above: {above}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_short(path):
    assert len(path.read_text().splitlines()) <= 320


def loaded_by(code: str) -> set[str]:
    command = f"import sys; {code}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_listing_on_the_command_line_imports_no_torch():
    for command in ("--help", "datasets", "learners", "run --help"):
        code = (
            "from click.testing import CliRunner; from quickstudy.interfaces.cli import main; "
            f"assert CliRunner().invoke(main, {command.split()!r}).exit_code == 0"
        )
        heavy = loaded_by(code) & {"torch", "numpy", "matplotlib", "sklearn", "PIL"}
        assert not heavy, (command, heavy)


def test_importing_the_package_imports_nothing_heavy():
    heavy = {"matplotlib", "sklearn", "scipy", "PIL", "click", "rich", "pooch", "yaml"}
    assert not loaded_by("import quickstudy") & (heavy | {"torch", "tomllib"})
    assert not loaded_by("from quickstudy import MAML, Prototypical") & heavy
    assert "rich" not in loaded_by("import quickstudy as qs; qs.episodes")


def test_every_public_name_resolves():
    import quickstudy

    for name in quickstudy.__all__:
        assert getattr(quickstudy, name) is not None
    assert set(quickstudy.__all__) <= set(dir(quickstudy))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = quickstudy.nothing
