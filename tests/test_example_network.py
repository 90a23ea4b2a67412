"""`examples/my_network.py` does what it says."""
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "my_network.py"


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Runs the script with arguments in an empty folder; returns (exit status, stdout, stderr). In this process, which has loaded torch; a process of
    its own is the first of these tests."""
    def script(*args):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *args])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capfd.readouterr()
    monkeypatch.chdir(tmp_path)
    return script


def right(folder, said, left):
    accuracy, active = re.fullmatch(r"\w+: (\S+) % of the test images right, (\S+) of 21,280 weights left\n", said).groups()
    return float(accuracy) > 90 and active == f"{left:,}" and not any(folder.iterdir())


def test_it_trains_and_says_how_well(tmp_path):
    done = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and right(tmp_path, done.stdout, 2128), done


def test_with_another_method_and_sparsity(tmp_path, run):
    status, out, err = run("rigl", "0.8")
    assert status == 0 and right(tmp_path, out, 4256), err


@pytest.mark.parametrize("args, says", [
    (("nope",), "error: unknown method 'nope'; nearest: "), (("gmp", "1.5"), "error: sparsity must lie in [0, 1), not 1.5"),
    (("lrr",), "error: lrr trains more than once; examples/README.md has the loop for such methods")])
def test_what_it_cannot_do_is_one_line(run, args, says):
    status, out, err = run(*args)
    assert (status, out) == (2, "") and err.startswith(says) and err.count("\n") == 1
