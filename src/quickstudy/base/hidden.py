"""Files that systems and programs keep for themselves."""

from __future__ import annotations

from pathlib import Path


def is_hidden(path: Path) -> bool:
    """Whether the file, or a folder that it lies in, has a name that begins with a dot.

    ``path``  from the folder that was given, which may lie in a hidden one.

    >>> is_hidden(Path("cells/.thumbnails/1.png")), is_hidden(Path("cells/1.png"))
    (True, False)
    """
    return any(part.startswith(".") for part in path.parts)
