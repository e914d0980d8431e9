"""Where the original files of a data set come from: found under the root, or downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from quickstudy.datasets.archives import LIMITS, ArchiveError, Entry, Limits, read_archive
from quickstudy.datasets.progress import Bar


def published_split(name: str) -> dict[str, Any]:
    """The class lists ``splits/<name>.json`` that ship with the package."""
    text = files("quickstudy.datasets").joinpath("splits", f"{name}.json").read_text("utf-8")
    lists: dict[str, Any] = json.loads(text)
    return lists


def find(folders: list[Path], names: list[str]) -> Path | None:
    """The first of ``names`` that lies in one of ``folders``, as a file or a folder."""
    paths = (folder / name for name in names for folder in folders)
    return next((path for path in paths if path.exists()), None)


def entries(
    source: Path, wanted: Callable[[str], bool], limits: Limits = LIMITS
) -> Iterator[Entry]:
    """Name and bytes of every wanted file of an archive or of an unpacked folder.

    Names in a folder begin with the folder's own name, as they do in the archive it came from.
    """
    if not source.is_dir():
        yield from read_archive(source, wanted, limits)
        return
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source.parent).as_posix()
        if path.is_file() and wanted(name):
            yield name, path.read_bytes()


def fetch(url: str, folder: Path, known_hash: str) -> Path:
    """Download ``url`` into ``folder``, under the name at its end, and check it.

    The bytes go to a temporary file that takes its name only when the hash is right, so a download
    that was cut short leaves nothing behind. ``known_hash`` is ``sha256:…`` or ``md5:…``.

    Raises OSError where the network fails, ArchiveError where the file is another one.
    """
    import pooch
    from requests import RequestException

    name = url.rsplit("/", 1)[-1].split("?")[0]
    pooch.get_logger().setLevel("WARNING")
    by_hand = f"Or download it by hand and put it at {folder / name}."
    try:
        with Bar(f"Downloading {name}", unit="bytes") as bar:
            download = pooch.HTTPDownloader(progressbar=bar)
            path = pooch.retrieve(url, known_hash, fname=name, path=folder, downloader=download)
    except (RequestException, OSError) as error:
        raise OSError(
            f"{url}: the download failed ({type(error).__name__}). Check the network and try "
            f"again. {by_hand}"
        ) from error
    except ValueError as error:
        raise ArchiveError(
            f"{url}: what arrived has the wrong checksum: the download was cut short, or the file "
            f"has changed. Try again. {by_hand}"
        ) from error
    return Path(path)
