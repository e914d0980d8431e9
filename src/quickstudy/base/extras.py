"""Optional packages: imported where they are used, with an error that names the extra."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def optional(package: str, extra: str, who: str) -> ModuleType:
    """The module ``package``, imported now.

    ``extra``  the extra of quickstudy that brings it, for example "vision".
    ``who``    what needs it, which begins the message.

    Raises ImportError with the command that installs the extra where ``package``, or a package
    that it needs, is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        missing = (error.name or package).split(".")[0]
        raise ImportError(
            f"{who}: needs the package {missing}, which is not installed. Install it with "
            f"pip install 'quickstudy[{extra}]'.",
            name=error.name,
        ) from error
