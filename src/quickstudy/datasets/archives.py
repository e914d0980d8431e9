"""Read zip and tar archives from outside, without unpacking them to disk.

Members are yielded as bytes, so no file is ever written under a name from an archive. An archive
with a name outside its folder, a link or a device is still malicious, and is refused as a whole.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

Entry = tuple[str, bytes]
"""A member's name (its path inside the archive) and its bytes."""


class ArchiveError(ValueError):
    """An archive that is damaged, altered or malicious."""


@dataclass(frozen=True)
class Limits:
    """Limits on the content of an archive, against decompression bombs."""

    members: int = 200_000
    file_bytes: int = 256 * 2**20
    total_bytes: int = 8 * 2**30
    ratio: int = 1_000  # of unpacked to packed bytes; deflate itself cannot exceed 1,032

    def check(self, archive: str, name: str, size: int, members: int, total: int) -> None:
        """Raise ArchiveError where member ``name`` of ``size`` bytes goes over a limit."""
        over = (
            f"it is {size:,} bytes; the limit is {self.file_bytes:,}"
            if size > self.file_bytes
            else f"the members add up to over {self.total_bytes:,} bytes"
            if total > self.total_bytes
            else f"there are over {self.members:,} members"
            if members > self.members
            else None
        )
        if over:
            raise ArchiveError(
                f"{archive}: refused at {name!r}: {over}. This looks like a decompression bomb; "
                "if you trust it, unpack it yourself and give the folder."
            )


LIMITS = Limits()
"""Default limits: far above every data set here, enough for large collections of photographs."""


def read_archive(
    archive: Path, wanted: Callable[[str], bool], limits: Limits = LIMITS
) -> Iterator[Entry]:
    """The wanted regular files of a zip or tar archive, in its order.

    Raises ArchiveError where the archive is not a regular file, is incomplete, damaged or over a
    limit, or has a member with an absolute path, a path through ``..``, or a link.
    """
    try:
        if archive.exists() and not archive.is_file():  # opening a pipe waits for a writer
            raise ArchiveError(
                f"{archive}: must be a zip or tar archive; it is a folder, a pipe or a device. "
                "Remove it."
            )
        with archive.open("rb") as stream:
            yield from read_stream(stream, str(archive), wanted, limits)
    except (FileNotFoundError, PermissionError) as error:
        raise type(error)(f"{archive}: cannot be read: {error.strerror}.") from error


def read_stream(
    stream: IO[bytes], archive: str, wanted: Callable[[str], bool], limits: Limits = LIMITS
) -> Iterator[Entry]:
    """:func:`read_archive` of an open file (also for an archive inside an archive)."""
    try:
        if zipfile.is_zipfile(stream):
            stream.seek(0)
            yield from _read_zip(stream, archive, wanted, limits)
        else:
            stream.seek(0)
            yield from _read_tar(stream, archive, wanted, limits)
    except ArchiveError:
        raise
    except Exception as e:  # zipfile, tarfile and their codecs raise anything on damaged bytes
        raise ArchiveError(
            f"{archive}: damaged or incomplete ({e or type(e).__name__}). Delete it and download "
            "it again."
        ) from e


def _read_zip(
    stream: IO[bytes], archive: str, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[Entry]:
    total = 0
    with zipfile.ZipFile(stream) as opened:
        for number, info in enumerate(opened.infolist(), 1):
            _refuse_unsafe_name(archive, info.filename)
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise _not_a_file(archive, info.filename)
            total += info.file_size
            limits.check(archive, info.filename, info.file_size, number, total)
            if info.file_size > limits.ratio * max(info.compress_size, 64):
                raise ArchiveError(
                    f"{archive}: refused at {info.filename!r}: {info.compress_size} bytes claim to "
                    f"unpack to {info.file_size:,}. This looks like a decompression bomb."
                )
            if info.flag_bits & 1:
                raise ArchiveError(f"{archive}: {info.filename!r} is encrypted. Unpack it first.")
            if not info.is_dir() and wanted(info.filename):
                # reads no more than the size declared, and checks the CRC
                yield info.filename, opened.read(info)


def _read_tar(
    stream: IO[bytes], archive: str, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[Entry]:
    total = 0
    # "r|*" reads in one pass, without keeping members in memory.
    with tarfile.open(fileobj=stream, mode="r|*") as opened:
        for number, info in enumerate(opened, 1):
            _refuse_unsafe_name(archive, info.name)
            if not (info.isfile() or info.isdir()):
                raise _not_a_file(archive, info.name)
            total += info.size
            limits.check(archive, info.name, info.size, number, total)
            if info.isfile() and wanted(info.name):
                content = opened.extractfile(info)
                yield info.name, content.read() if content else b""


def _refuse_unsafe_name(archive: str, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or drive or ".." in path.parts or "\0" in name:
        raise ArchiveError(
            f"{archive}: refused: member {name!r} would be unpacked outside its folder. "
            "Do not use this archive."
        )


def _not_a_file(archive: str, name: str) -> ArchiveError:
    return ArchiveError(
        f"{archive}: refused: {name!r} is a link or a device. No data set here has any; "
        "do not use this archive."
    )
