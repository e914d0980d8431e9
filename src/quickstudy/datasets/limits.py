"""Limits on the content of archives, against decompression bombs, and the names in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from quickstudy.base.shown import shown

LONGEST_NAME = 4096  # characters; the longest path of common systems
SMALLEST_PACKED = 4096  # bytes; smaller archives count as this large when ratios are compared


class ArchiveError(ValueError):
    """An archive that is damaged, altered or malicious."""


@dataclass(frozen=True)
class Limits:
    """Limits on the content of an archive, against decompression bombs."""

    members: int = 200_000
    file_bytes: int = 256 * 2**20
    total_bytes: int = 8 * 2**30
    ratio: int = 1_100  # of unpacked to packed bytes; deflate itself cannot exceed 1,032

    def check(self, archive: str, name: str, size: int, members: int, total: int) -> None:
        """Raise ArchiveError where member ``name`` of ``size`` bytes goes over a limit."""
        over = (
            f"it is {_counted(size)} bytes; the limit is {self.file_bytes:,}"
            if not 0 <= size <= self.file_bytes
            else f"the members add up to over {self.total_bytes:,} bytes"
            if total > self.total_bytes
            else f"there are over {self.members:,} members"
            if members > self.members
            else None
        )
        if over:
            raise bomb(archive, f"refused at {shown(name)}: {over}")

    def check_ratio(self, archive: str, unpacked: int, packed: int) -> None:
        """Raise ArchiveError where ``packed`` bytes unpack to too many."""
        if unpacked > self.ratio * max(packed, SMALLEST_PACKED):
            raise bomb(archive, f"refused: {packed:,} bytes claim to unpack to {unpacked:,}")


def _counted(size: int) -> str:
    return f"{size:,}" if size < 2**64 else "2**64 or more"  # or a number of thousands of digits


def bomb(archive: str, found: str) -> ArchiveError:
    """The error for an archive that would take too much memory or time."""
    return ArchiveError(
        f"{archive}: {found}. This looks like a decompression bomb; "
        "if you trust it, unpack it yourself and give the folder."
    )


def refuse_unsafe_name(archive: str, name: str) -> None:
    """ArchiveError for a name that is too long, or that leads outside the archive's folder."""
    if len(name) > LONGEST_NAME:
        raise bomb(
            archive,
            f"refused at {shown(name)}: its name has {len(name):,} characters; the limit is "
            f"{LONGEST_NAME:,}",
        )
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or drive or ".." in path.parts or "\0" in name:
        raise ArchiveError(
            f"{archive}: refused: member {shown(name)} would be unpacked outside its folder. "
            "Do not use this archive."
        )


def not_a_file(archive: str, name: str) -> ArchiveError:
    """The error for a member that is neither a regular file nor a folder."""
    return ArchiveError(
        f"{archive}: refused: {shown(name)} is a link or a device, or has holes. No data set here "
        "has any; do not use this archive."
    )
