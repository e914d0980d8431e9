"""Recipes and files of a run that are damaged, or made to fill memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner

from quickstudy.base.shown import shown
from quickstudy.interfaces.cli import main
from quickstudy.interfaces.runs.folder import Run
from quickstudy.interfaces.runs.recipe import read_options, read_recipe, read_recipe_file
from quickstudy.training.log import read_metrics

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

RECIPES = {
    "aliases": LAUGHS,
    "aliases in options": "options: {scale: &a [1], norm: *a}\n",
    "an alias of itself": "a: &a [*a]\n",
    "levels": "ways: " + "[" * 1000,
    "closed levels": "ways: " + "[" * 300 + "]" * 300,
    "levels of mappings": "ways: " + "{a: " * 300 + "1" + "}" * 300,
    "a long text": "ways: " + "x" * 16_000,
    "more than a recipe": "x" * 300_000,
    "a long name": "x" * 1000 + ": 1",
    "many digits": "seed: " + "1" * 5000,
    "many hexadecimal digits": "seed: 0x" + "f" * 5000,
    "a wide list": "ways: [" + "1," * 1000 + "]",
    "a date that is none": "seed: 2001-99-99",
    "a number that is none": "seed: !!int ''",
    "a code tag": "seed: !!python/object/apply:os.system [ls]",
    "a key that is a list": "? [a, b]\n: 1",
    "bytes that are no text": b"ways: \xff\xfe",
    "sixty": "seed: " + ":".join(["59"] * 2000),
    "a giant": "channels: 1000000000",
    "infinity": "rate: .inf",
    "not a number": "rate: .nan",
    "a number of the wrong kind": "steps: 1.5",
    "a list of recipes": "- ways: 5",
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_hostile_recipe_is_refused_in_bounded_memory_and_words(tmp_path, kind):
    file, content = tmp_path / "recipe.yaml", RECIPES[kind]
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"\w") as caught:
        read_recipe(read_recipe_file(file))
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()
    assert len(str(caught.value)) < 1200


def test_an_option_is_bounded_as_a_recipe_is():
    for value in ("[" * 3000, "{a: &a [1], b: *a}", "x" * 100_000, "!!int ''"):
        with pytest.raises(ValueError, match=r"--set: .*is not a YAML value") as caught:
            read_options([f"scale={value}"])
        assert len(str(caught.value)) < 600


def test_values_in_messages_are_short_whatever_they_are():
    shared = ["x"]
    for _ in range(30):
        shared = [shared] * 9
    deep: list = []
    for _ in range(100_000):
        deep = [deep]

    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert [shown(v) for v in (5, "five", [1, 2], {"a": None}, (1.5,))] == [
        "5", "'five'", "[1, 2]", "{'a': None}", "(1.5,)",
    ]  # fmt: skip
    for value in (
        shared,
        deep,
        "x" * 10**6,
        1 << 60_000,
        dict.fromkeys(range(99), shared),
        Broken(),
    ):
        assert 0 < len(shown(value)) <= 200
    while deep:  # a list of so many levels ends Python when it is deleted at once
        deep = deep.pop()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "x"
    Run.create(read_recipe({"device": "cpu"}), path)
    return path


DAMAGED = [
    b"", b"{", b"null", b"5", b"[]", b"[[1]]", b'"text"', b'{"ways": []}', b'{"rows": 1}',
    b"\xff\xfe", b"[" * 3000, b"[" * 3000 + b"]" * 3000, b'{"a":' * 3000 + b"1" + b"}" * 3000,
    b"9" * 5000, b"[" * 100 + b"]" * 100, b'{"ways": "' + b"x" * 10_000 + b'"}',
    b'{"versions": 5}', b'{"command": {}}', b" " * (2**20 + 1),
    b'{"rows": [{"statistics": {"a": {"type": "float32", "tasks": [[[]]]}}}]}',
]  # fmt: skip


@pytest.mark.parametrize("name", ["recipe.json", "origin.json", "evaluation.json"])
@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files_of_a_run_are_named(run, name, content):
    intact = (run / name).read_bytes() if (run / name).exists() else None
    (run / name).write_bytes(content)
    read = {"recipe.json": lambda: Run.open(run), "origin.json": lambda: Run.open(run).origin,
            "evaluation.json": lambda: Run.open(run).evaluation()}  # fmt: skip
    try:
        with pytest.raises(ValueError, match=rf"{name}: ") as caught:
            read[name]()
        assert len(str(caught.value)) < 600
    finally:
        (run / name).unlink() if intact is None else (run / name).write_bytes(intact)


@pytest.mark.parametrize("line", [
    "{", "5", '{"step": "1"}', "[" * 3000, "9" * 5000, "\ufffd", '{"step": ' + "[" * 2000,
])  # fmt: skip
def test_damaged_lines_of_a_log_are_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl is not") as caught:
        read_metrics(path)
    assert len(str(caught.value)) < 600
    path.write_bytes(b'{"step": 1}\n\xff\n')
    with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl is not"):
        read_metrics(path)


def test_the_command_line_shows_no_traceback_for_hostile_recipes(tmp_path):
    file = tmp_path / "recipe.yaml"
    for content in (LAUGHS, RECIPES["levels"], json.dumps({"ways": [[[5]]]})):
        file.write_text(content)
        result = CliRunner().invoke(main, ["run", "--config", str(file)])
        assert result.exit_code == 1
        assert str(file) in result.output or "ways" in result.output
        assert isinstance(result.exception, SystemExit)
