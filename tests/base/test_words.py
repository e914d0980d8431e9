from quickstudy.base.words import count


def test_one_thing_is_not_plural():
    assert [count(n, "file") for n in (0, 1, 2, 2000)] == [
        "0 files",
        "1 file",
        "2 files",
        "2,000 files",
    ]
    assert [count(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]
