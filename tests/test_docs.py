"""The Python blocks of the README and of pages run, one after the other, with tiny settings."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

import quickstudy as qs
from made_up import random_classes

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/tasks.md", "docs/training.md", "docs/computing.md",
         "docs/whether-to-transfer.md", "docs/multitask.md", "docs/balancing.md",
         "docs/evaluation.md", "docs/comparing.md", "docs/contract.md", "docs/pretrained.md",
         "docs/few_pictures.md", "docs/confidence.md", "docs/tuning.md"]  # fmt: skip
TINY = {"budget": 1, "steps": 1, "tasks": 2, "every": 1, "ways": 5, "channels": 8, "size": 32}


def small_glyphs() -> qs.datasets.Dataset:
    """In the place of the data set: noise, made in no time."""
    rows = random_classes(classes=6, rows=20, side=28)
    return qs.datasets.Dataset(qs.datasets.card("glyphs"), rows, rows, rows, new_classes=False)


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def tiny(code: str) -> str:
    for name, value in TINY.items():
        code = re.sub(rf"\b{name}=\d+", f"{name}={value}", code)
    return code.replace("Conv4(", "Conv4(channels=4, ").replace("index=17", "index=0")


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path))
    monkeypatch.setattr(qs.datasets, "load", lambda name: small_glyphs())
    for logger in ("wandb", "mlflow"):  # which the tests do not need
        monkeypatch.setitem(sys.modules, logger, MagicMock())
    names: dict[str, Any] = {"images": torch.rand(5, 1, 28, 28), "labels": [0, 1, 2, 3, 4]}
    names["new_images"] = names["images"]
    assert blocks(page), "nothing to run"
    for number, block in enumerate(blocks(page)):
        exec(compile(tiny(block), f"{page}, block {number}", "exec"), names)


MARKDOWN = sorted(p.relative_to(ROOT) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", MARKDOWN, ids=str)
def test_links_lead_somewhere(page):
    for target in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"
