"""A data set, a task, a suite and a figure of one's own, as examples/README.md says that they are added: a file or entries in tables; a script."""
import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import reproduce
from benchmarks import batches, data, describe, models, own_suites, suites, tasks
from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.recipes import DIGITS, Dataset, Task
from benchmarks.results import Store
from benchmarks.run import run
from benchmarks.tasks import DATASETS


ROOT = Path(__file__).resolve().parent.parent


def test_the_examples_file_is_a_suite(tmp_path):
    """In a copy of the project: its tables are joined when they are loaded, also by the processes that make runs."""
    for name in ("benchmarks", "methods", "reproduce"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def python(*words):
        return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)

    shutil.copy(ROOT / "examples" / "my_suite.py", tmp_path / "benchmarks" / "own_suites")
    launched = python("-m", "benchmarks", "launch", "my_suite", *"--methods gmp --sparsities 0.9 --seeds 1 --epochs 2 --jobs 1".split())
    assert launched.returncode == 0, launched.stderr
    with open(tmp_path / "results" / "my_suite" / "runs.csv", newline="") as file:
        row, = csv.DictReader(file)
    assert (row["task"], row["dataset"], row["model"], row["status"]) == ("my_suite", "parity", "my_network", "ok")
    assert row["prunable"] == str(9 * 16 + 9 * 16 * 32 + 2 * 32) and float(row["top1"]) > 60  # chance: 50
    drawn = python("reproduce/figure3.py", "--suite", "my_suite", "--epochs", "2")
    assert drawn.returncode == 0 and (tmp_path / "figures" / "my_suite" / "figure3.png").exists(), drawn.stderr

    (tmp_path / "benchmarks" / "own_suites" / "broken.py").write_text("TASKS = {")
    for words in (["-m", "benchmarks", "status", "digits"], ["reproduce/figure3.py"]):
        refused = python(*words)
        assert refused.returncode == 2 and not refused.stdout
        assert refused.stderr == ("error: benchmarks/own_suites/broken.py cannot be used: SyntaxError: '{' was never closed (broken.py, line 1); "
                                  "mend it, or take it out of this folder\n")
    (tmp_path / "benchmarks" / "own_suites" / "broken.py").write_text("TASKS = SIZES = {'broken': 1}\nMODELS = {'resnet8_digits': 1}")
    refused = python("-m", "benchmarks", "run", "--task", "digits", "--method", "gmp", "--sparsity", "0.9")
    assert refused.returncode == 2 and "MODELS has 'resnet8_digits' already" in refused.stderr and refused.stderr.count("\n") == 1


@pytest.mark.parametrize("name, text, said", [
    ("mine", "SIZES = {'paper': ((0.9,), 1)}", "it has no TASKS"), ("mine", "TASKS, SIZES = {}, {}", "it has no TASKS and no SIZES"),
    ("mine", "raise SystemExit(3)", "SystemExit: 3"), ("mine", "import absent_library", "ModuleNotFoundError: No module named 'absent_library'"),
    ("my-suite", "TASKS = SIZES = {1: 1}", "a suite's name is letters, digits and _, and not runs or models or performance"),
    ("runs", "TASKS = SIZES = {1: 1}", "a suite's name is letters, digits and _, and not runs or models or performance")])
def test_a_file_that_cannot_be_used_is_no_suite(name, text, said, tmp_path, monkeypatch):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(own_suites, "__path__", [str(tmp_path)])
    monkeypatch.setattr(own_suites, "FAULTS", [])
    monkeypatch.delitem(sys.modules, f"benchmarks.own_suites.{name}", raising=False)
    assert own_suites._load(name) is None
    with pytest.raises(ValueError) as refused:
        own_suites.refuse_faults()
    assert str(refused.value) == f"benchmarks/own_suites/{name}.py cannot be used: {said}; mend it, or take it out of this folder"


def test_entries_of_files_are_added_and_replace_none(monkeypatch):
    class Mine:
        MODELS = {"resnet20": 1, "resnet21": 2}

    monkeypatch.setattr(own_suites, "FILES", {"mine": Mine})
    monkeypatch.setattr(own_suites, "FAULTS", [])
    assert own_suites.joined("TASKS", {"digits": 0}) == {"digits": 0} and not own_suites.FAULTS
    own_suites.refuse_faults()
    assert own_suites.joined("MODELS", {"resnet20": 0}) == {"resnet20": 0, "resnet21": 2}
    fault, = own_suites.FAULTS
    assert fault.startswith("benchmarks/own_suites/mine.py cannot be used: MODELS has 'resnet20' already; ")


@pytest.fixture
def parity(monkeypatch):
    """Digits, even or odd, with the statistics of their own pixels."""
    def read(folder):
        return tuple(batches.Split(split.images, split.labels % 2) for split in data.READERS["digits"](folder))
    monkeypatch.setitem(DATASETS, "parity", Dataset("parity", 2, 300, 300))
    monkeypatch.setitem(data.READERS, "parity", read)
    monkeypatch.setitem(tasks.TASKS, "parity-mlp", Task("parity", "mlp_digits", **DIGITS))
    suites.scripts()  # which keep the suites that there were when they were loaded: not these
    monkeypatch.setattr(suites, "SUITES", (*suites.SUITES, "parity"))
    monkeypatch.setitem(suites.SUITE_TASKS, "parity", "parity-mlp")
    for profile in suites.PROFILES:
        monkeypatch.setitem(suites.SIZES, ("parity", profile), ((0.9,), 2))


def test_a_profile_that_names_its_tasks_own_epochs_has_the_runs_of_the_recipe(parity, monkeypatch):
    monkeypatch.setitem(suites.SIZES, ("parity", "paper"), ((0.9,), tasks.TASKS["parity-mlp"].epochs))
    specs = suites.grid("parity")
    assert all(spec == tasks.canonical(spec) for spec in specs) and {spec.epochs for spec in specs if not spec.options} == {None}


def test_what_counts_as_collapsed():
    assert {name: round(DATASETS[name].collapsed, 6) for name in ("digits", "cifar10", "cifar100", "imagenet")} == {
        "digits": 20, "cifar10": 20, "cifar100": 2, "imagenet": 0.2}
    assert DATASETS["cifar10"].collapsed == 20.0 and Dataset("", 2, 1).collapsed == pytest.approx(55.56, abs=0.01)


@pytest.mark.parametrize("profile", suites.PROFILES)
def test_a_suite_plans_its_own_task_alone(parity, profile):
    specs = suites.grid("parity", profile)
    assert {spec.task for spec in specs} == {"parity-mlp"} and {spec.method for spec in specs} >= {"dense", "st3", "lrr", "gse_uniform"}


def test_runs_become_a_leaderboard(parity, tmp_path, capsys):
    loaded = data.load("parity", None)
    assert loaded.classes == 2 and len(loaded.val) == 300 and loaded.mean == data.load("digits", None).mean
    assert set(loaded.train.labels.tolist()) == {0, 1} and torch.equal(loaded.train.images, data.load("digits", None).train.images)
    store = Store(tmp_path)
    for method in ("st3", "gmp"):
        for seed in (0, 1):
            run(Spec("parity-mlp", method, 0.9, seed, epochs=2), store)
    store.collect("parity")
    for form in ("text", "html"):
        assert main(["leaderboard", "parity", "--format", form, "--results", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert "st3" in said and "gmp" in said and "parity-mlp" in said and "collapsed" not in said


def test_the_options_of_a_task_that_is_not_named_as_its_data(parity, monkeypatch, capsys):
    monkeypatch.setitem(tasks.TASKS, "halves-mlp", tasks.TASKS["parity-mlp"])
    assert main(["options", "halves-mlp"]) == 0
    assert "model=mlp_digits " in capsys.readouterr().out


@pytest.mark.parametrize("table, key, value, said", [
    ("SUITE_TASKS", "parity", "digits-mlp", "a task of its own, named parity or parity-…, not digits-mlp"),  # whose rows would be of digits
    ("SUITE_TASKS", "parity", None, "not None"), ("TASKS", "parity-mlp", "mlp", "parity-mlp must be a Task of data that are in DATASETS (digits, "),
    ("TASKS", "parity-mlp", Task("pairty", "mlp_digits"), "imagenet, parity), not Task(dataset='pairty'"),
    ("SIZES", ("parity", "quick"), None, "suite parity needs (sparsities, epochs) of profile quick, such as ((0.9, 0.95), 10), not None"),
    ("SIZES", ("parity", "paper"), None, "of profile paper, such as ((0.9, 0.95), 10), not None"),
    ("SIZES", ("parity", "paper"), (0.9, 10), "not (0.9, 10)"), ("SIZES", ("parity", "paper"), ((), 10), "not ((), 10)"),
    ("SIZES", ("parity", "paper"), ((0.9,), "10"), "not ((0.9,), '10')")])
def test_a_suite_whose_entries_do_not_fit_together_is_refused_in_one_line(parity, table, key, value, said, monkeypatch, capsys, tmp_path):
    if value is None:
        monkeypatch.delitem(getattr(suites, table), key)
    else:
        monkeypatch.setitem(getattr(suites, table), key, value)
    for words in (["plan"], ["launch", "--methods", "gmp"], ["collect"]):
        assert main([words[0], "parity", "--profile", "quick", "--results", str(tmp_path), *words[1:]]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_data_that_are_no_images_can_do_without_augmentation(parity):
    task = replace(tasks.TASKS["parity-mlp"], augmentation="none")
    loaded = data.load_for(task, None)
    drawn = list(batches.epoch_batches(loaded.train, loaded, 400, 0, 0, **batches.AUGMENTATION[task.augmentation]))
    whole = next(batches.eval_batches(loaded.train, loaded, len(loaded.train)))[0]
    order = torch.cat([x for x, _ in drawn]).flatten(1)
    assert not torch.equal(order, whole.flatten(1)) and sorted(order.tolist()) == sorted(whole.flatten(1).tolist())


@pytest.mark.parametrize("change, said", [
    (lambda images, labels: (images.float(), labels), "training images torch.float32 (1497, 8, 8, 1) with labels torch.int64 (1497,), not torch.uint8"),
    (lambda images, labels: (images[..., 0], labels), "torch.uint8 (1497, 8, 8) with"), (lambda images, labels: (images, labels.int()), "torch.int32"),
    (lambda images, labels: (images, labels[1:]), "torch.int64 (1496,)"), (lambda images, labels: (images, labels + 1), "labels of parity are not from 0 to 1"),
    (lambda images, labels: (images[:300], labels[:300]), "parity holds 300 of 300 training images out")])
def test_what_a_reader_gives_that_is_no_data_set_is_one_line(parity, change, said, monkeypatch, capsys, tmp_path):
    train, test = data.READERS["parity"](None)
    monkeypatch.setitem(data.READERS, "parity", lambda folder: (batches.Split(*change(train.images, train.labels)), test))
    assert main(["launch", "parity", "--methods", "gmp", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize("factory, words, said", [
    (lambda classes: torch.nn.Flatten(), ["--set", "width=2"], "width"), (lambda: torch.nn.Flatten(), [], "cannot be built: "),
    (lambda classes: torch.nn.Linear(5, classes), [], "takes no images of 1×8×8")])
def test_a_network_that_cannot_be_made_for_the_data_is_one_line(parity, factory, words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(models.MODELS, "odd", factory)
    task = f"parity-{said.split()[0]}"  # a name of its own: what a task's name stands for is remembered
    monkeypatch.setitem(tasks.TASKS, task, replace(tasks.TASKS["parity-mlp"], model="odd"))
    monkeypatch.setitem(suites.SUITE_TASKS, "parity", task)
    describe._macs.cache_clear()
    assert main(["launch", "parity", "--methods", "gmp", "--results", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1 and not list(tmp_path.rglob("*.json"))


def test_data_without_a_reader_are_one_line(parity, monkeypatch, capsys, tmp_path):
    monkeypatch.delitem(data.READERS, "parity")
    assert main(["launch", "parity", "--methods", "gmp", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: data 'parity' have a line in DATASETS and no reader: READERS of benchmarks/data.py needs one\n"


BROKEN = {"def grid(:": "my_figure.py cannot be loaded: SyntaxError: ", "1 / 0": "my_figure.py cannot be loaded: ZeroDivisionError: ",
          "def grid(suite, profile): raise ValueError('unknown method')": "error: reproduce/my_figure.py: unknown method",
          "raise SystemExit(0)": "my_figure.py cannot be loaded: SystemExit: 0",
          "def grid(suite, profile): exit()": "my_figure.py: grid('digits', 'paper') fails (SystemExit: ",
          "def grid(suite, profile): pass": "my_figure.py: grid('digits', 'paper') fails (TypeError: ",
          "def draw(runs, figure): pass": "my_figure.py: grid('digits', 'paper') fails (AttributeError: ",
          **{f"from benchmarks.grid import Grid\ndef grid(suite, profile): return Grid(('digits',), ('{method}',), (0.9,), (0,), {rest})":
             f"error: reproduce/my_figure.py: {said}\n" for method, rest, said in (
                 ("st3", "options={'ramp_power': 2}", "ramp_power=2 is stored as ramp_power=2.0: write that"),
                 ("gse", "", "method=gse is stored as method=gse_uniform: write that"),
                 ("st3", "options={'straight_through': 'false'}", "straight_through=false is stored as straight_through=False: write that"),
                 ("st3", "options={'ramp_power': 2.0, 'straight_through': True}", "straight_through=True is the default: leave it out"),
                 ("st3", "30", "epochs=30 is the default: leave it out"), ("st3", "precision='fp32'", "precision=fp32 is the default: leave it out"),
                 ("st3", "options={'recipe': 'suite'}", "recipe=suite is the default: leave it out"),
                 ("st3", "options={'epochs': 5}", "epochs=5: epochs and precision are fields of a Grid, no options"))}}


@pytest.mark.parametrize("text, said", BROKEN.items())
def test_a_figure_script_with_a_mistake_is_one_line(text, said, tmp_path, monkeypatch, capsys):
    """Every plan asks it for its runs."""
    (tmp_path / "my_figure.py").write_text(text)
    monkeypatch.setattr(suites, "scripts", lambda: {"my_figure": suites._script("my_figure")})
    monkeypatch.setattr(reproduce, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "reproduce.my_figure", raising=False)
    assert main(["plan", "digits", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
