"""Optional packages: imported where they are used, with an error that names the extra."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

_SETTINGS = {"onnxruntime": {"ORT_DISABLE_TELEMETRY": "1"}}
"""Environment variables that keep a package from writing to the home folder when it is imported,
set where the user has not set them.
"""


def optional(package: str, extra: str, who: str) -> ModuleType:
    """The module ``package``, imported now.

    ``extra``  the extra of quickstudy that brings it, for example "vision".
    ``who``    what needs it, which begins the message.

    Raises ImportError with the command that installs the extra where ``package``, or a package
    that it needs, is not installed.
    """
    for variable, value in _SETTINGS.get(package, {}).items():
        os.environ.setdefault(variable, value)
    try:
        return import_module(package)
    except ImportError as error:
        missing = (error.name or package).split(".")[0]
        raise ImportError(
            f"{who}: needs the package {missing}, which is not installed. Install it with "
            f"pip install 'quickstudy[{extra}]'.",
            name=error.name,
        ) from error


def folder_of_package(package: str, extra: str, who: str) -> Path:
    """The folder of an installed package, none of whose code is run: for packages of files.

    Importing a package of weights may import the large libraries that it was written for. The
    arguments and the error are those of :func:`optional`.
    """
    found = find_spec(package)
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        raise ImportError(
            f"{who}: needs the package {package.replace('_', '-')}, which is not installed. "
            f"Install it with pip install 'quickstudy[{extra}]'.",
            name=package,
        )
    return Path(places[0])
