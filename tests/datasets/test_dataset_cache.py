import json
import multiprocessing

import numpy as np
import pytest
import torch

from quickstudy.datasets import cache
from quickstudy.tasks.rows import LabelledRows

RECIPE = {"version": 1}


def splits(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LabelledRows(
            torch.randint(0, 256, (6, 1, 5, 5), generator=generator).to(torch.uint8),
            torch.tensor([2, 4]),
            (f"{name} ä", f"{name} b"),
        )
        for name in ("train", "val", "test")
    }


def never():
    raise AssertionError("built although a good copy lies there")


def test_the_copy_equals_what_was_built(tmp_path):
    built = cache.cached(tmp_path, "toy", RECIPE, splits)
    read = cache.cached(tmp_path, "toy", RECIPE, never)
    for name, part in splits().items():
        for found in (built[name], read[name]):
            assert torch.equal(found.inputs, part.inputs)
            assert found.names == part.names
            assert found.counts.tolist() == [2, 4]


def test_each_recipe_has_its_own_file(tmp_path):
    cache.cached(tmp_path, "toy", RECIPE, splits)
    other = cache.cached(tmp_path, "toy", {"version": 2}, lambda: splits(1))
    assert torch.equal(other["val"].inputs, splits(1)["val"].inputs)


def damage_bytes(rows, index):
    data = bytearray(rows.read_bytes())
    data[-3] ^= 1
    rows.write_bytes(data)


def damage_length(rows, index):
    rows.write_bytes(rows.read_bytes()[:-40])


def damage_empty(rows, index):
    rows.write_bytes(b"")


def damage_index(rows, index):
    index.write_text(index.read_text()[:100])


def damage_no_index(rows, index):
    index.unlink()


def damage_name(rows, index):
    index.write_text(index.read_text(encoding="utf-8").replace("train b", "train c"))


def edit_index(index, edit):
    meta = json.loads(index.read_text(encoding="utf-8"))
    edit(meta)
    index.write_text(json.dumps(meta), encoding="utf-8")


def damage_counts(rows, index):
    edit_index(index, lambda meta: meta["splits"]["train"].update(counts=[4, 2]))


def damage_left_out(rows, index):
    edit_index(index, lambda meta: meta.update(left_out=["an image"]))


def damage_no_splits(rows, index):
    edit_index(index, lambda meta: meta.pop("splits"))


def damage_no_digest(rows, index):
    edit_index(index, lambda meta: meta.pop("sha256"))


def damage_list(rows, index):
    index.write_text("[1, 2]")


def damage_deep(rows, index):
    index.write_text("[" * 100_000)


def damage_zip(rows, index):
    with rows.open("wb") as stream:
        np.savez(stream, rows=np.zeros(3, np.uint8))


def damage_pickle(rows, index):
    np.save(rows, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "damage",
    [function for name, function in sorted(globals().items()) if name.startswith("damage_")],
)
def test_a_damaged_copy_is_built_again(tmp_path, damage):
    cache.cached(tmp_path, "toy", RECIPE, splits)
    (rows,), (index,) = tmp_path.glob("toy/*.npy"), tmp_path.glob("toy/*.json")
    damage(rows, index)
    with pytest.raises(AssertionError):
        cache.cached(tmp_path, "toy", RECIPE, never)
    again = cache.cached(tmp_path, "toy", RECIPE, splits)
    assert torch.equal(again["test"].inputs, splits()["test"].inputs)


def test_a_copy_of_another_recipe_is_ignored(tmp_path):
    cache.cached(tmp_path, "toy", RECIPE, splits)
    mine = {path.suffix: path for path in tmp_path.glob("toy/*")}
    other = {"version": 2}
    cache.cached(tmp_path, "toy", other, lambda: splits(1))
    for path in tmp_path.glob("toy/*"):
        if path not in mine.values():
            path.write_bytes(mine[path.suffix].read_bytes())
    again = cache.cached(tmp_path, "toy", other, lambda: splits(1))
    assert torch.equal(again["test"].inputs, splits(1)["test"].inputs)


def test_an_incomplete_copy_is_used_unless_a_complete_one_is_required(tmp_path):
    def load(build, complete=False):
        return cache.cached_incomplete(tmp_path, "toy", RECIPE, build, complete=complete)

    load(lambda: cache.Decoded(splits(), ("7.png: incomplete",)))
    assert load(never).left_out == ("7.png: incomplete",)
    with pytest.raises(AssertionError):
        load(never, complete=True)
    assert load(lambda: cache.Decoded(splits(1)), complete=True).left_out == ()
    assert torch.equal(load(never, complete=True).splits["val"].inputs, splits(1)["val"].inputs)


def test_writing_to_the_rows_does_not_change_the_file(tmp_path):
    cache.cached(tmp_path, "toy", RECIPE, splits)["train"].inputs.zero_()
    read = cache.cached(tmp_path, "toy", RECIPE, never)
    assert torch.equal(read["train"].inputs, splits()["train"].inputs)


def test_a_failed_build_leaves_no_file(tmp_path):
    with pytest.raises(AssertionError):
        cache.cached(tmp_path, "toy", RECIPE, never)
    assert list((tmp_path / "toy").iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.replace_atomically(path, fail)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def _build_once(root):
    cache.cached(root, "toy", RECIPE, splits)


def test_processes_may_build_at_the_same_time(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_build_once, args=(tmp_path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(list((tmp_path / "toy").iterdir())) == 2
    read = cache.cached(tmp_path, "toy", RECIPE, never)
    assert torch.equal(read["train"].inputs, splits()["train"].inputs)


def test_a_root_without_write_permission_is_not_written_to(tmp_path, monkeypatch):
    root, mine = tmp_path / "root", tmp_path / "mine"
    (root / "toy").mkdir(parents=True)
    (root / "toy").chmod(0o555)
    monkeypatch.setattr(cache, "user_cache", lambda: mine)
    cache.cached(root, "toy", RECIPE, splits)
    assert list((root / "toy").iterdir()) == []
    assert len(list((mine / "toy").iterdir())) == 2


def test_root_is_argument_then_environment_then_user_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUICKSTUDY_DATA", str(tmp_path / "env"))
    assert cache.data_root(tmp_path) == tmp_path
    assert cache.data_root(None) == tmp_path / "env"
    monkeypatch.delenv("QUICKSTUDY_DATA")
    assert cache.data_root(None) == cache.user_cache()


def test_the_index_lists_recipe_and_images_left_out(tmp_path):
    cache.cached(tmp_path, "toy", RECIPE, splits)
    (index,) = tmp_path.glob("toy/*.json")
    meta = json.loads(index.read_text())
    assert meta["recipe"] == RECIPE
    assert meta["splits"]["val"] == {"names": ["val ä", "val b"], "counts": [2, 4]}
