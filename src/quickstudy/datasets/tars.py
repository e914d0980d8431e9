"""Read tar archives, packed with gzip, bzip2 or xz or not at all, in bounded memory.

``tarfile`` reads the headers of a member into memory whatever size they claim: a long name,
extended headers, the map of a sparse file. So it is given a stream that is refused where more is
read than headers and content can need.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from quickstudy.datasets.limits import ArchiveError, Limits, bomb, not_a_file, refuse_unsafe_name

MOST_HEADER = 2**17  # bytes of all headers before a member; few have more than a thousand
MOST_GLOBAL = 100  # entries of headers that hold for all members
_BLOCK = tarfile.BLOCKSIZE
_READ_AHEAD = tarfile.RECORDSIZE

_PACKERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda packed: gzip.GzipFile(fileobj=packed),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"]\0\0\x80": lzma.LZMAFile,
}  # fmt: skip
"""The first bytes of each format, and what unpacks it, never more than it is asked for."""


def read_tar(
    stream: IO[bytes], archive: str, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the wanted members, in one pass."""
    unpacked, total = _Unpacked(stream, archive, limits), 0
    # "r|" reads in one pass, without seeking.
    with tarfile.open(
        fileobj=cast(IO[bytes], unpacked), mode="r|", tarinfo=_Header, bufsize=_READ_AHEAD
    ) as opened:
        number = 0
        while (info := opened.next()) is not None:
            number += 1
            if info.issparse() or not (info.isfile() or info.isdir()):
                raise not_a_file(archive, info.name)
            refuse_unsafe_name(archive, info.name)
            total += info.size
            limits.check(archive, info.name, info.size, number, total)
            if len(opened.pax_headers) > MOST_GLOBAL:
                raise bomb(archive, f"refused: over {MOST_GLOBAL} global headers")
            content = info.size if info.isfile() else 0
            unpacked.allow(info.offset_data + -(-content // _BLOCK) * _BLOCK)
            if info.isfile() and wanted(info.name):
                file = opened.extractfile(info)
                yield info.name, file.read() if file else b""
            # Or memory would grow with every member.
            opened.members.clear()  # type: ignore[attr-defined]
        unpacked.read_to_the_end()


class _Header(tarfile.TarInfo):
    """Members whose header must be whole: tarfile takes a damaged one for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == buf.count(0) == _BLOCK:  # the end of the archive
                raise
            raise ArchiveError("a header is damaged, or the end is missing") from error
        if header.size < 0:
            raise ArchiveError("a member has a negative size")
        return header


class _Unpacked:
    """The unpacked stream of a tar archive, up to a position that moves with its members."""

    def __init__(self, packed: IO[bytes], archive: str, limits: Limits) -> None:
        first = packed.read(6)
        packed.seek(0)
        unpack = next((u for magic, u in _PACKERS.items() if first.startswith(magic)), None)
        self._packed, self._archive, self._limits = packed, archive, limits
        self._stream = unpack(packed) if unpack else packed
        self._is_packed = unpack is not None
        self._position = 0
        self.allow(0)

    def allow(self, end: int) -> None:
        """Let the headers after position ``end``, where the content of a member ends, be read."""
        self._end = end + MOST_HEADER + _READ_AHEAD

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end."""
        content: bytes = self._stream.read(size)
        self._position += len(content)
        if self._position > self._end:
            raise bomb(self._archive, f"refused: a member's headers are over {MOST_HEADER:,} bytes")
        if self._is_packed:
            self._limits.check_ratio(self._archive, self._position, self._packed.tell())
        return content

    def read_to_the_end(self) -> None:
        """Read what follows the last member, since checksums stand at the end."""
        self._end = self._position + 2**20
        while self.read(_READ_AHEAD):
            pass
