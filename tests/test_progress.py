"""How far runs are, on a terminal and in a log."""
import pytest

from benchmarks import progress
from benchmarks.grid import Spec
from benchmarks.results import Store

FIRST, SECOND, THIRD, FOURTH = (Spec("digits", "gmp", 0.9, seed) for seed in range(4))
ROW = {"status": "ok", "top1": 97.123}


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(monkeypatch):
    """What a launch without a terminal reports."""
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return []


@pytest.mark.parametrize("seconds, shown", [(0.4, "0:00:00"), (3661, "1:01:01"), (86399.6, "1 day, 0:00:00"), (200_000, "2 days, 7:33:20")])
def test_durations_do_not_start_anew_after_a_day(seconds, shown):
    assert progress.duration(seconds) == shown


def test_runs_that_did_not_end_well_are_named_with_their_options(tmp_path, capsys):
    """And with their logs, where there are any."""
    row = dict(key="k", status="failed", task="digits", method="gmp", options="width=2.0", sparsity=0.9, seed=1, error="no")
    store = Store(tmp_path)
    store.log("k").touch()
    assert progress.name_bad([row, row | dict(key="collected", status="diverged", options="")], store) == 1
    assert capsys.readouterr().err == (f"failed: digits gmp width=2.0 sparsity 0.9 seed 1: no (log: {store.log('k')})\n"
                                       "diverged: digits gmp sparsity 0.9 seed 1: no\n")


@pytest.mark.parametrize("seconds, shown", [
    (0.0312, "0.03 s"), (9.996, "10.0 s"), (99.96, "100 s"), (45.67, "45.7 s"), (119.7, "120 s"), (120, "2.00 minutes"), (7199, "120 minutes"), (7200, "2.00 hours"),
    (200_000, "55.6 hours"), (827_510.4, "9.58 days"), (123_456_789, "1,429 days")])
def test_long_times_are_in_units_that_people_name(seconds, shown):
    assert progress.spoken(seconds) == shown


def test_a_log_has_a_line_for_every_run_and_now_and_then(clock, lines):
    bar = progress.Bar(dict.fromkeys((FIRST, SECOND, THIRD, FOURTH), 30), lines.append)
    clock[0] += 100
    bar.tick(FIRST, 0.0)
    bar.tick(SECOND, 0.0)
    bar.tick(FIRST, 0.5)
    assert lines == []
    clock[0] += progress.EVERY
    bar.tick(SECOND, 0.5)  # 400 s for one run of four
    assert lines == ["[25 %, 0:20:00 to go]"]
    clock[0] += 1
    bar.tick(SECOND, 0.6)
    assert len(lines) == 1
    clock[0] += 199
    bar.done(SECOND, ROW)  # 600 s for one and a half
    assert lines[1:] == ["[1/4, 0:16:40 to go] digits gmp sparsity 0.9 seed 1: 97.12 % of the test images in the last epoch"]
    bar.done(FIRST, {"status": "failed", "error": "no memory"})
    assert lines[2:] == ["[2/4, 0:10:00 to go] digits gmp sparsity 0.9 seed 0: failed: no memory"]
    bar.done(THIRD, ROW)
    bar.done(FOURTH, ROW)
    assert lines[4].startswith("[4/4, 0:00:00 to go]")


def test_what_a_checkpoint_had_took_no_time(clock, lines):
    bar = progress.Bar({FIRST: 30}, lines.append)
    bar.tick(FIRST, 0.5)
    clock[0] += 400
    bar.tick(FIRST, 0.75)
    assert lines == ["[75 %, 0:06:40 to go]"]


def test_nothing_is_said_of_the_end_before_anything_is_done(clock, lines):
    bar = progress.Bar({FIRST: 30}, lines.append)
    clock[0] += 400
    bar.tick(FIRST, 0.5)
    assert lines == ["[50 %]"]


def test_rounding_is_not_taken_for_work(clock, lines):
    """1 + (1 + 5) / 19 is 2e-16 more than 1 + 1 / 19 + 5 / 19: by this measure the end would be beyond what a date can hold."""
    bar = progress.Bar(dict.fromkeys((FIRST, SECOND, THIRD, FOURTH), 1), lines.append)
    for spec, share in ((FIRST, 1.0), (SECOND, 1 / 19), (THIRD, 5 / 19)):
        bar.tick(spec, share)
    clock[0] += 100
    bar.done(FIRST, ROW)
    assert lines == ["[1/4] digits gmp sparsity 0.9 seed 0: 97.12 % of the test images in the last epoch"]


def test_runs_count_with_what_they_cost(clock, lines):
    """A run of 18 cycles and the last cycles of two that part from it: 20 to make."""
    bar = progress.Bar({FIRST: 18, SECOND: 1, THIRD: 1}, lines.append, {SECOND: 11 / 12, THIRD: 14 / 15})
    bar.tick(FIRST, 0.0)
    clock[0] += 900
    bar.tick(FIRST, 0.5)
    assert lines == ["[45 %, 0:18:20 to go]"]
    clock[0] += 900
    bar.done(FIRST, ROW)
    bar.tick(SECOND, 11 / 12)
    clock[0] += 400
    bar.tick(SECOND, 1 - 1 / 24)  # half of what it makes itself
    clock[0] += 80
    bar.done(SECOND, ROW)  # 2280 s for 19 of 20
    assert [line.partition("]")[0] for line in lines[1:]] == ["[1/3, 0:03:20 to go", "[92 %, 0:02:58 to go", "[2/3, 0:02:00 to go"]


@pytest.mark.parametrize("total, said", [(1, "| 00:00 gone, ? to go"), (2, "| 0.0 of 2 runs, 00:00 gone, ? to go")])
def test_a_terminal_has_a_bar(monkeypatch, capsys, total, said):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    lines = []
    bar = progress.Bar(dict.fromkeys((FIRST, SECOND)[:total], 30), lines.append)
    bar.done(FIRST, {"status": "failed", "error": "no memory"})
    bar.close()
    shown = capsys.readouterr()
    assert said in shown.err and f"{100 // total} %" in shown.err and lines == []
    assert "digits gmp sparsity 0.9 seed 0: failed: no memory" in shown.out + shown.err


def test_failed_runs_are_done_and_named_as_failed():
    assert progress.counted([ROW]) == "1 run done"
    assert progress.counted([ROW, {"status": "failed"}, {"status": "diverged"}]) == "3 runs done (1 of them failed)"


@pytest.mark.parametrize("number, noun, said", [(0, "run", "0 runs"), (1, "run", "1 run"), (2, "process", "2 processes"), (1, "process", "1 process")])
def test_a_number_of_things_in_words(number, noun, said):
    assert progress.several(number, noun) == said
