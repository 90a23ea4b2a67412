"""Suites in files of benchmarks/own_suites: the example's, in a copy of the project, and files that cannot be used."""
import csv
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from copies import ROOT, copy_packages

from benchmarks import own_suites
from benchmarks.recipes import Dataset, Task
from benchmarks.tasks import TASKS

GOOD = """from benchmarks.recipes import Dataset, Task
TASKS = {"mine": Task("digits", "resnet8_digits"), "mine-wide": Task("digits", "resnet8_digits", width=2)}
SIZES = {"paper": ((0.9, 0.95), None), "quick": [[0.9], 1]}
"""


def test_the_examples_file_is_a_suite(tmp_path):
    """Its tables are joined when they are loaded, also by the processes that make runs."""
    copy_packages(tmp_path, "benchmarks", "methods", "reproduce")

    def python(*words):
        return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)

    def git(*words):
        return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True, capture_output=True, text=True)

    shutil.copy(ROOT / ".gitignore", tmp_path)
    git("init", "-q"), git("add", "."), git("commit", "-qm", "the project")
    copy = Path(shutil.copy(ROOT / "examples" / "my_suite.py", tmp_path / "benchmarks" / "own_suites"))
    launched = python("-m", "benchmarks", "launch", "my_suite", *"--methods gmp --sparsities 0.9 --seeds 1 --epochs 2 --jobs 1".split())
    assert launched.returncode == 0, launched.stderr
    with open(tmp_path / "results" / "my_suite" / "runs.csv", newline="") as file:
        row, = csv.DictReader(file)
    assert (row["task"], row["dataset"], row["model"], row["status"]) == ("my_suite", "parity", "my_network", "ok")
    head = git("rev-parse", "--short=10", "HEAD").stdout.strip()  # without +: the file's own mark says all
    assert row["code_version"] == f"{head}, my_suite.py {hashlib.sha256(copy.read_bytes()).hexdigest()[:10]}"
    assert row["prunable"] == str(9 * 16 + 9 * 16 * 32 + 2 * 32) and float(row["top1"]) > 60  # chance: 50
    drawn = python("reproduce/figure3.py", "--suite", "my_suite", "--epochs", "2")
    assert drawn.returncode == 0 and (tmp_path / "figures" / "my_suite" / "figure3.png").exists(), drawn.stderr

    copy.unlink()
    (copy.parent / "broken.py").write_text("TASKS = {")
    refused = python("reproduce/figure3.py")
    assert refused.returncode == 2 and not refused.stdout
    assert refused.stderr == ("error: benchmarks/own_suites/broken.py cannot be used: SyntaxError: '{' was never closed (broken.py, line 1); "
                              "mend it, or take it out of this folder\n")
    (copy.parent / "broken.py").write_text(GOOD.replace("mine", "broken") + "MODELS = {'resnet8_digits': print}")
    refused = python("-m", "benchmarks", "run", "--task", "digits", "--method", "gmp", "--sparsity", "0.9")
    assert refused.returncode == 2 and "MODELS has 'resnet8_digits' already" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function that loads a file with this text, and returns its module."""
    def load(text, name="mine"):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"benchmarks.own_suites.{name}", raising=False)
        return own_suites._load(name)
    monkeypatch.setattr(own_suites, "__path__", [str(tmp_path)])
    monkeypatch.setattr(own_suites, "FAULTS", [])
    return load


def test_tasks_know_the_content_of_their_file(load):
    found = load(GOOD).TASKS
    assert {task.source for task in found.values()} == {hashlib.sha256(GOOD.encode()).hexdigest()} and not own_suites.FAULTS
    assert Task("digits", "resnet8_digits", skip=["fc"]).checked().skip == ("fc",)
    assert found["mine-wide"].width == 2.0 and type(found["mine-wide"].width) is float  # so that --set takes fractions


NAMES = "a suite's name is letters, digits and _, and none of digits, cifar10, cifar100, imagenet, runs, models, performance, paper, setup, test"
SIZES = "needs (sparsities, epochs), such as ((0.9, 0.95), 10), not"


@pytest.mark.parametrize("text, said", [
    ("SIZES = {'paper': ((0.9,), 1)}", "it has no TASKS"), ("TASKS, SIZES = {}, {}", "it has no TASKS and no SIZES"),
    ("raise SystemExit(3)", "SystemExit: 3"), ("import absent_library", "ModuleNotFoundError: No module named 'absent_library'"),
    (GOOD + "TASKS = [1]", "its TASKS is no dictionary"), (GOOD + "MODELS = None", "its MODELS is no dictionary"),
    (GOOD + "TASKS['mine'] = 3", "TASKS has for 'mine' no Task, but 3"),
    (GOOD + "DATASETS = {'mine': 3}", "DATASETS has for 'mine' no Dataset, but 3"),
    (GOOD + "READERS = {'mine': 'read'}", "READERS has for 'mine' no function, but 'read'"),
    (GOOD + "TASKS['my-wide'] = TASKS['mine']", "TASKS: a task of it is named mine or mine-…, not my-wide"),
    (GOOD + "TASKS[1] = TASKS['mine']", "TASKS: a task of it is named mine or mine-…, not 1"),
    (GOOD + "del SIZES['quick']", f"SIZES: profile quick {SIZES} None"),
    (GOOD + "SIZES['paper'] = (0.9, 10)", f"SIZES: profile paper {SIZES} (0.9, 10)"),
    *((GOOD + f"SIZES['paper'] = {size}", f"SIZES: profile paper {SIZES} {size}") for size in (
        "((), 10)", "((90, 95), 10)", "((0.0,), 10)", "((0.9,), 0)", "((0.9,), True)", "((0.9,), '10')", "((0.9,), 2.5)")),
    (GOOD.replace("width=2", "lr='0.1'"), "lr of a Task is a number of at least 1e-12, not '0.1'")])
def test_a_file_that_cannot_be_used_is_no_suite(text, said, load):
    assert load(text) is None
    with pytest.raises(ValueError) as refused:
        own_suites.refuse_faults()
    assert str(refused.value) == f"benchmarks/own_suites/mine.py cannot be used: {said}; mend it, or take it out of this folder"


@pytest.mark.parametrize("name", ["my-suite", "3d", *own_suites.TAKEN])
def test_names_that_are_no_suites(name, load):
    assert load(GOOD.replace("mine", name), name) is None and f"cannot be used: {NAMES}; " in own_suites.FAULTS[0]


@pytest.mark.parametrize("values, said", [
    (dict(schedule="cosin"), "schedule of a Task is steps or cosine or cosine_step or cosine_epoch, not 'cosin'"),
    (dict(epochs=2.5), "epochs of a Task is a whole number of at least 1, not 2.5"), (dict(epochs=True), "not True"),
    (dict(batch_size="64"), "batch_size of a Task is a whole number of at least 1, not '64'"), (dict(batch_size=0), "not 0"),
    (dict(lr=0), "lr of a Task is a number of at least 1e-12, not 0.0"), (dict(lr=float("nan")), "not nan"), (dict(clip=-1), "not -1.0"),
    (dict(label_smoothing=2.0), "label_smoothing of a Task is a number of at least 0 and at most 1, not 2.0"),
    (dict(nesterov=1), "nesterov of a Task is True or False, not 1"), (dict(precision="fp16"), "bf16 or tf32 or fp32, not 'fp16'"),
    (dict(augmentation="imagenet"), "not 'imagenet'"), (dict(milestones=0.5), "milestones of a Task are shares"),
    (dict(milestones=(50, 75)), "not (50, 75)"),
    (dict(skip="fc"), "skip of a Task are names of weights or modules, such as ('fc',), not 'fc'"),
    (dict(include=[0]), "include of a Task are names of weights or modules, such as ('fc',), not [0]"),
    (dict(model=None), "model of a Task is a text, not None"),
    (dict(dataset=["digits"]), "not ['digits']")])
def test_a_task_has_values_that_its_settings_can_have(values, said):
    with pytest.raises(ValueError) as refused:
        Task(**{"dataset": "digits", "model": "resnet8_digits", **values}).checked()
    assert said in str(refused.value)


@pytest.mark.parametrize("name", TASKS)
def test_the_projects_tasks_have_such_values(name):
    assert TASKS[name].checked() == TASKS[name]


@pytest.mark.parametrize("values, said", [
    (dict(classes="2"), "classes of a Dataset is a whole number of at least 1, not '2'"), (dict(test_images=0), "test_images of a Dataset"),
    (dict(held_out=-1), "held_out of a Dataset is a whole number of at least 0"),
    (dict(normalisation=((0.5,), (0.2,))), "is a dictionary with st3 or gse"),
    (dict(normalisation={"mine": ((0.5,), (0.2,))}), "is a dictionary with st3 or gse")])
def test_a_data_set_has_values_that_can_be(values, said):
    with pytest.raises(ValueError) as refused:
        Dataset(**{"title": "mine", "classes": 2, "test_images": 300, **values})
    assert said in str(refused.value)


def test_entries_of_files_are_added_and_replace_none(load, monkeypatch):
    module = load(GOOD + "MODELS = {'resnet20': print, 'resnet21': len}\nTASKS['mine-other'] = Task('diggits', 'resnet20')")
    monkeypatch.setattr(own_suites, "FILES", {"mine": module})
    assert [*own_suites.joined("TASKS", {"digits": 0})] == ["mine", "mine-wide", "mine-other", "digits"]
    own_suites.refuse_faults()
    assert own_suites.joined("MODELS", {"resnet20": 0}) == {"resnet20": 0, "resnet21": len}
    own_suites.refuse_unknown_data({"digits": 0, "cifar10": 0})
    taken, unknown = own_suites.FAULTS
    assert taken.startswith("benchmarks/own_suites/mine.py cannot be used: MODELS has 'resnet20' already; ")
    assert "TASKS: mine-other is of data 'diggits', which DATASETS has not (digits, cifar10); " in unknown
