"""`run_all.sh` as a user starts it, in a copy of the project. Nothing is installed: the Python in `.venv` stands for this one."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from copies import ROOT, copy_packages

PIP = """#!/bin/bash
# runs this Python; pip is not called, only noted
if [[ "$1 $2" = "-m pip" && $3 = install ]]; then
    touch "$TMPDIR/unpacked" || exit 1; echo "$@" >> "$PIP_CALLS"
    while [[ -n ${PIP_WAITS_FOR:-} && ! -e $PIP_WAITS_FOR ]]; do sleep 0.1; done
    echo "what pip says"; exit "${PIP_STATUS:-0}"
fi
exec "%s" "$@"
"""
SLOW = """
import time
from pathlib import Path

from methods import get


class Slow(get("static")):
    def after_step(self, run):
        if run.epochs > 1:  # not of the dry run
            Path("steps").touch()
        time.sleep(0.05)
"""


@pytest.fixture
def project(tmp_path):
    """A copy of what `run_all.sh` needs, without `.venv`."""
    root = tmp_path / "project"
    copy_packages(root, "benchmarks", "methods", "reproduce")
    for name in ("run_all.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture
def installed(project):
    """The same with a `.venv` that is complete."""
    executable(project / ".venv" / "bin" / "python", PIP % sys.executable)
    (project / ".venv" / "installed").write_text((project / "pyproject.toml").read_text() + f"# installed from {project.resolve()}\n")
    return project


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def environment(root, **changes):
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "DATA_DIR", "PYTHONPATH")}
    return {**env, "PIP_CALLS": str(root / "pip_calls"), **changes}


def start(root, *words, cwd=None, **changes):
    return subprocess.run(["bash", str(root / "run_all.sh"), *map(str, words)], cwd=cwd or root, env=environment(root, **changes),
                          capture_output=True, text=True)


def heeding():
    """Signals have their usual effects, whatever these tests are started by (nohup, a shell's `&`)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def pip_calls(root):
    return (root / "pip_calls").read_text().splitlines() if (root / "pip_calls").exists() else []


def refused(done, *texts):
    """Exit status 2 and one line on stderr that has these texts."""
    line, = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and all(text in line for text in texts), done
    return True


# ---- arguments

@pytest.mark.parametrize("words, texts", [
    (["digit"], ["'digit'", "digits cifar10 cifar100 imagenet"]),
    (["cifar10", "--profile", "fast"], ["'fast'", "paper", "quick"]),
    (["digits", "--seeds", "many"], ["--seeds", "many"]),
    (["digits", "--sparcity", "0.9"], ["--sparcity"]),
    (["digits", "--jobs", "0"], ["--jobs must be at least 1, not 0"]),
    (["digits", "--methods", "nowhere.py:Mine"], ["there is no file ", "nowhere.py for the method "]),
])
def test_bad_arguments_are_refused_before_any_installation(project, words, texts):
    makes_no_venv = f'#!/bin/bash\n[[ $1 = -m ]] && exit 1\nexec "{sys.executable}" "$@"\n'
    python = executable(project / "python", makes_no_venv)
    assert refused(start(project, *words, PYTHON=str(python)), *texts)


@pytest.mark.parametrize("words, texts", [
    (["--sparsity", "1.2"], ["1.2", "[0, 1)"]),
    (["digits", "--methods", "rgl"], ["'rgl'", "rigl"]),
    (["cifar10", "--data", "nowhere"], ["nowhere", "--data"]),
    (["digits", "--results", "pyproject.toml"], ["pyproject.toml", "--results"]),
])
def test_what_cannot_be_run_is_refused_in_one_line(installed, words, texts):
    done = start(installed, *words)
    assert refused(done, *texts) and not done.stdout and not pip_calls(installed)


def test_a_suites_file_with_a_mistake_is_named(installed):
    (installed / "benchmarks" / "own_suites" / "mine.py").write_text("TASKS = {")
    assert refused(start(installed, "mine"), "benchmarks/own_suites/mine.py cannot be used: SyntaxError")


def test_data_folder_of_the_environment_is_checked_too(installed):
    assert refused(start(installed, DATA_DIR="/nowhere"), "/nowhere", "DATA_DIR")


def test_the_home_folder_is_that_from_elsewhere_too(installed, tmp_path):
    """Where the shell has left the ~ of --data=~/DIR and of DATA_DIR as it is."""
    for words, variables in ((["--data=~/none"], {}), ([], {"DATA_DIR": "~/none"})):
        assert refused(start(installed, *words, cwd=tmp_path, HOME="/home/of/somebody", **variables), "/home/of/somebody/none does not exist")


# ---- a whole start

def test_failed_runs_are_named_and_figures_drawn_all_the_same(installed, tmp_path):
    """Started from another folder, whose relative paths count, into one whose name ends in a blank."""
    (tmp_path / "mine.py").write_text("from methods import get\n\n\nclass Broken(get('static')):\n"
                                      "    def after_step(self, run):\n        if run.step == 5:  # after all steps of the dry run\n"
                                      "            raise RuntimeError('as planned')\n")
    words = ["--methods", "static", "mine.py:Broken", "--sparsity", "0.9", "--seeds", "1", "--epochs", "1", "--jobs", "1",
             "--results", "rows ", "--profile", "quick", "--precision", "fp32"]
    done = start(installed, *words, cwd=tmp_path)
    assert done.returncode == 1 and "mine.py:Broken" in done.stderr and "as planned" in done.stderr, done
    assert "leaderboard: wrote" in done.stdout and "Traceback" not in done.stderr  # of these epochs, in this precision
    rows = (tmp_path / "rows " / "digits" / "runs.csv").read_text()
    assert "static" in rows and not (installed / "results").exists() and not pip_calls(installed)
    assert [*tmp_path.glob("rows /figures/digits/*.png")] and (tmp_path / "rows " / "REPORT.md").exists()


@pytest.mark.parametrize("name, all_of_them", [("SIGINT", True), ("SIGTERM", False), ("SIGTERM", True), ("SIGHUP", False), ("SIGHUP", True)])
def test_what_ends_it_ends_its_launch_with_a_checkpoint(installed, name, all_of_them):
    """Ctrl-C in a terminal, `kill`, `timeout` and a terminal that is closed, which go to one process or to all at once."""
    (installed / "mine.py").write_text(SLOW)
    process = subprocess.Popen(["bash", "run_all.sh", "digits", "--methods", "mine.py:Slow", "--sparsity", "0.9", "--seeds", "1", "--jobs", "1"],
                               cwd=installed, env=environment(installed), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True, preexec_fn=heeding)
    while not (installed / "steps").exists():
        assert process.poll() is None and not time.sleep(0.05), process.communicate()[0]
    (os.killpg if all_of_them else os.kill)(process.pid, getattr(signal, name))
    said, _ = process.communicate()  # which ends with the last of its processes
    assert process.returncode == 130 and said.count("the same command goes on") == 1 and "Traceback" not in said and "figure" not in said, said
    assert len(list((installed / "results" / "runs").glob("*.pt"))) == 1 and not list((installed / "results" / "runs").glob("*.claim"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_ends_it_while_it_looks_at_its_arguments_leaves_no_traceback(installed, name):
    (installed / "benchmarks" / "own_suites" / "slow.py").write_text("import time\nfrom pathlib import Path\nPath('begun').touch()\ntime.sleep(20)\n")
    process = subprocess.Popen(["bash", "run_all.sh", "digits"], cwd=installed, env=environment(installed), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=heeding)
    while not (installed / "begun").exists():
        assert process.poll() is None and not time.sleep(0.05), process.communicate()[0]
    os.killpg(process.pid, getattr(signal, name))
    said, _ = process.communicate()
    assert process.returncode == 130 and "Traceback" not in said and not (installed / "results").exists(), said


def test_figures_are_drawn_of_what_is_there(installed):
    """And what a suite's own file prints hinders none."""
    loud = (ROOT / "examples" / "my_suite.py").read_text() + "\nprint('loading my suite')\n"
    (installed / "benchmarks" / "own_suites" / "my_suite.py").write_text(loud)
    done = start(installed, "digits", "--methods", "dense", "--seeds", "1", "--jobs", "1", "--profile", "quick", "--set", "recipe=suite")
    said = {*done.stderr.splitlines()} - {"loading my suite"}  # the copy has no results, published ones neither
    assert done.returncode == 0 and said == {"published results are left out: results/published.csv is only in a checkout of the repository"}, done
    assert (installed / "figures" / "digits" / "figure1.pdf").stat().st_size > 1000


# ---- .venv

def test_environment_is_made_once_and_again_when_the_requirements_change(installed):
    (installed / ".venv" / "installed").unlink()
    first = start(installed, "setup", TMPDIR=str(installed / "full"))  # where pip cannot unpack
    assert first.returncode == 0 and "setting up" in first.stdout and "pip says" not in first.stdout + first.stderr, first
    assert not (installed / ".venv" / "tmp").exists()
    assert len(pip_calls(installed)) == 1 and pip_calls(installed)[0].endswith("-e .")
    second = start(installed, "setup")
    assert second.returncode == 0 and not second.stdout and len(pip_calls(installed)) == 1
    with open(installed / "pyproject.toml", "a") as file:
        file.write("# another requirement\n")
    assert start(installed, "setup").returncode == 0 and len(pip_calls(installed)) == 2


def test_a_project_that_was_moved_is_installed_again(installed, tmp_path):
    """Its packages would be looked for where they were."""
    moved = installed.rename(tmp_path / "elsewhere")
    for _ in range(2):
        assert start(moved, "setup").returncode == 0
    assert len(pip_calls(moved)) == 1


def test_installation_that_failed_is_shown_and_tried_again(installed):
    (installed / ".venv" / "installed").unlink()
    done = start(installed, "setup", PIP_STATUS="1")
    assert done.returncode == 2 and "what pip says" in done.stderr and done.stderr.splitlines()[-1].startswith("error: "), done
    assert start(installed, "setup").returncode == 0 and len(pip_calls(installed)) == 2


@pytest.mark.parametrize("programs", [(), ("bash", "cat", "cmp", "dirname", "mkdir", "mv", "rm", "rmdir", "sleep", "touch")])
def test_two_starts_at_once_install_once(installed, programs):
    """Also without flock, as on macOS."""
    (installed / ".venv" / "installed").unlink()
    (installed / "bin").mkdir()
    for program in programs:
        (installed / "bin" / program).symlink_to(shutil.which(program))
    path = {"PATH": str(installed / "bin"), "PYTHON": sys.executable} if programs else {}
    env, both, logs = environment(installed, PIP_WAITS_FOR=str(installed / "go"), **path), [], [installed / "first", installed / "second"]
    for path in logs:
        with open(path, "w") as log:
            both.append(subprocess.Popen([shutil.which("bash"), "run_all.sh", "setup"], cwd=installed, env=env, stdout=log, stderr=log))
    while not any("waiting for another start" in log.read_text() for log in logs) and None in [process.poll() for process in both]:
        time.sleep(0.1)
    (installed / "go").touch()
    for process in both:
        process.wait()
    said = [log.read_text() for log in logs]
    assert [process.returncode for process in both] == [0, 0] and len(pip_calls(installed)) == 1, said
    assert not (installed / ".venv.lock").exists() and sum("waiting for another start" in text for text in said) == 1


def test_what_is_locked_can_be_written_and_stays(installed):
    """Otherwise NFS refuses the lock."""
    (installed / ".venv" / "installed").unlink()
    before = (installed / "pyproject.toml").read_bytes()
    executable(installed / "bin" / "flock", f"#!{sys.executable}\nimport os\nos.write(9, b'')\nopen('locked', 'w')\n")
    done = start(installed, "setup", PATH=f"{installed / 'bin'}:{os.environ['PATH']}")
    assert done.returncode == 0 and not done.stderr and "waiting" not in done.stdout, done
    assert (installed / "locked").exists() and (installed / "pyproject.toml").read_bytes() == before


@pytest.mark.parametrize("kept", ["/", "pyproject.toml", ".venv"])
def test_a_project_that_may_not_be_written_is_one_line(installed, kept):
    """The tests' user may be root, who may write all: then by another one's eyes."""
    for path in (installed, *installed.rglob("*")):
        path.chmod(0o777)
    (installed / ".venv" / "installed").unlink()
    Path(f"{installed}/{kept}").chmod(0o555)
    other = {} if os.geteuid() else {"user": 65534, "group": 65534, "extra_groups": []}
    done = subprocess.run(["bash", "run_all.sh", "setup"], cwd=installed, env=environment(installed, PYTHON=shutil.which("true")),
                          capture_output=True, text=True, **other)
    assert refused(done, f"error: {installed}/{kept.strip('/')} cannot be written") and not done.stdout


def test_a_python_of_a_relative_path_is_the_caller_s(project, tmp_path):
    stub = "import sys\nprint('Python of the caller')\nsys.exit('-m' in sys.argv and 'no room')\n"
    executable(tmp_path / "bin" / "python", f"#!{sys.executable}\n{stub}")
    assert refused(start(project, "setup", cwd=tmp_path, PYTHON="./bin/python"), "no room")


@pytest.mark.parametrize("python, texts", [
    ("sys.exit('version_info' in sys.argv[2])", ["3.10"]),                # too old
    ("sys.exit('ensurepip' in sys.argv[2])", ["virtual environments"]),   # Debian's without python3-venv
    ("sys.exit('-m' in sys.argv and 'no room')", [".venv", "no room"]),   # the disk is full
])
def test_python_that_cannot_be_used_is_refused_in_one_line(project, python, texts):
    stub = executable(project / "python", f"#!{sys.executable}\nimport sys\nsys.argv += ['', '']\n"
                      f"if sys.argv[1] == '--version':\n    print('Python 3.10')\nelif sys.argv[1] != '-':\n    {python}\n")
    assert refused(start(project, "setup", PYTHON=str(stub)), *texts)


def test_tests_get_their_options_and_status(installed):
    (installed / "test_one.py").write_text("def test_one():\n    assert 0\n")
    done = start(installed, "test", "test_one.py", "-k", "one")
    assert done.returncode == 1 and "1 failed" in done.stdout, done
    assert start(installed, "test", "test_one.py", "-k", "two").returncode == 5  # pytest: nothing was collected
