"""A data set, a task, a suite and a figure of one's own as entries in the project's tables, and a script."""
import sys
from dataclasses import replace

import pytest
import torch

import reproduce
from benchmarks import batches, checkpoint, data, describe, models, suites, tasks
from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.recipes import DIGITS, Dataset, Task
from benchmarks.results import Store
from benchmarks.run import run
from benchmarks.tasks import DATASETS
from benchmarks.trial.own_methods import outdated, tell_older


class Wrong(torch.nn.Module):
    def forward(self, x):
        return x[:, 5]


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


def test_rows_of_another_content_of_the_suites_file_are_told_of(monkeypatch, capsys):
    monkeypatch.setitem(tasks.TASKS, "parity-mlp", replace(tasks.TASKS["digits-mlp"], source="a" * 64))
    rows = [dict(task=task, method="gmp", code_version=f"1234567890, parity.py {10 * letter}") for task, letter in (
        ("parity-mlp", "a"), ("parity-mlp", "b"), ("another-mlp", "b"))]
    assert [outdated(row) for row in rows] == [False, True, False]
    tell_older(rows)
    assert "rows made with another content of benchmarks/own_suites/parity.py: 1; `launch` with --outdated" in capsys.readouterr().err


def test_the_options_of_a_task_that_is_not_named_as_its_data(parity, monkeypatch, capsys):
    monkeypatch.setitem(tasks.TASKS, "halves-mlp", tasks.TASKS["parity-mlp"])
    assert main(["options", "halves-mlp"]) == 0
    assert "model=mlp_digits " in capsys.readouterr().out


@pytest.mark.parametrize("table, key, value, said", [
    ("SUITE_TASKS", "parity", "digits-mlp", "a task of its own, named parity or parity-…, not digits-mlp"),  # whose rows would be of digits
    ("SUITE_TASKS", "parity", None, "not None"), ("SIZES", ("parity", "quick"), None, "suite parity needs sizes of profile quick in SIZES"),
    ("SIZES", ("parity", "paper"), None, "suite parity needs sizes of profile paper in SIZES")])
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
    (lambda images, labels: (images[:300], labels[:300]), "parity holds 300 of 300 training images out"),
    (lambda images, labels: (images[:, :6], labels), "gives training images (6, 8, 1) and test images (8, 8, 1)"),
    (lambda images, labels: (images, labels.sort().values), "parity: no validation images are of class 0; held out are the last 300, so that"),
    (lambda images, labels: (images, torch.cat([labels[:-300] * 0, labels[-300:]])), "parity: no training images are of class 1; held out are")])
def test_what_a_reader_gives_that_is_no_data_set_is_one_line(parity, change, said, monkeypatch, capsys, tmp_path):
    train, test = data.READERS["parity"](None)
    refused(lambda folder: (batches.Split(*change(train.images, train.labels)), test), said, monkeypatch, capsys, tmp_path)


def refused(reader, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(data.READERS, "parity", reader)
    assert main(["launch", "parity", "--methods", "gmp", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize("reader, said", [
    (lambda folder: (folder / "absent.npy").read_bytes(), "the reader of parity fails, or does not give two Splits (FileNotFoundError: "),
    (lambda folder: None, "two Splits (TypeError: "),
    (lambda folder: [data.READERS["digits"](folder)[0]] * 3, "two Splits (ValueError: too many values"),
    (lambda folder: [(split.images, split.labels) for split in data.READERS["digits"](folder)], "gives as training data no Split"),
    (lambda folder: [batches.Split(split.images[:290], split.labels[:290] % 2) for split in data.READERS["digits"](folder)],
     "parity has 290 test images, not 300 as its test_images in DATASETS"),
    (lambda folder: exit(1), "the reader of parity fails, or does not give two Splits (SystemExit: 1); its folder: /")])
def test_a_reader_that_fails_is_one_line(parity, reader, said, monkeypatch, capsys, tmp_path):
    refused(reader, said, monkeypatch, capsys, tmp_path)


def test_data_are_read_once_and_lie_in_one_piece(parity, monkeypatch):
    train, test = data.READERS["parity"](None)
    grey, calls = torch.cat([train.images, train.images * 0 + 7], -1), []

    def read(folder):
        calls.append(folder)
        planes = grey.permute(3, 0, 1, 2).contiguous()
        return batches.Split(planes.permute(1, 2, 3, 0), train.labels), batches.Split(test.images.repeat(1, 1, 1, 2), test.labels)
    monkeypatch.setitem(data.READERS, "parity", read)
    first, second = data.load("parity", None), data.load("parity", None, validation=False)
    assert len(calls) == 1 and first.train.images.is_contiguous() and torch.equal(first.train.images, grey[:1197]) and len(second.train) == 1497
    assert first.std[1] == 1.0 and first.mean[1] == pytest.approx(7 / 255) and first.shape == (2, 8, 8)  # a channel of one value is only shifted
    monkeypatch.setitem(DATASETS, "parity", replace(DATASETS["parity"], normalisation={"st3": ((0.5,), (0.2,))}))
    with pytest.raises(batches.DataError, match="parity has 2 channels, and its normalisation in DATASETS 1 means and 1 deviations"):
        data.load("parity", None)


def test_a_checkpoint_of_a_suites_file_before_it_was_changed_is_not_used(parity, monkeypatch, tmp_path, capsys):
    spec, store, asked = Spec("parity-mlp", "static", 0.9, 0, epochs=2), Store(tmp_path), []
    monkeypatch.setitem(tasks.TASKS, "parity-mlp", replace(tasks.TASKS["parity-mlp"], source="before"))
    tasks._settle.cache_clear()  # what a task's name stands for is remembered
    with pytest.raises(checkpoint.Stopped):
        run(spec, store, stop=lambda: asked.append(1) or len(asked) > 25)
    assert checkpoint.share_done(store.checkpoint(spec.key), spec) > 0.5
    monkeypatch.setitem(tasks.TASKS, "parity-mlp", replace(tasks.TASKS["parity-mlp"], source="after", lr=0.01))
    tasks._settle.cache_clear()
    assert checkpoint.share_done(store.checkpoint(spec.key), spec) == 0
    row = run(spec, store)
    assert "is of the method's or the suite's file before it was changed; the run starts anew" in capsys.readouterr().out
    assert row["code_version"].endswith(", parity.py after")
    tasks._settle.cache_clear()


def test_defaults_that_are_no_methods_options_are_one_line(parity, monkeypatch, capsys, tmp_path):
    task = replace(tasks.TASKS["parity-mlp"], source="a file's", defaults={"intervall": 10, "interval": 5})
    monkeypatch.setitem(tasks.TASKS, "parity-mlp", task)
    assert main(["launch", "parity", "--methods", "gmp", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: unknown option in defaults of parity-mlp 'intervall'; nearest: interval")


@pytest.mark.parametrize("factory, words, said", [
    (lambda classes: torch.nn.Flatten(), ["--set", "width=2"], "width"), (lambda: torch.nn.Flatten(), [], "cannot be built: "),
    (lambda classes: torch.nn.Linear(5, classes), [], "takes no images of 1×8×8"),
    (lambda classes: None, [], "odd returns no torch.nn.Module, but NoneType"),
    (lambda classes: torch.nn.Conv2D(1, classes), [], "odd cannot be built: AttributeError: "),
    (lambda classes: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes + 1)), [],
     "odd gives for one image a tensor (1, 3), not a tensor (1, 2)"),
    (lambda classes: Wrong(), [], "odd takes no images of 1×8×8: IndexError: ")])
def test_a_network_that_cannot_be_made_for_the_data_is_one_line(parity, factory, words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(models.MODELS, "odd", factory)
    task = f"parity-{len(said)}"  # a name of its own: what a task's name stands for is remembered
    monkeypatch.setitem(tasks.TASKS, task, replace(tasks.TASKS["parity-mlp"], model="odd"))
    monkeypatch.setitem(suites.SUITE_TASKS, "parity", task)
    describe._macs.cache_clear()
    assert main(["launch", "parity", "--methods", "gmp", "--results", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1 and not list(tmp_path.rglob("*.json"))


def test_data_without_a_reader_are_one_line(parity, monkeypatch, capsys, tmp_path):
    monkeypatch.delitem(data.READERS, "parity")
    assert main(["launch", "parity", "--methods", "gmp", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: data 'parity' have a line in DATASETS and no reader: READERS (of benchmarks/data.py or of your file) needs one\n"


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
