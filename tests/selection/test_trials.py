"""Trials: the same whatever interrupts them, shared by processes, kept or refused.

The objective is arithmetic, so that a test may run hundreds of trials. Killed processes are forked:
they import nothing, so a kill costs milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quickstudy.learners.cards import Range
from quickstudy.selection.tuning.storage import open_store
from quickstudy.selection.tuning.trial import Pruned, Row, Trial, seed_of
from quickstudy.selection.tuning.trials import Trials

optuna = pytest.importorskip("optuna")
FORK = multiprocessing.get_context("fork")
SPACE = {"x": Range(-1.0, 1.0), "k": Range(1, 64, log=True), "kind": ("a", "b")}
ABOUT = {"problem": "parabola"}


def parabola(trial: Trial) -> tuple[float, Any]:
    """Best at x = 0.3 with kind b; four reports, each nearer to the end."""
    x, kind = trial.settings["x"], trial.settings["kind"]
    score = 1 - (x - 0.3) ** 2 - 0.1 * (kind == "a") + 1e-6 * (trial.seed % 7)
    for share in (0.4, 0.6, 0.8, 1.0):
        trial.report(score * share)
    return score, {"seed": trial.seed}


def tuning(storage: Any, seed: int = 0, **changes: Any) -> Trials:
    usual = {"x": 0.0, "k": 8, "kind": "a"}
    values: dict[str, Any] = {
        "name": "quickstudy", "about": ABOUT, "space": SPACE, "usual": usual, "higher": True,
        "seed": seed,
    }  # fmt: skip
    return Trials(open_store(storage), **{**values, **changes})


def tried(
    storage: Any, trials: int = 12, objective: Callable[..., Any] = parabola, **how: Any
) -> list[Row]:
    found = tuning(storage, **how)
    found.run(objective, trials)
    found.store.close()
    return timeless(found.rows())


def timeless(rows: list[Row]) -> list[Row]:
    return [replace(row, seconds=0.0, retries=0) for row in rows]


def journal(tmp_path: Path) -> Path:
    return tmp_path / "trials"


def test_memory_a_file_and_a_database_hold_the_same_trials(tmp_path: Path) -> None:
    in_memory = tried(None)
    assert tried(tmp_path / "trials") == in_memory
    assert tried(f"sqlite:///{tmp_path / 'trials.db'}", 4) == in_memory[:4]
    assert tried(None, seed=1) != in_memory


def test_the_first_trial_has_the_usual_settings_and_is_not_cut_short() -> None:
    for seed in range(3):
        first, *others = tried(None, 5, seed=seed)
        assert first.settings == {"x": 0.0, "k": 8, "kind": "a"}
        assert first.state == "complete"
        assert first.facts == {"seed": seed}
        assert len({row.facts["seed"] for row in others if row.facts}) == sum(
            row.facts is not None for row in others
        )


def test_tuning_finds_the_optimum() -> None:
    """Within 0.2 of the optimum; over twenty seeds the farthest was 0.04."""
    for seed in range(2):
        complete = [row for row in tried(None, 30, seed=seed) if row.state == "complete"]
        best = max(complete, key=lambda row: row.score or 0.0)
        assert abs(best.settings["x"] - 0.3) < 0.2
        assert best.settings["kind"] == "b"


def test_trials_are_cut_short_as_by_successive_halving() -> None:
    """An independent account of which trials go on: the better half of those that came as far."""
    reached: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for row in tried(None, 30):
        cut = False
        for number, score in enumerate(row.reports, 1):
            if number in reached:
                reached[number].append(score)
                order = sorted(reached[number], reverse=True)
                best = order[: max(1, len(order) // 2)]
                cut = score < best[-1]
            if cut and row.place:
                assert row.state == "pruned"
                assert number == len(row.reports)
                break
        else:
            assert row.state == "complete"


def test_more_trials_later_go_on_from_the_first(tmp_path: Path) -> None:
    file = journal(tmp_path)
    tried(file, 5)
    assert len(tried(file, 5)) == 5
    assert tried(file, 12) == tried(None, 12)
    assert len(tried(file, 3)) == 12


def test_a_minute_that_is_over_begins_no_trial() -> None:
    found = tuning(None)
    found.run(parabola, 10, minutes=1e-9)
    assert not found.rows()


def slow(trial: Trial) -> tuple[float, Any]:
    time.sleep(0.01)
    return parabola(trial)


def killed_while(file: Path, objective: Callable[[Trial], Any], seconds: float) -> None:
    process = FORK.Process(target=tried, args=(file, 12, objective))
    process.start()
    process.join(seconds)
    if process.pid and process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_killed_processes_cost_their_trial_and_change_nothing(tmp_path: Path) -> None:
    file, retries = journal(tmp_path), 0
    for turn in range(6):
        killed_while(file, slow, 0.1 + 0.03 * turn)
    found = tuning(file)
    found.run(parabola, 12)
    retries = sum(row.retries for row in found.rows())
    found.store.close()
    assert timeless(found.rows()) == tried(None)
    assert 1 <= retries <= 6


def hopeful(trial: Trial) -> tuple[float, Any]:
    """Trial 3 is second of four after its first report, but third if trial 2 counted twice."""
    score = [0.1, 0.5, 0.9, 0.6, 0.2][trial.place]
    trial.report(score)
    return score, None


def killed_after_a_report(trial: Trial) -> tuple[float, Any]:
    found = hopeful(trial)
    if trial.place == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return found


def test_reports_of_a_killed_process_do_not_count_twice(tmp_path: Path) -> None:
    file = journal(tmp_path)
    killed_while(file, killed_after_a_report, 30)
    assert len(open_rows(file)) == 3
    rows = tried(file, 5, hopeful)
    assert rows == tried(None, 5, hopeful)
    assert [row.state for row in rows][2:] == ["complete", "complete", "pruned"]


def open_rows(file: Path) -> list[Row]:
    found = tuning(file)
    found.store.close()
    return found.rows()


def die_with_the_journal(file: Path) -> None:
    store = open_store(file)
    store.storage._backend._lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_while_it_writes_blocks_nobody(tmp_path: Path) -> None:
    file = journal(tmp_path)
    tried(file, 2)
    process = FORK.Process(target=die_with_the_journal, args=(file,))
    process.start()
    process.join()
    began = time.monotonic()
    assert len(tried(file, 3)) == 3
    assert time.monotonic() - began < 20  # Optuna's own lock would wait for 30 seconds


def test_a_line_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    file = journal(tmp_path)
    tried(file, 5)
    content = file.read_bytes()
    file.write_bytes(content + b'{"op_code":4,"worker')
    assert tried(file) == tried(None)
    assert b"worker{" not in file.read_bytes()


@pytest.mark.parametrize("url", [False, True])
def test_processes_at_once_share_the_trials(tmp_path: Path, url: bool) -> None:
    file = f"sqlite:///{tmp_path / 'trials.db'}" if url else journal(tmp_path)
    tried(file, 1)  # tables of a database are not made by two at once
    processes = [FORK.Process(target=tried, args=(file, 8, slow)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    rows = tried(file, 8)
    assert [row.place for row in rows] == list(range(8))
    assert {row.state for row in rows} <= {"complete", "pruned"}


def test_a_running_trial_of_a_living_process_is_left_to_it(tmp_path: Path) -> None:
    file = journal(tmp_path)
    other = tuning(file)
    other._begin(4)
    rows = tried(file, 4)
    assert rows[0].state == "running"
    assert [row.place for row in rows if row.state != "running"] == [1, 2, 3]
    other.store.close()
    assert tried(file, 4)[0].state == "complete"


def test_an_error_in_a_trial_is_its_reason(tmp_path: Path) -> None:
    def fragile(trial: Trial) -> tuple[float, Any]:
        if trial.place in (0, 3):
            raise RuntimeError("the loss is not finite")
        if trial.place == 4:
            return float("nan"), None
        return parabola(trial)

    rows = tried(journal(tmp_path), 8, fragile)
    assert [row.place for row in rows if row.state == "failed"] == [0, 3, 4]
    assert rows[3].reason == "RuntimeError: the loss is not finite"
    assert "its score is nan" in rows[4].reason
    assert tried(journal(tmp_path), 8) == rows, "failed trials are not done again"


def test_an_interrupted_trial_is_done_again(tmp_path: Path) -> None:
    def interrupted(trial: Trial) -> tuple[float, Any]:
        if trial.place == 3:
            raise KeyboardInterrupt
        return parabola(trial)

    with pytest.raises(KeyboardInterrupt):
        tried(journal(tmp_path), objective=interrupted)
    assert tried(journal(tmp_path)) == tried(None)


def test_a_trial_leads_where_none_is_better() -> None:
    leads = []

    def objective(trial: Trial) -> tuple[float, Any]:
        score = [0.5, 0.4, 0.6, 0.6][trial.place]
        leads.append(trial.leads(score))
        return score, None

    tried(None, 4, objective)
    assert leads == [True, False, True, True]
    leads.clear()
    tried(None, 4, objective, higher=False)
    assert leads == [True, True, False, False]


def test_seeds_differ_by_place_and_by_purpose() -> None:
    assert seed_of(5, 0) == 5
    found = {seed_of(s, p, w) for s in range(10) for p in range(1, 50) for w in ("training", "new")}
    assert len(found) == 980
    assert all(0 <= seed < 2**31 for seed in found)


def test_settings_that_matter_are_found() -> None:
    found = tuning(None)
    found.run(lambda trial: (1 - (trial.settings["x"] - 0.3) ** 2, None), 20)
    shares = found.importance()
    assert max(shares, key=lambda name: shares[name]) == "x"
    few = tuning(None)
    few.run(parabola, 5)
    assert few.importance() == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"learner: maml\n", "line 1 is not JSON"),
        (b"[]\n", "line 1 has no operation of Optuna"),
        (b'{"op_code": 4}\n', "line 1 does not begin a study"),
        (b'{"op_code": 0}\n', "damaged one: .*study_name|damaged one: "),
        (b"\xff\xfe\n", "line 1 is not JSON"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = journal(tmp_path)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"storage {file} is no record.*{message}.*Restore"):
        tuning(file)
    assert file.read_bytes() == content


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = journal(tmp_path)
    tried(file, 3)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4][:10] + b"\n"
    file.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="line 5 is not JSON"):
        tuning(file)


def test_a_storage_of_another_problem_is_refused(tmp_path: Path) -> None:
    file = journal(tmp_path)
    tried(file, 2)
    with pytest.raises(ValueError, match="problem is parabola there, and cubic here"):
        tuning(file, about={"problem": "cubic"})
    with pytest.raises(ValueError, match="steps is None there, and 5 here"):
        tuning(file, about={**ABOUT, "steps": 5})
    other = f"sqlite:///{tmp_path / 'other.db'}"
    study = optuna.create_study(storage=other, study_name="quickstudy")
    study.add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(ValueError, match="a study that tuning did not make"):
        tuning(other)
    assert len(tried(other, 2, name="mine")) == 2


def test_a_storage_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown kind of database, redis.*sqlite"):
        open_store("redis://localhost")
    with pytest.raises(ValueError, match=r"postgresql://…@nowhere/x cannot be opened") as caught:
        open_store("postgresql://me:secret@nowhere/x")
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match=r"cannot be opened.*unable to open"):
        open_store(f"sqlite:///{tmp_path}/no/such/folder/trials.db")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        open_store(tmp_path)


def test_a_pruned_trial_is_an_end_and_no_error() -> None:
    def stops(trial: Trial) -> tuple[float, Any]:
        trial.report(0.1)
        raise Pruned

    row = tried(None, 2, stops)[1]
    assert (row.state, row.score, row.reason) == ("pruned", 0.1, "")
