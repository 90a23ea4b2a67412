"""What the commands refuse, in one line and with status 2, before anything is run or stored."""
import io
import os
import sys
from pathlib import Path

import pytest
from stored import WORDS

from benchmarks import launch as launcher
from benchmarks.__main__ import main
from benchmarks.command import command
from benchmarks.grid import Spec
from methods import get


def refused(capsys, words, *parts):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("\n") and len(err.splitlines()) == 1, err
    assert all(part in err for part in parts), err
    return err


@pytest.mark.parametrize("words, parts", [
    (["launch", "digit"], ("digit", "digits cifar10 cifar100 imagenet")),
    (["plan", "digit"], ("digit", "digits cifar10 cifar100 imagenet")),
    (["status", "digit"], ("digit", "digits cifar10 cifar100 imagenet")),
    (["collect", "digit"], ("digit", "digits cifar10 cifar100 imagenet")),
    (["launch", "digits", "--profile", "slow"], ("slow", "paper", "quick")),
    (["launch", "digits", "--jobs", "0"], ("--jobs", "0")),
    (["launch", "digits", "--seeds", "0"], ("--seeds", "0")),
    (["launch", "digits", "--methods", "rgil"], ("rgil", "rigl")),
    (["launch", "digits", "--sparsities", "1.2"], ("sparsity", "1.2")),
    (["launch", "digits", "--methods", "st3", "--set", "rescale"], ("--set", "NAME=VALUE")),
    (["launch", "digits", "--methods", "st3", "static", "--set", "rescale=off"], ("rescale", "static")),
    (["launch", "digits", "--set", "rescale=off"], ("no option rescale in acdc, cht and ", "methods that have it: --methods dpf lrr_st3 st3 ")),
    (["launch", "digits", "--methods", "st3", "gmp", "--set", "gama=1"], ("unknown option 'gama'", "nearest: ", "options")),
    (["plan", "digits", "--methods", "gse_grabo", "dense", "rigl", "--set", "gamma=1"], ("no option gamma in dense, rigl; methods that have it: --methods gse_grabo",)),
    (["plan", "digits", "--methods", "st3", "--set", "rescale=perhaps"], ("rescale", "perhaps")),
    (["status", "digits", "--methods", "st3", "--set", "rescal=off"], ("rescal", "rescale")),
    (["launch", "digits", "--epochs", "1", "--set", "epochs=2"], ("epochs is given twice: 1 and 2",)),
    (["launch"], ("SUITE", "digits cifar10 cifar100 imagenet")),
    ([], ("COMMAND", "run, options, plan, launch")),
    (["fly"], ("fly", "launch")),
    (["launch", "digits", "--fly"], ("--fly",)), (["launch", "digits", "--sparsity"], ("--sparsity: expected at least one argument (see",)),
    (["run"], ("--task", "--method (a name, or file.py:Class)")), (["run", "--task", "digits", "--method", "st3"], ("--sparsity is needed",)),
    ([*WORDS, "--sparsity", "1.2"], ("sparsity", "1.2")),
    ([*WORDS, "--sparsity", "nan"], ("sparsity", "nan")),
    ([*WORDS, "--sparsity", "much"], ("--sparsity: a number, not 'much'",)),
    ([*WORDS, "--sparsity", "0.99999"], ("0.99999",)),
    *(([*words, "0.999999"], ("error: sparsity 0.999999 leaves 1 weights for 7 layers; each needs one at least\n",))
      for words in ([*WORDS, "--sparsity"], ["launch", "digits", "--methods", "st3", "--sparsities"],
                    ["launch", "digits", "--launcher", "slurm", "--methods", "st3", "--sparsities"])),
    (["launch", "digits", "--methods", "st3", "--set", "storage=sparse"], ("error: storage='sparse' is for static, ",)),
    ([*WORDS, "--method", "rgil"], ("rgil", "nearest", "rigl")),
    ([*WORDS, "--method", "nowhere.py:Mine"], ("nowhere.py",)),
    ([*WORDS, "--task", "cifar10-resnet2"], ("cifar10-resnet2", "cifar10-resnet20")),
    ([*WORDS, "--seed", "-1"], ("seed", "-1")), ([*WORDS, "--seed", "x"], ("--seed: a whole number, not 'x'",)),
    ([*WORDS, "--set"], ("--set: expected one argument (an option",)),
    ([*WORDS, "--epochs", "0"], ("epochs", "0")),
    ([*WORDS, "--precision", "fp8"], ("fp8", "bf16", "fp32")),
    ([*WORDS, "--precision", "tf32", "--device", "cpu"], ("tf32", "CUDA")),
    *(([*WORDS, "--device", name], (f"there is no device {name!r} here",)) for name in ("warp", "", "cpu:7", "meta")),
    *(([*WORDS, "--method", "dense", "--sparsity", text], ("sparsity must be a number in [0, 1)", text)) for text in ("95", "nan")),
    ([*WORDS, "--set", "rescale"], ("NAME=VALUE",)),
    ([*WORDS, "--set", "rescal=off"], ("rescal", "rescale")),
    ([*WORDS, "--set", "rescale=perhaps"], ("rescale", "perhaps", "smoothed", "paper", "off")),
    ([*WORDS, "--set", "lr=high"], ("lr", "high")),
    ([*WORDS, "--set", "ramp_start=0.9", "--set", "ramp_end=0.1"], ("ramp_start (0.9) is after ramp_end (0.1)",)),
    ([*WORDS, "--set", "model=resnet50"], ("takes no images of 1×8×8",)),
    *((words, ("resnet8_digits of width 1e+09 cannot be built: Storage size calculation overflowed",)) for words in (
        [*WORDS, "--set", "width=1e9"], ["launch", "digits", "--methods", "st3", "--set", "width=1e9"])),
    ([*WORDS, "--set", "width=1e30"], ("resnet8_digits of width 1e+30 cannot be built: ",)),
    ([*WORDS, "--set", "batch_size=5000", "--set", "drop_last=true"], ("drop_last leaves no step: a batch of 5000 is larger than the 1197 ",)),
    ([*WORDS, "--set", "label_smoothing=1.5"], ("label_smoothing takes a number of at least 0 and at most 1, not '1.5'",)),
    *((["launch", "digits", "--seeds", "2", "--methods", method, *(word for option in options for word in ("--set", option))], (said,))
      for method, options, said in (
          ("imp", ["epochs=2", "rewind_epoch=2"], "rewind_epoch must be less than the 2 epochs"),
          ("gse", ["storage=sparse", "count_switches=true"], "count_switches counts those of all weights: it needs storage=masked"),
          ("static", ["nesterov=true", "momentum=0"], "nesterov=True is a form of momentum, and momentum is 0"),
          ("cyclic_static", ["repeats=0", "level_list=abc"], "level_list"),
          ("static", ["batch_size=5000", "drop_last=true"], "drop_last leaves no step"))),
    (["options", "digitz"], ("unknown method or task 'digitz'", "digits-mlp", "`python -m benchmarks options` lists all")),
    (["options", "mine.py"], ("mine.py:CLASS",)), ([*WORDS, "--method", f"{__file__}:"], (f"{__file__}: names no class: {__file__}:CLASS does",)),
    ([*WORDS, "--set", "batch_size=0"], ("batch_size", "0")),
    ([*WORDS, "--data", "nowhere"], ("nowhere", "--data")),
    (["launch", "digits", "--data", "nowhere"], ("nowhere", "--data")),
    ([*WORDS, "--results", "file/results"], ("file/results", "--results")),
    ([*WORDS, "--results", "~nobody-here/x"], ("--results ~nobody-here/x begins with a home folder that is not known",)),
    ([*WORDS, "--data", "~nobody-here/x"], ("--data ~nobody-here/x begins with a home folder that is not known",)),
    (["status", "digits", "--results", "~nobody-here/x"], ("--results ~nobody-here/x",)), ([*WORDS, "--data", ""], ("--data has no name",)),
    (["launch", "digits", "--results", "file"], ("file", "--results")),
    (["launch", "digits", "--partition", "gpu", "--time", "5"], ("--partition belongs to --launcher slurm",)),
    (["launch", "digits", "--mem", "8G"], ("--mem: a number of GB, not '8G'",)),
    (["launch", "digits", "--time", "2:00:00"], ("--time: a whole number of MINUTES, not '2:00:00'",)),
    (["launch", "digits", "--runs-per-task", "2"], ("--runs-per-task belongs to --launcher slurm",)),
    (["launch", "digits", "--results", "cleared"], ("cleared/digits/runs.csv is empty; restore it, or remove it: `collect`",)),
    (["leaderboard", "digits", "--sparsities", "98"], ("[0, 1)", "98")), (["leaderboard", "digits", "--sparsity", "0.9", "nan"], ("[0, 1)",)),
    ([*WORDS, "--epochs", "1", "--set", "epochs=2"], ("epochs is given twice: 1 and 2",)),
    ([*WORDS, "--precision", "bf16", "--set", "precision=fp32"], ("precision is given twice: bf16 and fp32",)),
])
def test_bad_arguments_end_in_one_line(words, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setattr(launcher, "launch", lambda *a, **k: pytest.fail("was launched"))
    Path("file").write_text("no folder")
    Path("cleared/digits").mkdir(parents=True)
    Path("cleared/digits/runs.csv").write_text("")
    refused(capsys, words, *parts)
    assert not list(tmp_path.rglob("*.json")) and not any(path.read_text() for path in tmp_path.rglob("*.csv"))


@pytest.mark.parametrize("words", [["status", "digits"], ["collect", "digits"], ["cancel", "digits"]])
def test_results_that_are_not_there(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(capsys, [*words, "--results", "reslts"], "there is no results folder reslts")
    assert main(words) == 0 and not any(tmp_path.iterdir())  # the usual one is made by the first launch


@pytest.mark.parametrize("words, said", [
    (["launch", "digits", "--methods", "rigl,set"], "several are separated by spaces"), (["launch", "digits", "--sparsities", "0.9,0.95"], "separated by spaces"),
    (["launch", "digits", "--set", "gamma=0.5", "interval=5"], "unrecognized arguments: interval=5; each name=value needs a --set of its own (--help"),
    (["launch", "digits", "--sparsities", "0,9"], "'0,9' (with a point: 0.9) (see"),
    (["launch", "digits", "--seeds", "1,2"], "such as 5-9 or 42-42, not '1,2' (see"),
    (["launch", "digits", "--set", "interval"], "--set takes NAME=VALUE, not 'interval'"), (["launch", "digits", "--set", "=3"], "not '=3'"),
    (["launch", "digits", "--set", "lr = 0.1"], "--set takes NAME=VALUE without spaces beside =, not 'lr = 0.1'"),
    (["plan", "digits", "--seeds", "20240101"], "a number of seeds, 1 to 10000, or the first and the last, such as 5-9 or 42-42, not '20240101'"),
    (["status", "digits", "--seeds", "0-99999999999999999999"], "not '0-99999999999999999999'"),
    (["launch", "digits", "--methods", "rigl allocation=uniform"],
     "the options of rigl are given apart from its name, in a command by --set allocation=uniform, in Python by allocation=uniform\n"),
    *((["launch", "digits", "--methods", name], f"unknown method {name!r}; nearest: {near}") for name, near in (("SNIP", "snip"), ("ST3", "st3"))),
    (["launch", "digits", "--data", __file__], f"the data folder {__file__} is no folder: "),
    (["status", "digits", "--methodz"], "--methodz (--help lists them)")])
def test_mistakes_are_quoted_with_what_is_right(words, said, capsys):
    refused(capsys, words, said)


@pytest.mark.parametrize("command", ["plan", "status", "launch"])
def test_what_a_named_method_skips_is_said(command, tmp_path, capsys):
    assert main([command, "cifar10", "--methods", "str_original", "--results", str(tmp_path)]) == 0
    assert "str_original skips cifar10-resnet20: its a0 and decay are known for ImageNet alone, and " in capsys.readouterr().err
    assert main(["status", "cifar10", "--results", str(tmp_path)]) == 0 and "skips" not in capsys.readouterr().err


def test_what_an_output_cannot_show_ends_no_command(monkeypatch):
    """A sign that its alphabet lacks; a closed one (>&-) shows nothing."""
    shown = io.BytesIO()
    for output in (io.TextIOWrapper(shown, "ascii"), None):
        monkeypatch.setattr(sys, "stdout", output)
        assert command(lambda: print("2 × dense"))() == 0
    place = sys.stdout.fileno()
    assert shown.getvalue() == b"2 \\xd7 dense\n" and os.path.samestat(os.fstat(place), os.stat(os.devnull)) and os.get_inheritable(place)


@pytest.mark.parametrize("text, said", [("def f(:", "SyntaxError, line 1"), ("import nowhere_at_all", "ModuleNotFoundError"), ("1 / 0", "ZeroDivision")])
def test_a_file_that_cannot_be_loaded(text, said, capsys, tmp_path):
    for name in ("broken.py", "broken.txt"):
        (tmp_path / name).write_text(text)
        refused(capsys, [*WORDS, "--method", f"{tmp_path / name}:X", "--results", str(tmp_path / "results")], name, "cannot be loaded", said)


def test_missing_data_end_the_launch_at_once(capsys, tmp_path):
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)  # so that nothing is downloaded
    words = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    refused(capsys, ["run", "--task", "cifar10-resnet20", "--method", "st3", "--sparsity", "0.9", *words], "cifar10", "missing", "--data")
    assert main(["launch", "cifar10", *words]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "missing" in err
    assert not list((tmp_path / "results").rglob("*.json"))


@pytest.mark.parametrize("words, part", [
    (["launch", "digits", "--set", "lr=1", "--set", "lr=2"], "--set lr is given twice"), (["status", "digits", "--results", ""], "has no name"),
    (["status", "digits", "--results", __file__], "is no folder"),
    (["run", "--task", "digits", "--method", "m\udcff.py:Mine"], "is no text here")])
def test_what_would_be_lost_or_land_elsewhere_is_refused(words, part, capsys):
    assert main(words) == 2 and part in capsys.readouterr().err


def test_a_method_that_cannot_be_made_without_memory_is_left_to_its_run(monkeypatch):
    made, init = [], get("static").__init__

    def reads(self, *arguments, **options):
        init(self, *arguments, **options)
        made.append(self.mask.device.type)
        bool(self.mask.all())
    monkeypatch.setattr(get("static"), "__init__", reads)
    launcher.refuse_unsuited([Spec("digits", "static", 0.9, 0)])
    assert made == ["meta"]
