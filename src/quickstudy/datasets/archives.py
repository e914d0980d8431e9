"""Read zip and tar archives from outside, without unpacking them to disk.

Members are yielded as bytes, so no file is ever written under a name from an archive. An archive
with a name outside its folder, a link or a device is still malicious, and is refused as a whole.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from quickstudy.base.shown import shown, told
from quickstudy.datasets.limits import ArchiveError, Limits, bomb, not_a_file, refuse_unsafe_name
from quickstudy.datasets.tars import read_tar

Entry = tuple[str, bytes]
"""A member's name (its path inside the archive) and its bytes."""

LIMITS = Limits()
"""Default limits: far above every data set here, enough for large collections of photographs."""

MOST_DIRECTORY = 64 * 2**20  # bytes of a zip archive's list of members


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
            yield from read_tar(stream, archive, wanted, limits)
    except Exception as e:  # zipfile, tarfile and their codecs raise anything on damaged bytes
        if isinstance(e, ArchiveError) and str(e).startswith(f"{archive}: "):
            raise
        raise ArchiveError(
            f"{archive}: damaged or incomplete ({told(e)}). Delete it and download it again."
        ) from e


def _read_zip(
    stream: IO[bytes], archive: str, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[Entry]:
    total, packed = 0, stream.seek(0, 2)
    directory = _Directory(stream, archive, limits)
    with zipfile.ZipFile(directory) as opened:
        directory.complete = True
        for number, info in enumerate(opened.infolist(), 1):
            refuse_unsafe_name(archive, info.filename)
            if (info.external_attr >> 16) & 0o170000 == 0o120000:
                raise not_a_file(archive, info.filename)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile unpacks other methods without a limit: 45 bytes of bzip2 can be 45 MB
                raise ArchiveError(
                    f"{archive}: {shown(info.filename)} is packed by method {info.compress_type}; "
                    "only deflate is read. Pack it again."
                )
            total += info.file_size
            limits.check(archive, info.filename, info.file_size, number, total)
            limits.check_ratio(archive, info.file_size, info.compress_size)
            limits.check_ratio(archive, total, packed)  # members may share their bytes
            if info.flag_bits & 1:
                raise ArchiveError(
                    f"{archive}: {shown(info.filename)} is encrypted. Unpack it first."
                )
            if not info.is_dir() and wanted(info.filename):
                # reads no more than the size declared, and checks the CRC
                yield info.filename, opened.read(info)


class _Directory:
    """A zip archive whose list of members is bounded before zipfile makes objects of it."""

    def __init__(self, stream: IO[bytes], archive: str, limits: Limits) -> None:
        self._stream, self._archive, self._members = stream, archive, limits.members
        self.complete = False
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes."""
        if not self.complete and size > MOST_DIRECTORY:
            raise bomb(
                self._archive, f"refused: its list of members is over {MOST_DIRECTORY:,} bytes"
            )
        content = self._stream.read(size)
        if not self.complete and content.count(b"PK\x01\x02") > self._members:
            raise bomb(self._archive, f"refused: there are over {self._members:,} members")
        return content
