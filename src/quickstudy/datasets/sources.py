"""The original files of a data set: found under the root, or downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from quickstudy.base.atomic import replace_atomically
from quickstudy.datasets.archives import LIMITS, Entry, read_archive
from quickstudy.datasets.limits import ArchiveError, Limits
from quickstudy.datasets.progress import Bar


def published_split(name: str) -> dict[str, Any]:
    """The class lists ``splits/<name>.json`` that ship with the package."""
    text = files("quickstudy.datasets").joinpath("splits", f"{name}.json").read_text("utf-8")
    lists: dict[str, Any] = json.loads(text)
    return lists


def find(folders: list[Path], names: list[str]) -> Path | None:
    """The path of the first of ``names`` that exists in one of ``folders``; None without any."""
    paths = (folder / name for name in names for folder in folders)
    return next((path for path in paths if path.exists()), None)


def entries(
    source: Path, wanted: Callable[[str], bool], limits: Limits = LIMITS
) -> Iterator[Entry]:
    """Name and bytes of every wanted file in an archive or in an unpacked folder.

    Names of files in a folder begin with the name of the folder, as in the archive.
    """
    if not source.is_dir():
        yield from read_archive(source, wanted, limits)
        return
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source.parent).as_posix()
        if path.is_file() and wanted(name):
            yield name, path.read_bytes()


def fetch(url: str, folder: Path, known_hash: str) -> Path:
    """Download ``url`` into ``folder``, under its last part as name, and verify it.

    The bytes go to a temporary file that is renamed only if the hash is right, so an incomplete
    download leaves no file behind. A file that is there already and has that hash is kept.
    ``known_hash`` is ``sha256:…`` or ``md5:…``.

    Raises OSError where the network fails, ArchiveError where the hash is wrong.
    """
    import pooch
    from requests import RequestException

    path = folder / url.rsplit("/", 1)[-1].split("?")[0]
    algorithm, digest = known_hash.split(":")
    manual_remedy = f"Or download it manually and put it at {path}."

    def download(temporary: Path) -> None:
        try:
            with Bar(f"Downloading {path.name}", unit="bytes") as bar:
                pooch.HTTPDownloader(progressbar=bar)(url, str(temporary), None)
        except (RequestException, ValueError) as error:
            raise OSError(
                f"{url}: the download failed ({type(error).__name__}). Check the network and try "
                f"again. {manual_remedy}"
            ) from error
        if pooch.file_hash(str(temporary), algorithm) != digest:
            raise ArchiveError(
                f"{url}: the downloaded file has the wrong checksum: it is incomplete, or the file "
                f"has changed. Try again. {manual_remedy}"
            )

    if not (path.is_file() and pooch.file_hash(str(path), algorithm) == digest):
        replace_atomically(path, download)
    return path
