"""Atomic writes: what a crash, a full disk and a second writer leave behind."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

import quickstudy as qs
from quickstudy.base import atomic
from quickstudy.base.atomic import (
    append_line,
    create_atomically,
    remove_abandoned,
    replace_atomically,
    write_atomically,
)
from quickstudy.datasets.cache import cached
from quickstudy.tasks.rows import LabelledRows
from quickstudy.training.log import Log


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def killed_while_writing(path):
    """A process that ends without any clean-up, with a part of its file written."""
    child = os.fork()
    if child == 0:

        def write(temporary):
            temporary.write_bytes(b"half")
            os._exit(9)

        replace_atomically(path, write)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_the_next_write_removes_what_a_killed_process_left(tmp_path):
    path = tmp_path / "rows.npy"
    write_atomically(path, b"old")
    killed_while_writing(path)
    assert len(names(tmp_path)) == 2
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert names(tmp_path) == ["rows.npy"]
    assert path.read_bytes() == b"new"


def test_the_file_of_a_writer_at_work_is_kept(tmp_path):
    """In this process too, where another thread writes."""
    path, seen = tmp_path / "x", []

    def write(temporary):
        temporary.write_bytes(b"first")
        other = threading.Thread(target=write_atomically, args=(path, b"second"))
        other.start()
        other.join()
        remove_abandoned(tmp_path)
        seen.append(temporary.exists())

    replace_atomically(path, write)
    assert seen == [True]
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["x"]


def test_only_temporary_files_of_ours_are_removed(tmp_path):
    kept = [".x.tmp", ".x.0123.tmp", "x.0123456789abcdef.tmp", ".x.0123456789abcdef.tmp.gz"]
    for name in (*kept, ".x.0123456789abcdef.tmp", ".y.0123456789abcdef.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".x.1123456789abcdef.tmp").mkdir()
    (tmp_path / ".x.2123456789abcdef.tmp").symlink_to(tmp_path / ".x.tmp")
    write_atomically(tmp_path / "x", b"")
    assert ".x.0123456789abcdef.tmp" not in names(tmp_path)
    assert ".y.0123456789abcdef.tmp" in names(tmp_path), "of another file"
    remove_abandoned(tmp_path)
    links = [".x.1123456789abcdef.tmp", ".x.2123456789abcdef.tmp"]
    assert names(tmp_path) == sorted([*kept, *links, "x"])


def test_without_locks_only_old_files_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    new, old = tmp_path / ".x.0123456789abcdef.tmp", tmp_path / ".x.1123456789abcdef.tmp"
    new.touch()
    old.touch()
    os.utime(old, (0, time.time() - 90_000))
    write_atomically(tmp_path / "x", b"content")
    assert names(tmp_path) == [new.name, "x"]


def test_of_two_that_create_a_file_one_is_refused(tmp_path, monkeypatch):
    create_atomically(tmp_path / "x", b"first")

    def no_links(*_):
        raise OSError(errno.EPERM, "no hard links here")

    with pytest.raises(FileExistsError):
        create_atomically(tmp_path / "x", b"second")
    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(FileExistsError):
        create_atomically(tmp_path / "x", b"second")
    create_atomically(tmp_path / "y", b"third")
    assert (tmp_path / "x").read_bytes() == b"first"
    assert (tmp_path / "y").read_bytes() == b"third"
    assert names(tmp_path) == ["x", "y"]


FAILURES = [
    (errno.ENOSPC, "the disk is full.*Free some space"),
    (errno.EDQUOT, "quota is used up.*Delete files"),
    (errno.EROFS, "read-only.*another folder"),
    (errno.EACCES, "permission is missing.*another folder"),
    (errno.EIO, "disk reports an error.*Check the disk"),
    (errno.EBUSY, "busy.*another folder"),
]


@pytest.mark.parametrize(("number", "message"), FAILURES)
def test_a_disk_that_cannot_be_written_is_named_with_the_remedy(
    tmp_path, monkeypatch, number, message
):
    """Whatever is written: a predictor, a decoded data set, a log, any other file."""
    log = Log(tmp_path / "metrics.jsonl")
    learner = qs.Prototypical(qs.backbones.MLP(2))

    def failing(*_):
        raise OSError(number, os.strerror(number))

    def rows():
        import torch

        return {"train": LabelledRows(torch.zeros(2, 1).byte(), torch.tensor([2]), ("a",))}

    monkeypatch.setattr(os, "fsync", failing)
    for file, write in (
        ("p.safetensors", lambda: qs.save(learner, tmp_path / "p.safetensors")),
        (r"decoded-\w+.npy", lambda: cached(tmp_path, "set", {"version": 1}, rows)),
        ("new", lambda: create_atomically(tmp_path / "new", b"x")),
        ("report.html", lambda: write_atomically(tmp_path / "report.html", b"x")),
    ):
        with pytest.raises(OSError, match=f"{file}: cannot be written: .*{message}") as caught:
            write()
        assert caught.value.errno == number
    monkeypatch.setattr(os, "write", failing)
    with pytest.raises(OSError, match=f"metrics.jsonl: cannot be written: .*{message}"):
        log.add({"step": 1})
    assert names(tmp_path) == ["metrics.jsonl", "set"]
    assert names(tmp_path / "set") == []


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "deeper" / "x"):
        with pytest.raises(NotADirectoryError, match=f"{path}: .*a part of its path is a file"):
            write_atomically(path, b"")


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path, write = tmp_path / "metrics.jsonl", os.write
    append_line(path, "first")
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    with pytest.raises(OSError, match=r"metrics\.jsonl: cannot be written: the disk is full"):
        append_line(path, "second")
    monkeypatch.undo()
    append_line(path, "third")
    assert path.read_text() == "first\nthird\n"
