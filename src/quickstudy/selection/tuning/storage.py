"""Where trials are kept: in memory, in a file that several processes share, or in a database.

The file is Optuna's journal: one line is appended for each thing that happens. Beside it is a
folder, ``FILE.processes``, with a locked file for each process that works on it. The system
releases such a lock when the process ends however it ends. So a killed process blocks nobody, and
its trials are known to be lost at once. In a database, a process tells every half minute that it is
alive.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from quickstudy.base.extras import optional
from quickstudy.base.shown import told

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MOST = 2**30  # bytes of a journal
SCHEMES = ("sqlite", "mysql", "mariadb", "postgresql", "oracle", "mssql", "cockroachdb")
BEAT = 30  # seconds between two signs of life in a database; after twice as many one is lost

_PROCESS = "process"


class Store(Protocol):
    """Where the trials of one tuning are kept, and how processes that share it keep apart."""

    storage: Any
    """The storage of Optuna."""

    def alone(self) -> Any:
        """A context in which no other process is, where the system can ensure that."""

    def begin(self, trial: Any) -> None:
        """Tell others that this process runs ``trial``; called within :meth:`alone`."""

    def end(self) -> None:
        """Tell others that this process runs no trial."""

    def fail_lost(self, study: Any) -> None:
        """Mark running trials whose process has ended as failed; called within :meth:`alone`."""

    def close(self) -> None:
        """Release what is held."""


def open_store(storage: str | os.PathLike[str] | None) -> Store:
    """In memory for None; else the file or the database at a URL, made where it is not there.

    Raises ImportError without Optuna; ValueError for a damaged file, an unknown kind of URL and a
    database that cannot be opened; OSError for a file that cannot be.
    """
    optuna = optional("optuna", "tune", "tune")
    if storage is None:
        return _Memory(optuna)
    if "://" in str(storage):
        return _Database(optuna, str(storage))
    path = Path(storage)
    if path.is_dir():
        raise IsADirectoryError(f"tune: storage {path} is a folder. Give the name of a file.")
    return _Journal(optuna, path)


class _Memory:
    def __init__(self, optuna: Any) -> None:
        self.storage = optuna.storages.InMemoryStorage()

    @contextmanager
    def alone(self) -> Iterator[None]:
        yield

    def begin(self, trial: Any) -> None:
        pass

    def end(self) -> None:
        pass

    def fail_lost(self, study: Any) -> None:
        pass

    def close(self) -> None:
        pass


class _Journal:
    """A journal in a file."""

    def __init__(self, optuna: Any, path: Path) -> None:
        self._states = optuna.trial.TrialState
        self._folder = path.with_name(f"{path.name}.processes")
        check_journal(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._alone = _Lock(self._folder / "alone.lock")
        journal = optuna.storages.journal
        # Optuna's own lock outlives a killed process, and makes all others wait half a minute.
        lock = _JournalLock(self._folder / "journal.lock", path) if fcntl else (
            journal.JournalFileOpenLock(str(path))
        )  # fmt: skip
        try:
            backend = journal.JournalFileBackend(str(path), lock_obj=lock)
            self.storage = optuna.storages.JournalStorage(backend)
        except OSError:
            raise
        except Exception as error:  # whatever wrong values raise in it
            raise _damaged(path, told(error)) from error
        with self.alone():
            self._own = _Lock(self._folder / f"{secrets.token_hex(8)}.lock")
            self._own.acquire()

    @contextmanager
    def alone(self) -> Iterator[None]:
        self._alone.acquire()
        try:
            yield
        finally:
            self._alone.release()

    def begin(self, trial: Any) -> None:
        trial.set_user_attr(_PROCESS, self._own.path.name)

    def end(self) -> None:
        pass

    def fail_lost(self, study: Any) -> None:
        if fcntl is None:
            return
        ended = self._remove_ended()
        for trial in study.get_trials(deepcopy=False, states=(self._states.RUNNING,)):
            name = str(trial.user_attrs.get(_PROCESS, ""))
            if name in ended or not (self._folder / Path(name).name).is_file():
                fail(study, trial)

    def _remove_ended(self) -> set[str]:
        """Remove the locks of processes that have ended; their names."""
        ended = set()
        for path in self._folder.glob("*.lock"):
            if path.name in ("alone.lock", "journal.lock", self._own.path.name):
                continue
            lock = _Lock(path)
            with suppress(OSError):
                if lock.acquire(wait=False):
                    ended.add(path.name)
                    path.unlink()
                    lock.release()
        return ended

    def close(self) -> None:
        with self.alone():
            self._own.path.unlink(missing_ok=True)
            self._own.release()


class _Database:
    """A database at a URL of SQLAlchemy."""

    def __init__(self, optuna: Any, url: str) -> None:
        shown_url = re.sub(r"//[^/@]*@", "//…@", url)  # without the password
        scheme = url.partition("://")[0].partition("+")[0]
        if scheme not in SCHEMES:
            raise ValueError(
                f"tune: storage {shown_url}: unknown kind of database, {scheme}. Give a file, or a "
                f"URL that begins with one of {', '.join(SCHEMES)}."
            )
        self._stop: threading.Event | None = None
        self._optuna = optuna
        try:
            with _quietly(optuna):
                self.storage = optuna.storages.RDBStorage(url, heartbeat_interval=BEAT)
        except Exception as error:  # of the driver, SQLAlchemy or Optuna
            raise ValueError(
                f"tune: storage {shown_url} cannot be opened: {told(error).splitlines()[0]}. Check "
                "the URL, and that the database and its Python driver are there; or give a file."
            ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        yield  # a database does each thing at once or not at all

    def begin(self, trial: Any) -> None:
        stop = self._stop = threading.Event()

        def beat() -> None:
            while True:
                with suppress(Exception):  # a beat that fails is made up for by the next
                    self.storage.record_heartbeat(trial._trial_id)
                if stop.wait(BEAT):
                    return

        threading.Thread(target=beat, daemon=True).start()

    def end(self) -> None:
        if self._stop is not None:
            self._stop.set()

    def fail_lost(self, study: Any) -> None:
        with _quietly(self._optuna):
            self._optuna.storages.fail_stale_trials(study)

    def close(self) -> None:
        self.end()
        self.storage.remove_session()


def fail(study: Any, trial: Any) -> None:
    """Mark a running trial as failed, unless somebody else has."""
    import optuna

    with suppress(optuna.exceptions.UpdateFinishedTrialError):
        study._storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.FAIL)


def check_journal(path: Path) -> None:
    """ValueError for a file that is no journal of Optuna, or a damaged one.

    A last line that is incomplete is no damage: the next process removes it.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    if not path.is_file():
        raise ValueError(f"tune: storage {path} is no regular file. Give another name.")
    if path.stat().st_size > MOST:
        raise ValueError(
            f"tune: storage {path} has over {MOST:,} bytes, more than any tuning needs. Give "
            "another file."
        )
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n") and (why := _wrong(line, number)):
                raise _damaged(path, f"line {number} {why}")


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"tune: storage {path} is no record of trials, or a damaged one: {why}. Restore the file, "
        "or give another name for a new one."
    )


def _wrong(line: bytes, number: int) -> str:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(entry, dict) or type(entry.get("op_code")) is not int:
        return "has no operation of Optuna"
    return "does not begin a study" if number == 1 and entry["op_code"] != 0 else ""


class _Lock:
    """A lock on a file, which ends with the process that holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, wait: bool = True) -> bool:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _JournalLock(_Lock):
    """What writers of a journal hold; who gets it first removes a line that was cut off."""

    def __init__(self, path: Path, journal: Path) -> None:
        super().__init__(path)
        self._journal = journal

    def acquire(self, wait: bool = True) -> bool:
        locked = super().acquire(wait)
        with self._journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return locked


@contextmanager
def _quietly(optuna: Any) -> Iterator[None]:
    """Without Optuna's remarks that its signs of life may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
