"""The commands as processes: what they import, their exit status, a Python without the libraries, an output that nobody reads."""
import os
import subprocess
import sys

import pytest
from stored import ROOT


def command(*words, python=(), **environment):
    return subprocess.run([sys.executable, *python, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, **environment})


def test_help_imports_no_torch():
    done = command("--help", python=("-X", "importtime"))
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "launch" in done.stdout and "benchmarks.grid" in imported
    assert not imported & {"torch", "torchvision", "numpy", "pandas", "matplotlib", "sklearn", "submitit"}


def test_exit_status_of_the_process():
    done = command("launch", "digit")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("words", ["options st3", "plan digits", "launch digits", "run --task digits --method st3 --sparsity 0.9 --seed 0"])
def test_a_python_without_the_libraries_is_told_of_the_one_that_has_them(words):
    done = command(*words.split(), python=["-S", "-E"])
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "'torch'" in done.stderr and sys.executable in done.stderr and "run_all.sh setup" in done.stderr


def test_a_folder_for_temporary_files_may_have_a_long_name(tmp_path):
    (folder := tmp_path / ("long" * 30)).mkdir()
    words = "launch digits --methods static --sparsities 0.9 --seeds 1 --epochs 1 --jobs 1 --results".split()
    done = command(*words, str(tmp_path / "results"), TMPDIR=str(folder))
    assert done.returncode == 0, done.stderr
    assert not list(folder.glob("pymp-*"))


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "benchmarks", "options", "lrr"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
