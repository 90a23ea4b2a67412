"""How commands end: what is refused is one line and status 2, before anything is measured."""
import importlib
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace as Namespace

import pytest
from stored import ROOT

from benchmarks import __main__ as commands
from benchmarks import launch
from benchmarks.__main__ import insist, interrupt, main
from benchmarks.command import CAME, ENDINGS, command
from benchmarks.grid import Spec
from benchmarks.results import Store

MEASUREMENTS = ("overhead", "throughput", "scaling", "products", "trajectory", "training_flops", "store_speed", "sparse_speed", "sparse_growth",
                "sparse_training")
WAITS = "import time\nfrom pathlib import Path\nPath('begun').touch()\nwhile not Path('go').exists():\n    time.sleep(0.05)\n"
LAUNCH = """
import sys
from benchmarks.workers import worker
worker.PRELOADED[:] = ["waits"]
from benchmarks.__main__ import main
sys.exit(main(["launch", "digits", "--methods", "static", "--sparsity", "0.9", "--seeds", "1", "--epochs", "1", "--results", "results"]))
"""
MEASURED_BY = {"training_flops": "lines", "scaling": "PARTS", "sparse_speed": "measure"}


@pytest.fixture(params=MEASUREMENTS)
def script(request, monkeypatch):
    """A measurement's module, in which measuring is an error."""
    module = importlib.import_module(f"benchmarks.{request.param}")
    monkeypatch.setattr(module, MEASURED_BY.get(request.param, "measure"), None)
    return module


@pytest.mark.parametrize("words, said", [(["--results", "taken"], "taken"), (["--nope"], "--nope")])
def test_a_measurement_refuses_in_one_line_before_it_begins(script, words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    assert script.main(words) == 2
    out, line = capsys.readouterr()
    assert line.startswith("error: ") and said in line and line.count("\n") == 1 and not out


@pytest.mark.parametrize("words", [["--interval", "-1"], ["--interval", "0"], ["--gamma", "-1"], ["--gamma", "nan"], ["--gamma", "inf"]])
def test_training_flops_of_numbers_that_cannot_be_are_refused(words, tmp_path, capsys):
    module = importlib.import_module("benchmarks.training_flops")
    assert module.main([*words, "--results", str(tmp_path)]) == 2 and not (tmp_path / "performance").exists()
    line = capsys.readouterr().err
    assert line.startswith(f"error: {words[0]} must be ") and line.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in MEASUREMENTS if name not in ("trajectory", "training_flops", "store_speed")])
def test_a_table_with_other_columns_is_refused_and_stays(name, tmp_path, monkeypatch, capsys):
    module, table = importlib.import_module(f"benchmarks.{name}"), tmp_path / "performance" / f"{name}.csv"
    monkeypatch.setattr(module, MEASURED_BY.get(name, "measure"), None if name != "scaling" else {"width": None})
    table.parent.mkdir()
    table.write_text("another,header\n1,2\n")
    assert module.main(["--results", str(tmp_path)]) == 2
    assert "other columns" in capsys.readouterr().err and table.read_text() == "another,header\n1,2\n"


def test_the_third_ctrl_c_ends_a_hook_that_catches_everything():
    before = signal.getsignal(signal.SIGINT)
    try:
        for after in (before, signal.SIG_DFL):
            with pytest.raises(KeyboardInterrupt):
                insist(signal.SIGINT, None)
            assert signal.getsignal(signal.SIGINT) == after
    finally:
        CAME.clear()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("came", [[], [signal.SIGINT]])
def test_what_a_half_loaded_library_raises_after_a_signal_is_the_interruption(came, monkeypatch, tmp_path, capsys):
    def fails(*_, **__):
        raise RecursionError("in numpy")
    monkeypatch.setattr(commands, "CAME", came)
    monkeypatch.setattr(commands, "existing", fails)
    words = ["collect", "digits", "--results", str(tmp_path)]
    if came:
        assert main(words) == 130 and capsys.readouterr().err == "stopped\n"
    else:
        with pytest.raises(RecursionError):
            main(words)


@pytest.mark.parametrize("handler, number", [(interrupt, signal.SIGTERM), (insist, signal.SIGINT)])
@pytest.mark.parametrize("words", [["run", "--task", "digits", "--method", "gmp", "--sparsity", "0.9"], ["launch", "digits", "--methods", "gmp"]])
def test_a_signal_whose_interrupt_was_caught_ends_the_command_all_the_same(words, handler, number, tmp_path, capsys):
    """Some imports catch every exception."""
    before = {ending: signal.getsignal(ending) for ending in ENDINGS}
    try:
        with pytest.raises(KeyboardInterrupt):
            handler(number, None)
        assert handler is insist or {signal.getsignal(ending) for ending in ENDINGS} == {signal.SIG_IGN}
        assert main([*words, "--results", str(tmp_path)]) == 130 and not list(tmp_path.rglob("*.json")) + list(tmp_path.rglob("*.pt"))
        assert capsys.readouterr().err.endswith("stopped; the same command goes on where this one ended\n")
    finally:
        CAME.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("came", [False, True])
def test_a_job_that_is_requeued_while_it_loads_a_methods_file_leaves_no_failed_row(came, tmp_path, monkeypatch):
    """submitit's handler raises SystemExit wherever the program is; without a signal it is the file's own, a mistake."""
    (tmp_path / "mine.py").write_text("import sys\nsys.exit(-1)")
    monkeypatch.setattr(launch, "CAME", [signal.SIGTERM] * came)
    spec, store = Spec("digits", f"{tmp_path}/mine.py:Mine", 0.9, 0), Store(tmp_path / "results")
    if came:
        with pytest.raises(launch.Ended):
            launch.usable([spec], store)
        assert not list(tmp_path.rglob("*.json"))
    else:
        assert launch.usable([spec], store)[1][0]["status"] == "failed"


def test_how_a_command_ends(capsys):
    def ending(error):
        def main(words=None):
            """What it does."""
            if error:
                raise error
            return words
        return command(main)

    assert ending(None)() == 0 and ending(None)(1) == 1 and ending(None).__doc__ == "What it does."
    assert ending(ValueError("two\nlines"))() == 2 and capsys.readouterr().err == "error: two lines\n"
    assert ending(KeyboardInterrupt())() == 130 and capsys.readouterr().err == "stopped\n"
    with pytest.raises(OSError):  # an error of the program keeps its traceback
        ending(OSError())()


def test_a_second_ctrl_c_does_not_wait_for_the_runs(monkeypatch):
    asked, killed = [], []

    def join(seconds):
        assert 99 < seconds <= 100
        raise KeyboardInterrupt
    worker = Namespace(ask=lambda: asked.append(1), process=Namespace(join=join, kill=lambda: killed.append(1)))
    monkeypatch.setattr(launch, "WORKERS", [worker, worker])
    with pytest.raises(KeyboardInterrupt):
        launch.stop(100)
    assert len(asked) == len(killed) == 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux alone")
def test_a_launch_can_be_stopped_while_what_its_workers_need_is_loaded(tmp_path):
    """Which here takes until it is stopped."""
    (tmp_path / "waits.py").write_text(WAITS)
    with open(tmp_path / "said", "w") as said:
        launch = subprocess.Popen([sys.executable, "-u", "-c", LAUNCH], cwd=tmp_path, stdout=said, stderr=said,
                                  env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
                                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        began = time.monotonic()
        while not ((tmp_path / "begun").exists() and "1 to do" in (tmp_path / "said").read_text()):
            assert launch.poll() is None and time.monotonic() < began + 600
            time.sleep(0.1)
        time.sleep(1)  # now it waits
        launch.send_signal(signal.SIGINT)
        assert launch.wait(600) == 130 and (tmp_path / "said").read_text().endswith("stopped; the same command goes on where this one ended\n")
    finally:
        (tmp_path / "go").touch()
        launch.kill()
