"""Atomic writes: after a crash a file has its old content or its new content, never a mixture.

A process that is killed while it writes leaves a temporary file, ``.NAME.<16 hex digits>.tmp``. A
writer holds a lock on its temporary file, which the system releases when the process ends however
it ends; so a temporary file that nobody has locked is abandoned, and the next write removes it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp")
_OLD = 24 * 3600.0  # seconds; where there are no locks, an older temporary file is abandoned

_REASONS = {
    errno.ENOSPC: "the disk is full. Free some space there, or choose another folder",
    errno.EDQUOT: "your disk quota is used up. Delete files of yours, or choose another folder",
    errno.EFBIG: "it is larger than the file system or your limits allow. Choose another folder",
    errno.EROFS: "the disk is read-only. Choose another folder",
    errno.EACCES: "the permission is missing. Change it, or choose another folder",
    errno.EPERM: "the system does not allow it. Change the permission, or choose another folder",
    errno.EIO: "the disk reports an error. Check the disk, or choose another one",
    errno.ENAMETOOLONG: "its name is too long. Choose a shorter one",
    errno.ENOTDIR: "a part of its path is a file. Choose another folder",
    errno.EISDIR: "there is a folder of this name. Choose another name",
}


def write_atomically(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path``; readers get the old file or the new one, never a part.

    Raises as :func:`replace_atomically`.
    """
    return replace_atomically(path, lambda temporary: temporary.write_bytes(content))


def replace_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call ``write`` with the path of an empty temporary file, then rename that file to ``path``.

    ``write``  must write into that file; a file of its own in the same place has no lock.

    Raises OSError that names ``path`` and the remedy where the disk is full or not writable.
    """
    with write_errors_name(path), _temporary_for(path) as temporary:
        write(temporary)
        _flush(temporary)
        temporary.replace(path)
    return path


def create_atomically(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path``, complete from the moment it exists; never over another file.

    Raises FileExistsError where there is one: of two processes that start at once, one gets the
    error. Else raises as :func:`replace_atomically`.
    """
    with write_errors_name(path), _temporary_for(path) as temporary:
        temporary.write_bytes(content)
        _flush(temporary)
        try:
            os.link(temporary, path)
        except OSError as error:
            unsupported = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
            if error.errno not in unsupported:  # some file systems have no hard links
                raise
            with path.open("xb") as file:
                file.write(content)
    return path


def append_line(path: Path, line: str) -> None:
    """Append ``line`` to ``path`` by a single write, so that no part of it is left by a kill.

    Raises OSError that names ``path`` where the disk is full; the file is then as before.
    """
    content = (line + "\n").encode()
    with write_errors_name(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, content) < len(content):  # no space for all of it
                os.ftruncate(descriptor, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Delete temporary files in ``folder`` whose writer has ended; by default those of any name.

    ``name``  of the file for which they were written.
    """
    with suppress(OSError):  # a folder that cannot be listed has nothing to delete
        for path in list(folder.iterdir()):
            found = _TEMPORARY.fullmatch(path.name)
            if found and name in (None, found["name"]):
                _remove_if_abandoned(path)


@contextmanager
def write_errors_name(path: Path) -> Iterator[None]:
    """Turn the system's errors of writing ``path`` into ones that name it and the remedy."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno is None:  # already one of ours, or not of the system
            raise
        reason = _REASONS.get(error.errno, f"{error.strerror}. Choose another folder")
        raised = type(error)(f"{path}: cannot be written: {reason}.")
        raised.errno = error.errno
        raise raised from error


@contextmanager
def _temporary_for(path: Path) -> Iterator[Path]:
    """A new, locked, empty file beside ``path``, which is deleted at the end if it still exists."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
    remove_abandoned(path.parent, path.name)
    temporary, descriptor = _create_locked(path)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _create_locked(path: Path) -> tuple[Path, int | None]:
    """A new file, and the descriptor that holds its lock; None where there are no locks."""
    while True:
        # Not tempfile: its files are readable by their owner only, but reports are to be shared.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            locked = _lock(descriptor)
            # Another process may have taken it for abandoned before it was locked.
            if locked and os.fstat(descriptor).st_nlink:
                return temporary, descriptor
        except BlockingIOError:
            locked = True
        os.close(descriptor)  # Windows renames no file that is open
        if not locked:
            return temporary, None


def _lock(descriptor: int) -> bool:
    """Whether the file is now locked for this process; BlockingIOError where another has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return False
    return True


def _remove_if_abandoned(path: Path) -> None:
    with suppress(OSError):  # it is locked, or no longer there, or not ours to delete
        if path.is_symlink() or not path.is_file():
            return
        descriptor = os.open(path, os.O_RDWR)
        try:
            if _lock(descriptor) or time.time() - path.stat().st_mtime > _OLD:
                path.unlink()
        finally:
            os.close(descriptor)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
