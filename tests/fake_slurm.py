"""A squeue and a scancel of the tests' own (tests/slurm: real ones), as fixtures."""
import os

import pytest

from benchmarks.results import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture
def slurm(store, tmp_path, monkeypatch):
    """A function that says what squeue prints, in lines "JOB STATE [REASON [FOLDER]]" (without FOLDER: of a job from `store`), and how it
    ends; what scancel was told is in `told`, and squeue prints it no more."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def answers(out, status=0, err=""):
        lines = [line.split(" ", 3) for line in out.splitlines()]
        rest = ["None", f"{store.runs.resolve()}/code/0123456789ab"]
        (tmp_path / "queue").write_text("".join("|".join(line + rest[len(line) - 2:]) + "\n" for line in lines))
        commands = {"squeue": f"echo $* > {tmp_path}/asked\nenv | grep ^SQUEUE_ >> {tmp_path}/asked\ncat {tmp_path}/queue\necho '{err}' >&2\nexit {status}",
                    "scancel": f"echo $* >> {tmp_path}/told\nfor job; do sed -i \"/^$job|/d\" {tmp_path}/queue; done"}
        for name, text in commands.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
    answers("")
    return answers
