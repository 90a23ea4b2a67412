"""`examples/my_network.py` does what it says."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "my_network.py"


def run(folder, *args):
    return subprocess.run([sys.executable, SCRIPT, *args], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("args, left", [((), 2128), (("rigl", "0.8"), 4256)])
def test_it_trains_and_says_how_well(tmp_path, args, left):
    done = run(tmp_path, *args)
    assert done.returncode == 0, done.stderr
    accuracy, active = re.fullmatch(r"\w+: (\S+) % of the test images right, (\S+) of 21,280 weights left\n", done.stdout).groups()
    assert float(accuracy) > 90 and active == f"{left:,}" and not any(tmp_path.iterdir())


@pytest.mark.parametrize("args, says", [
    (("nope",), "error: unknown method 'nope'; nearest: "), (("gmp", "1.5"), "error: sparsity must lie in [0, 1), not 1.5"),
    (("lrr",), "error: lrr trains more than once; examples/README.md has the loop for such methods")])
def test_what_it_cannot_do_is_one_line(tmp_path, args, says):
    done = run(tmp_path, *args)
    assert done.returncode == 2 and done.stderr.startswith(says) and done.stderr.count("\n") == 1
