import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import quickstudy as qs
from made_up import random_classes
from quickstudy.base.trees import leaves
from quickstudy.tasks.numbering import Fingerprint, Stream, draw, draw_stacks, generator, task_seed
from quickstudy.tasks.splits import refuse_overlap, split_classes
from quickstudy.tasks.stacks import stack, stacks, unstack


def numbered(counts):
    """Rows whose value encodes class and index: 1000 * class + index."""
    rows = [1000 * c + i for c, n in enumerate(counts) for i in range(n)]
    names = tuple(f"c{i}" for i in range(len(counts)))
    return qs.LabelledRows(torch.tensor(rows).float()[:, None], torch.tensor(counts), names)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), ways=st.integers(2, 5), shots=st.integers(1, 3),
    queries=st.integers(1, 4),
)  # fmt: skip
def test_an_episode_has_the_requested_ways_shots_and_queries(seed, ways, shots, queries):
    task = qs.episodes(numbered([7, 9, 8, 12, 7]), ways, shots, queries)(generator(seed))
    support, query = task.support, task.query
    rows = torch.cat([support.inputs, query.inputs]).flatten()
    assert len(set(rows.tolist())) == ways * (shots + queries), "a row occurs twice"
    assert support.targets.bincount().tolist() == [shots] * ways
    assert query.targets.bincount().tolist() == [queries] * ways
    for way in range(ways):
        of_way = [e.inputs[e.targets == way].flatten() // 1000 for e in (support, query)]
        assert len(set(torch.cat(of_way).tolist())) == 1, "a way mixes classes"
    classes = support.inputs.flatten() // 1000
    assert len(set(classes.tolist())) == ways, "two ways share a class"


def test_every_row_and_class_is_drawn_equally_often():
    source = qs.episodes(numbered([6] * 5), ways=2, shots=1, queries=2)
    drawn = torch.cat([draw(source, 0, i).support.inputs.flatten() for i in range(6000)])
    _, counts = drawn.unique(return_counts=True)
    # 12,000 draws over 30 rows: 400 each, standard deviation about 20
    assert len(counts) == 30
    assert int(counts.min()) > 320
    assert int(counts.max()) < 480


def test_same_seed_same_task_and_names_agree():
    source = qs.episodes(numbered([9] * 6), ways=(2, 5), shots=(1, 3), queries=2)
    for seed in range(20):
        first, second = source(generator(seed)), source(generator(seed))
        assert all(a.equal(b) for a, b in zip(first.support, second.support, strict=True))
        names = source.names(generator(seed))
        order = [f"c{int(first.support.inputs[first.support.targets == w][0]) // 1000}"
                 for w in range(first.spec.outputs)]  # fmt: skip
        assert names == order


def test_ranges_include_their_ends_and_their_tasks_stack():
    source = qs.episodes(numbered([12] * 6), ways=(2, 5), shots=(1, 4), queries=3)
    tasks = [draw(source, 0, i) for i in range(200)]
    assert {t.spec.outputs for t in tasks} == {2, 3, 4, 5}
    shots = {len(t.support.targets) // t.spec.outputs for t in tasks}
    assert shots == {1, 2, 3, 4}
    batch = stack(tasks)
    assert batch.spec.outputs == 5
    assert batch.support.weights.sum(1).tolist() == [len(t.support.targets) for t in tasks]
    alone = unstack(batch)[7]
    present = alone.support.weights > 0
    assert alone.support.inputs[present].equal(tasks[7].support.inputs)


def test_shuffled_rows_are_the_same_rows_in_another_order():
    split = numbered([12] * 6)
    plain = qs.episodes(split, 5, 3, queries=4)
    mixed = qs.episodes(split, 5, 3, queries=4, shuffled=True)
    for seed in range(5):
        for a, b in zip(plain(generator(seed))[:2], mixed(generator(seed))[:2], strict=True):
            assert (a.targets.diff() >= 0).all()
            assert not (b.targets.diff() >= 0).all()
            rows = [dict(zip(e.inputs.flatten().tolist(), e.targets.tolist(), strict=True))
                    for e in (a, b)]  # fmt: skip
            assert rows[0] == rows[1]


def test_imbalanced_classes_draw_their_own_shots_and_disjoint_queries():
    source = qs.episodes(numbered([12] * 6), 5, shots=(1, 6), queries=3, imbalanced=True)
    seen = set()
    for i in range(100):
        task = draw(source, 0, i)
        counts = task.support.targets.bincount(minlength=5)
        assert task.query.targets.bincount().tolist() == [3] * 5
        support, query = (set(e.inputs.flatten().tolist()) for e in task[:2])
        assert not support & query
        seen |= set(counts.tolist())
    assert seen == {1, 2, 3, 4, 5, 6}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"ways": 20, "shots": 1}, "20 ways asked, but the split has 5 classes. Ask for at most 5"),
        ({"ways": 1, "shots": 1}, "at least 2 ways"),
        ({"ways": 2, "shots": 5, "queries": 5}, "need 10 rows per class, but class 'c0' has 6"),
        ({"ways": (4, 2), "shots": 1}, "range"),
        ({"ways": 2, "shots": 0}, "positive"),
        ({"ways": 3.0, "shots": 1}, "whole number .*found 3.0"),
        ({"ways": "3", "shots": 1}, "whole number .*found '3'"),
        ({"ways": (2, 3, 4), "shots": 1}, "range"),
        ({"ways": (2, 3.5), "shots": 1}, "range"),
        ({"ways": 2, "shots": True}, "whole number .*found True"),
        ({"ways": 2, "shots": 2, "queries": 1, "imbalanced": True}, "needs a range of shots"),
        ({"ways": 2, "shots": 2, "queries": 1, "imbalanced_queries": True}, "range of queries"),
    ],
)
def test_impossible_episodes_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        qs.episodes(numbered([6, 7, 8, 9, 10]), **kwargs)


def test_counts_may_come_from_numpy():
    source = qs.episodes(numbered([6] * 5), np.int64(3), (np.int32(1), np.int32(2)), np.int64(2))
    assert source == qs.episodes(source.classes, 3, (1, 2), 2)
    assert draw(source, 0, 0).spec.outputs == 3


def test_labelled_rows_refuse_inconsistent_arguments():
    rows = torch.zeros(4, 1)
    with pytest.raises(ValueError, match="empty"):
        qs.LabelledRows(rows, torch.tensor([4, 0]), ("a", "b"))
    with pytest.raises(ValueError, match="unique"):
        qs.LabelledRows(rows, torch.tensor([2, 2]), ("a", "a"))
    with pytest.raises(ValueError, match="add up to 3"):
        qs.LabelledRows(rows, torch.tensor([2, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="one name per class"):
        qs.LabelledRows(rows, torch.tensor([4]), ("a", "b"))
    with pytest.raises(ValueError, match="one per row"):
        qs.LabelledRows.from_labels(rows, [1, 2])


def test_from_labels_groups_rows():
    rows = torch.arange(5).float()[:, None]
    made = qs.LabelledRows.from_labels(rows, ["b", "a", "b", "c", "a"])
    assert made.names == ("a", "b", "c")
    assert made.inputs.flatten().tolist() == [1, 4, 0, 2, 3]
    assert made.rows(1).flatten().tolist() == [0, 2]


def test_rotations_are_separate_classes():
    made = qs.LabelledRows(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([1]), ("a",))
    turned = made.with_rotations()
    assert turned.names == ("a/rot000", "a/rot090", "a/rot180", "a/rot270")
    assert turned.rows(1).flatten().tolist() == [2, 4, 1, 3]  # counter-clockwise


def test_splits_are_disjoint_seeded_and_refused_where_they_overlap():
    classes = numbered([2] * 50)
    parts = split_classes(classes, seed=1)
    assert [len(p) for p in parts] == [32, 8, 10]
    assert sorted(n for p in parts for n in p.names) == sorted(classes.names)
    assert parts[0].names == split_classes(classes, seed=1)[0].names
    assert parts[0].names != split_classes(classes, seed=2)[0].names
    with pytest.raises(ValueError, match="train and test must not share classes, but 32"):
        refuse_overlap(train=parts[0], val=parts[1], test=parts[0])


def test_fingerprints_of_different_tasks_differ():
    def of(source, seed):
        print_ = Fingerprint()
        for i in range(5):
            print_.add(draw(source, seed, i))
        return print_.value

    source = qs.episodes(numbered([6] * 5), 3, 1, 2)
    assert of(source, 0) == of(source, 0)
    assert len({of(source, 0), of(source, 1), of(qs.episodes(numbered([6] * 5), 3, 1, 3), 0)}) == 3


def test_task_seeds_never_repeat_within_a_stream_and_streams_never_share_one():
    for seed in (0, 1, 2**63 - 1):
        seeds = [task_seed(seed, i) for i in range(100_000)]
        assert len(set(seeds)) == len(seeds)
        assert all(0 <= s < 2**64 for s in seeds)
        # torch's CPU generator reads the lower half alone.
        assert len({s % 2**32 for s in seeds}) == len(seeds)
    of_streams = [
        {task_seed(s, i, stream) % 2**32 for s in range(5) for i in range(10_000)}
        for stream in Stream
    ]
    assert not set.intersection(*of_streams[:2])
    assert sum(map(len, of_streams)) == len(set.union(*of_streams))
    assert task_seed(0, 7) != task_seed(1, 7)


def test_seeds_of_many_runs_have_64_bits_and_never_meet():
    """Of 200,000 seeds of 32 bits, about 5 pairs would be equal."""
    seeds = [task_seed(s, i, stream) for s in range(40) for i in range(2_500) for stream in
             (Stream.TRAINING, Stream.TEST)]  # fmt: skip
    assert len(set(seeds)) == len(seeds)


def test_a_seed_is_any_whole_number_and_nothing_else():
    assert task_seed(np.int64(3), np.int32(5)) == task_seed(3, 5)
    assert task_seed(torch.tensor(3), 5) == task_seed(3, 5)
    assert 0 <= task_seed(-1, 5) < 2**64
    for wrong in (0.5, "1", None):
        with pytest.raises(ValueError, match="must be whole numbers; found"):
            task_seed(wrong, 0)


@pytest.mark.parametrize("shift", [24, 56])
def test_task_seeds_are_spread_evenly(shift):
    seeds = np.array([task_seed(3, i) for i in range(64_000)], np.uint64)
    bits = (seeds >> np.uint64(shift)).astype(np.int64) & 63
    counts = np.bincount(bits, minlength=64)  # 1,000 each, deviation about 32
    assert counts.min() > 850
    assert counts.max() < 1150


def test_groups_of_zeros_do_not_change_a_fingerprint():
    def of(task):
        digest = Fingerprint()
        digest.add(task)
        return digest.value

    task = draw(qs.Sinusoids(2, 3), 0, 0)
    elsewhere = task._replace(query=task.query._replace(groups=task.query.groups + 1))
    bare = task._replace(query=task.query._replace(groups=task.query.groups.int()))
    assert of(task) == of(bare) != of(elsewhere)


def test_the_repr_of_labelled_rows_is_one_line():
    assert repr(numbered([2, 3])) == "LabelledRows(5 rows of 2 classes, (1,) float32)"
    text = {"ids": torch.zeros(4, 7, dtype=torch.long), "mask": torch.ones(4, 7, dtype=torch.bool)}
    made = qs.LabelledRows.from_labels(text, list("abab"))
    assert repr(made) == "LabelledRows(4 rows of 2 classes, ids (7,) int64, mask (7,) bool)"


def test_episodes_of_inputs_that_are_trees():
    ids = torch.arange(40).view(10, 4)
    made = qs.LabelledRows.from_labels({"ids": ids, "mask": ids >= 0}, [i % 2 for i in range(10)])
    task = draw(qs.episodes(made, 2, 2, 3), 0, 0)
    assert task.support.inputs["ids"].shape == (4, 4)
    assert task.query.inputs["mask"].dtype == torch.bool
    (stacked,) = draw_stacks(qs.episodes(made, 2, 2, 3), 0, range(3))
    assert stacked.task.query.inputs["ids"].shape == (3, 6, 4)


def test_only_images_may_be_uint8_in_a_tree_of_rows():
    image = torch.full((6, 1, 2, 2), 51, dtype=torch.uint8)
    made = qs.LabelledRows.from_labels({"image": image, "x": torch.ones(6, 2)}, list("ababab"))
    task = draw(qs.episodes(made, 2, 1, 2), 0, 0)
    torch.testing.assert_close(task.query.inputs["image"], torch.full((4, 1, 2, 2), 0.2))
    with pytest.raises(ValueError, match=r"LabelledRows: uint8 .*inputs.ids of shape \(6, 3\)"):
        qs.LabelledRows.from_labels({"ids": torch.ones(6, 3, dtype=torch.uint8)}, list("ababab"))


SOURCES = {
    "episodes": qs.episodes(random_classes(), 3, 2, 3),
    "shuffled": qs.episodes(random_classes(), 3, 2, 3, shuffled=True),
    "different sizes": qs.episodes(random_classes(), (2, 4), (1, 3), 2),
    "imbalanced": qs.episodes(numbered([7, 9, 8, 12, 7]), 3, (1, 3), 2, imbalanced=True),
    "sinusoids": qs.Sinusoids(3, 7),
    "a function": lambda generator: qs.Sinusoids(3, 7)(generator),
}


@pytest.mark.parametrize("name", SOURCES)
def test_tasks_drawn_as_a_stack_equal_tasks_drawn_one_by_one(name):
    source, numbers = SOURCES[name], range(4, 9)
    together = draw_stacks(source, 3, numbers)
    alone = stacks([draw(source, 3, i) for i in numbers])
    assert [s.places for s in together] == [s.places for s in alone]
    for a, b in zip(together, alone, strict=True):
        assert a.task.spec == b.task.spec
        for x, y in zip(leaves(a.task[:2]), leaves(b.task[:2]), strict=True):
            assert x.equal(y)
            assert (x.dtype, x.stride()) == (y.dtype, y.stride())  # so that compiled code fits both


def test_stacks_of_a_derived_source_use_its_overridden_methods():
    class ZeroTargets(qs.Sinusoids):
        def __call__(self, generator):
            task = super().__call__(generator)
            return task._replace(query=task.query._replace(targets=0 * task.query.targets))

    assert not draw_stacks(ZeroTargets(3, 7), 0, range(4))[0].task.query.targets.any()

    class ZeroAmplitude(qs.Sinusoids):
        def parameters(self, generator):
            amplitude, phase = super().parameters(generator)
            return 0 * amplitude, phase

    assert not draw_stacks(ZeroAmplitude(3, 7), 0, range(4))[0].task.query.targets.any()


def test_each_sinusoid_equals_the_one_drawn_singly():
    """To the bit, whatever the size of the stack: fingerprints depend on it."""
    for rows in (1, 7, 8, 33, 300):
        batch = draw_stacks(qs.Sinusoids(1, rows), 0, range(5))[0].task
        for i in range(5):
            numbers = generator(task_seed(0, i))
            amplitude, phase = torch.rand(2, generator=numbers)
            x = torch.rand(rows + 1, 1, generator=numbers) * 10 - 5
            y = (0.1 + 4.9 * amplitude) * torch.sin(x - torch.pi * phase)
            assert torch.cat([batch.support.inputs[i], batch.query.inputs[i]]).equal(x)
            assert torch.cat([batch.support.targets[i], batch.query.targets[i]]).equal(y)


def test_sinusoids_follow_their_formula():
    source = qs.Sinusoids(shots=5, queries=20)
    for seed in range(50):
        amplitude, phase = source.parameters(generator(seed))
        task = source(generator(seed))
        assert 0.1 <= float(amplitude) <= 5
        assert 0 <= float(phase) <= torch.pi
        for part in task[:2]:
            assert part.inputs.abs().max() <= 5
            torch.testing.assert_close(part.targets, amplitude * torch.sin(part.inputs - phase))
    with pytest.raises(ValueError, match="at least 1 shot"):
        qs.Sinusoids(shots=0)


@pytest.mark.parametrize("imbalanced", [False, True])
def test_each_class_may_draw_its_own_number_of_queries(imbalanced):
    source = qs.episodes(
        numbered([12] * 6), 4, (1, 3), queries=(2, 7), imbalanced=imbalanced,
        imbalanced_queries=True, shuffled=imbalanced,
    )  # fmt: skip
    seen, unequal = [], 0
    for i in range(150):
        task = draw(source, 0, i)
        counts = task.query.targets.bincount(minlength=4)
        shots = task.support.targets.bincount(minlength=4)
        assert 1 <= int(shots.min()) <= int(shots.max()) <= 3
        assert imbalanced or shots.unique().numel() == 1
        rows = torch.cat([task.support.inputs, task.query.inputs]).flatten()
        assert rows.unique().numel() == rows.numel()
        of_way = [set((e.inputs.flatten() // 1000).tolist()) for e in task[:2]]
        assert of_way[0] == of_way[1]
        seen += counts.tolist()
        unequal += counts.unique().numel() > 1
    # 600 draws of 6 numbers: 100 each, standard deviation about 9
    frequencies = torch.tensor(seen).bincount()[2:]
    assert len(frequencies) == 6
    assert 60 < int(frequencies.min()) <= int(frequencies.max()) < 140
    assert unequal > 140


def test_accuracy_of_unequal_classes_is_over_rows():
    source = qs.episodes(numbered([12] * 6), 3, 2, queries=(1, 9), imbalanced_queries=True)
    learner = qs.Prototypical(torch.nn.Identity())
    result = qs.evaluate(learner, source, 20)
    expected = []
    for i in range(20):
        task = draw(source, 0, i, Stream.TEST)
        right = learner(task.support, task.spec)(task.query.inputs).argmax(1) == task.query.targets
        expected.append(float(right.float().mean()))
    assert result.mean == pytest.approx(np.mean(expected), abs=1e-6)
