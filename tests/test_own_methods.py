"""Methods of somebody's own file: what `launch`, `run` and `status` say of them before they cost anything, and runs made again."""
import os
import re
from pathlib import Path

import pytest
from test_dry_run import METHODS

from benchmarks import launch as launcher
from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.tasks import canonical, settle
from benchmarks.trial.dry_run import dry_run
from benchmarks.trial.own_methods import mistyped

MORE = METHODS + '''
import math

class Warms(Good):
    beta = 1.0
    def after_step(self, run):
        super().after_step(run)
        if run.epoch_ends:
            self.beta = 1.0 + run.epoch

class Gathers(Good):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.mean, self.parts = torch.zeros(self.layout.size), [{"first": torch.zeros(2)}]
        # no findings: unchanged ones, views of what checkpoints hold, and kinds that cannot be compared
        self.same, self.views = torch.full((3,), math.nan), self.mask.split(self.layout.sizes)
        self.odd = [torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(), torch.zeros(2, device="meta")]
    def start(self, run, cycle):
        super().start(run, cycle)
        self.net = list(run.model.net.parameters())
    @torch.no_grad()
    def before_step(self, run):
        self.mean.lerp_(run.theta.grad, 0.1)
        self.parts[0]["first"] += 1

class Lists(Good):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.history, self.count, self.ages, self.numbers = [], {"steps": 0}, numpy.zeros(3000), numpy.random.default_rng(0)
        self.same, self.masks, self.odd = [1, {"a": numpy.zeros(3)}], [self.mask], [lambda: 0]  # no findings
    def after_step(self, run):
        super().after_step(run)
        self.history.append(run.step)
        self.count["steps"] += 1
        self.ages[1500] += 1
        self.numbers.random()

class Object(Good):
    def skip(self, task):
        return None

class Asks(Good):
    @classmethod
    def skip(cls, task):
        raise KeyError(task)

class Levels(Good):
    @classmethod
    def levels(cls, sparsity, options):
        return 1 / 0
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MORE)
    return tmp_path


def launched(method, *words):
    return main(["launch", "digits", "--methods", method, "--sparsities", "0.9", "--seeds", "1", "--epochs", "1", *words])


@pytest.mark.parametrize("words", [
    ["launch", "digits", "--methods", "gmp", "mine.py:Leaks"], ["run", "--task", "digits", "--method", "mine.py:Leaks", "--sparsity", "0.9"]])
def test_a_mistake_costs_no_run(mine, words, capsys, monkeypatch):
    for place in (launcher, runner):
        monkeypatch.setattr(place, place.__name__.rpartition(".")[2], lambda *a, **k: pytest.fail("was run"))
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert "mine.py:Leaks on digits at sparsity 0.9: " in err and "mask says are zero" in err and err.count("\n") == 1
    assert not list(mine.rglob("*.json"))


@pytest.mark.parametrize("method, part", [
    ("Object", "skip must be a @classmethod"), ("Asks", "skip fails (KeyError: 'digits')"), ("Levels", "levels fails (ZeroDivisionError: ")])
@pytest.mark.parametrize("words", [["launch", "digits", "--methods"], ["plan", "digits", "--methods"], ["leaderboard", "digits", "--method"]])
def test_what_is_asked_before_there_is_a_network(mine, method, part, words, capsys):
    assert main([*words, f"mine.py:{method}"]) == 2
    err = capsys.readouterr().err
    assert f"error: mine.py:{method}: {part}" in err and "Traceback" not in err


def test_what_no_checkpoint_holds_is_said(mine, capsys):
    assert dry_run(Spec("digits", "mine.py:Warms", 0.9, 0), "data")[0] == ["beta"]
    assert dry_run(Spec("digits", "mine.py:Remembers", 0.9, 0), "data")[0] == []
    assert dry_run(Spec("digits", "mine.py:Gathers", 0.9, 0), "data")[0] == ["mean", "parts"]  # changed in place, which no step needs yet
    assert dry_run(Spec("digits", "mine.py:Lists", 0.9, 0), "data")[0] == ["ages", "count", "history", "numbers"]
    assert main(["run", "--task", "digits", "--method", "mine.py:Warms", "--sparsity", "0.9", "--epochs", "1"]) == 0
    assert "mine.py:Warms: its steps change self.beta, which no checkpoint holds" in capsys.readouterr().err


def test_rows_of_an_older_file_are_made_again(mine, capsys):
    assert launched("mine.py:Good") == 0
    before, = Store("results").rows("digits").values()
    assert launched("mine.py:Good") == 0 and "another content" not in capsys.readouterr().err
    Path("mine.py").touch()
    assert launched("mine.py:Good") == 0 and "another content" not in capsys.readouterr().err
    with open("mine.py", "a") as file:
        file.write("# changed\n")
    os.utime("mine.py", (0, 0))  # as where a copy keeps the time of the file
    assert launched("mine.py:Good") == 0
    words = "rows made with another content of mine.py: 1; `launch` with --outdated and what names these runs (--methods, --set, …) makes them again"
    assert words in capsys.readouterr().err and Store("results").row(before["key"]) == before
    assert main(["status", "digits", "--methods", "mine.py:Good", "--epochs", "1"]) == 0 and words in capsys.readouterr().err
    stamp = Store("results").stamp(before["key"])
    assert launched("mine.py:Good", "--again") == 0 and Store("results").stamp(before["key"]) != stamp
    assert launched("mine.py:Good", "--outdated") == 0 and "1 run done, 0 to do" in capsys.readouterr().out
    with open("mine.py", "a") as file:
        file.write("# once more\n")
    assert launched("mine.py:Good", "--outdated", "--seeds", "2") == 0
    said = capsys.readouterr()
    assert "0 runs done, 2 to do" in said.out and "another content" not in said.err and not list(Path("results/runs").glob("*.again"))
    assert launched("mine.py:Good", "--seeds", "2") == 0 and "another content" not in capsys.readouterr().err
    assert main(["launch", "digits", "--again"]) == 2 and "--again needs --methods" in capsys.readouterr().err
    assert main(["launch", "digits", "--outdated"]) == 2 and "--outdated needs --methods" in capsys.readouterr().err


def test_what_failed_with_an_older_file_is_made_again(mine, capsys):
    """A mistake that was mended needs no option; one that was not, --retry-failed."""
    mistake = "class Fails(Good):\n    def after_step(self, run):\n        super().after_step(run)\n        assert run.step < 10\n"
    Path("mine.py").write_text(MORE + mistake)
    assert launched("mine.py:Fails") == 1
    assert "1 run failed; `launch` with --retry-failed makes it again" in capsys.readouterr().err
    assert launched("mine.py:Fails") == 1 and "1 run done (1 of them failed), 0 to do" in capsys.readouterr().out
    Path("mine.py").write_text(MORE + mistake.replace("< 10", ">= 0"))
    assert launched("mine.py:Fails") == 0 and "0 runs done, 1 to do" in capsys.readouterr().out
    Path("mine.py").write_text(MORE + mistake)
    assert launched("mine.py:Fails") == 0 and "1 run done, 0 to do" in capsys.readouterr().out  # one that ended well stays


def test_a_file_has_one_name_and_its_content_is_in_the_row(mine, monkeypatch):
    assert launched("mine.py:Good") == 0
    row, = Store("results").rows("digits").values()
    assert re.fullmatch(r".*, mine\.py [0-9a-f]{10}", row["code_version"])
    below = Path("below")
    below.mkdir()
    names = {str(place): [canonical(Spec("digits", name, 0.9, 0)).method for name in
                          (f"{mine}/mine.py:Good", f"{mine}/below/../mine.py:Good", f"{'../' * up}mine.py:Good")]
             for up, place in enumerate((mine, below)) if not monkeypatch.chdir(place)}
    assert names == {str(mine): ["mine.py:Good"] * 3, "below": [f"{mine}/mine.py:Good"] * 3}


def test_another_file_of_the_same_name_is_said(mine, monkeypatch, capsys):
    """In another folder, with the same results."""
    words = ["run", "--task", "digits", "--method", "mine.py:Good", "--sparsity", "0.9", "--epochs", "1", "--results", str(mine / "results")]
    assert main(words) == 0
    for name, text, said in ("copy", MORE, ""), ("other", MORE + "# other", "rows made with another content of mine.py: 1; "):
        (mine / name).mkdir()
        (mine / name / "mine.py").write_text(text)
        monkeypatch.chdir(mine / name)
        capsys.readouterr()
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert "is done already: " in out and err.startswith(said) and bool(err) == bool(said)


def test_an_option_of_ones_own_has_its_own_default(mine):
    """Tasks have defaults for options of the suite's methods; another option of that name is none of these."""
    Path("mine.py").write_text("""from methods.base import Ramped, option
from methods import get
class Own(Ramped):
    interval = option(50, least=1)
class RigL(get("rigl")):
    noise = option(0.5)
""")
    assert settle(Spec("digits", "mine.py:Own", 0.9, 0))[1] == {}
    assert settle(Spec("cifar10-vgg16", "mine.py:RigL", 0.9, 0))[1]["interval"] == 1000
    assert "noise" not in settle(Spec("cifar10-vgg16", "mine.py:RigL", 0.9, 0))[1]


def test_a_hook_with_a_mistake_in_its_name_is_said(mine, capsys):
    Path("mine.py").write_text("""from methods.base import Ramped
class Typo(Ramped):
    def befor_step(self, run):
        raise RuntimeError
    def helper(self, run):
        pass
""")
    assert mistyped("mine.py:Typo") == [("befor_step", "before_step")]
    assert launched("mine.py:Typo") == 0
    assert "mine.py:Typo: nothing calls befor_step but the method itself; the hook is before_step" in capsys.readouterr().err


@pytest.mark.parametrize("name, said", [
    ("Leaks", r"RuntimeError: \d+ weights that the mask says are zero are not: forward must leave them out"),
    ("Fewer", "RuntimeError: 1940 weights are active, the budget is 1941"),
    ("Pays", "RuntimeError: the row would say that train_flops_fraction is -1.0, .*")])
def test_a_row_that_would_not_be_true_is_a_failed_one(mine, name, said):
    """Of what a dry run of a few steps cannot see, too."""
    Path("mine.py").write_text(MORE + """
class Fewer(Good):
    def after_step(self, run):
        super().after_step(run)
        if run.step == run.total_steps - 1:
            self.mask[self.mask.nonzero()[0]] = False
""")
    row = runner.run(Spec("digits", f"mine.py:{name}", 0.9, 0, epochs=1), Store("results"))
    assert row["status"] == "failed" and re.fullmatch(said, row["error"]) and row["top1"] is None


def test_a_hook_that_ends_the_process_is_a_mistake_like_others(mine, capsys):
    """In the trial, and where it comes later: the other runs of a launch go on."""
    ends = """
class Ends(Good):
    def after_step(self, run):
        super().after_step(run)
        if run.step == {}:
            raise SystemExit(3)
"""
    Path("mine.py").write_text(MORE + ends.format(1))
    assert launched("mine.py:Ends") == 2 and "SystemExit in after_step (mine.py, line" in capsys.readouterr().err
    Path("mine.py").write_text(MORE + ends.format(10))
    assert launched("mine.py:Ends", "--methods", "mine.py:Good", "--jobs", "1") == 1
    assert {row["method"]: (row["status"], row["error"]) for row in Store("results").rows("digits").values()} == {
        "mine.py:Ends": ("failed", "SystemExit: 3"), "mine.py:Good": ("ok", "")}
    assert main(["run", "--task", "digits", "--method", "mine.py:Ends", "--sparsity", "0.95", "--epochs", "1"]) == 1
    assert "failed: SystemExit: 3" in capsys.readouterr().out
