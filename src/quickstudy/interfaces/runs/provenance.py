"""Where a result comes from: command, commit and versions, as the run folder records them."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from quickstudy.base.version import __version__
from quickstudy.base.words import count


class Machine(Protocol):
    """A recipe, as far as all recipes are alike."""

    @property
    def seed(self) -> int:
        """Of the initial weights and of the training tasks."""

    @property
    def device(self) -> str | None:
        """Its name; None for a GPU, where there is one."""

    @property
    def threads(self) -> int | None:
        """CPU threads; None for as many as torch takes."""


@dataclass(frozen=True)
class Origin:
    """How a run was started; "" where that is unknown.

    ``command``   the command that started it.
    ``commit``    see :func:`commit`.
    ``created``   local date and time.
    ``versions``  programs, device and threads that its result depends on, by name.
    ``ends``      the steps at which training was to end before it was made longer.
    """

    command: str = ""
    commit: str = ""
    created: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    ends: tuple[int, ...] = ()

    @staticmethod
    def from_json(values: Any) -> Origin:
        """The origin with these fields; ValueError for others, or fields of another type."""
        valid = {"command": str, "commit": str, "created": str, "versions": dict, "ends": list}
        if not isinstance(values, dict) or not all(
            name in valid and isinstance(value, valid[name]) for name, value in values.items()
        ):
            raise ValueError(
                "an origin holds the texts command, commit, created, and versions and ends"
            )
        texts = {str(name): str(version) for name, version in values.pop("versions", {}).items()}
        ends = tuple(values.pop("ends", ()))
        if not all(type(end) is int for end in ends):
            raise ValueError("its ends are not whole numbers")
        return Origin(**values, versions=texts, ends=ends)

    @staticmethod
    def of(recipe: Machine, command: str = "") -> Origin:
        """The origin of a run of ``recipe`` that starts now."""
        created = datetime.now().strftime("%Y-%m-%d %H:%M")
        return Origin(command, commit(), created, versions(recipe))


def versions(recipe: Machine) -> dict[str, str]:
    """Programs, device and threads that a result depends on besides its ``recipe``."""
    device = choose_device(recipe.device)
    return {
        "quickstudy": __version__,
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": str(recipe.threads or torch.get_num_threads()),
    }


def choose_device(name: str | None) -> torch.device:
    """The device called ``name``; for None the first GPU, or the CPU where there is no GPU.

    Raises ValueError for a device that does not exist.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    found = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= found:
        raise ValueError(
            f"device: {name} does not exist: torch finds {count(found, 'CUDA GPU')} here. "
            "Use --device cpu."
        )
    return device


def commit() -> str:
    """The commit of quickstudy's source where that is a git checkout; "" otherwise."""
    here = Path(__file__)

    def git(*words: str) -> str:
        finished = subprocess.run(
            ["git", *words], cwd=here.parent, capture_output=True, text=True, timeout=5, check=True
        )
        return finished.stdout.strip()

    try:
        # Where quickstudy is installed inside a user's project, the repository is not quickstudy's.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return ""
