"""Runs that go wrong, the local launcher, and the command line, with its exit status and its one line for nonsense."""
from pathlib import Path

import pytest
from stored import ROOT, WORDS, table, timeless

from benchmarks import launch as launcher
from benchmarks import run as runner
from benchmarks import suites
from benchmarks.__main__ import main, parser
from benchmarks.chosen import chosen as specs_of
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.tasks import TASKS, canonical, settle
from methods import available, get

METHODS = '''
import os
import signal
from pathlib import Path

from methods.base import Sparsifier


class RaisesInStep(Sparsifier):
    def after_step(self, run):
        raise RuntimeError("broken on purpose in a step")


class RaisesAtOnce(Sparsifier):
    def __init__(self, layout, sparsity=0.0, **options):
        raise TypeError("broken on purpose at once")


class KilledOnce(Sparsifier):
    def start(self, run, cycle):
        marker = Path(__file__).with_name("killed-once")
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class KilledAlways(Sparsifier):
    def start(self, run, cycle):
        os.kill(os.getpid(), signal.SIGKILL)


class TooMany(Sparsifier):
    """Forgets its budget."""
'''


@pytest.fixture
def methods_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(METHODS)
    return path


# ---- runs that go wrong

def test_a_diverged_run_is_a_row(tmp_path, capsys):
    assert main([*WORDS, "--set", "lr=1e9", "--results", str(tmp_path)]) == 1
    row, = Store(tmp_path).rows("digits").values()
    assert row["status"] == "diverged" and "epoch 0" in row["error"] and row["options"] == "lr=1000000000.0"
    assert row["top1"] is row["top1_best_val"] is row["val_top1"] is None
    assert Store(tmp_path).collect("digits") == 1
    assert table(Store(tmp_path), "runs")[0]["top1"] == ""
    assert main([*WORDS, "--set", "lr=1e9", "--results", str(tmp_path)]) == 1
    assert "is done already: diverged" in capsys.readouterr().out


def test_a_method_that_misses_its_budget_fails(tmp_path, methods_file):
    row = runner.run(Spec("digits", f"{methods_file}:TooMany", 0.9, 0, epochs=1), Store(tmp_path))
    assert row["status"] == "failed" and "19408" in row["error"] and "1941" in row["error"]


def test_launch_survives_whatever_a_run_does(tmp_path, methods_file):
    store = Store(tmp_path / "results")
    names = ("RaisesInStep", "KilledOnce", "RaisesAtOnce", "KilledAlways")
    raises, once, at_once, always = (Spec("digits", f"{methods_file}:{name}", 0.0, 0, epochs=1) for name in names)
    good = Spec("digits", "static", 0.9, 0, epochs=1)
    specs = [raises, once, at_once, always, good]
    lines = []
    bad = launcher.launch(specs, store, "data", jobs=2, report=lines.append)
    rows = store.rows("digits")
    assert {spec.key: rows[spec.key]["status"] for spec in specs} == {
        raises.key: "failed", once.key: "ok", at_once.key: "failed", always.key: "failed", good.key: "ok"}
    assert {row["key"] for row in bad} == {raises.key, at_once.key, always.key}
    assert rows[raises.key]["error"] == "RuntimeError: broken on purpose in a step"
    log = store.log(raises.key).read_text()
    assert "Traceback" in log and "broken on purpose in a step" in log and "mine.py" in log
    assert "broken on purpose at once" in rows[at_once.key]["error"]
    assert "SIGKILL" in rows[always.key]["error"]
    assert not store.log(once.key).exists() and not store.log(good.key).exists()
    assert sum("KilledOnce" in line and "tried again" in line for line in lines) == 1
    assert sum(line.startswith("[5/5") for line in lines) == 1
    assert timeless(rows[good.key]) == timeless(runner.run(good, Store(tmp_path / "alone")))


# ---- the command line

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
    (["launch"], ("SUITE",)),
    ([], ("COMMAND",)),
    (["fly"], ("fly", "launch")),
    (["launch", "digits", "--fly"], ("--fly",)),
    (["run"], ("--task", "--method")), (["run", "--task", "digits", "--method", "st3"], ("--sparsity is needed",)),
    ([*WORDS, "--sparsity", "1.2"], ("sparsity", "1.2")),
    ([*WORDS, "--sparsity", "nan"], ("sparsity", "nan")),
    ([*WORDS, "--sparsity", "much"], ("--sparsity", "much")),
    ([*WORDS, "--sparsity", "0.99999"], ("0.99999",)),
    ([*WORDS, "--method", "rgil"], ("rgil", "nearest", "rigl")),
    ([*WORDS, "--method", "nowhere.py:Mine"], ("nowhere.py",)),
    ([*WORDS, "--task", "cifar10-resnet2"], ("cifar10-resnet2", "cifar10-resnet20")),
    ([*WORDS, "--seed", "-1"], ("seed", "-1")),
    ([*WORDS, "--epochs", "0"], ("epochs", "0")),
    ([*WORDS, "--precision", "fp8"], ("fp8", "bf16", "fp32")),
    ([*WORDS, "--precision", "tf32", "--device", "cpu"], ("tf32", "CUDA")),
    ([*WORDS, "--device", "warp"], ("warp",)),
    ([*WORDS, "--set", "rescale"], ("NAME=VALUE",)),
    ([*WORDS, "--set", "rescal=off"], ("rescal", "rescale")),
    ([*WORDS, "--set", "rescale=perhaps"], ("rescale", "perhaps", "smoothed", "paper", "off")),
    ([*WORDS, "--set", "lr=high"], ("lr", "high")),
    ([*WORDS, "--set", "ramp_start=0.9", "--set", "ramp_end=0.1"], ("ramp_start (0.9) is after ramp_end (0.1)",)),
    ([*WORDS, "--set", "model=resnet50"], ("takes no images of 1×8×8",)),
    ([*WORDS, "--set", "batch_size=5000", "--set", "drop_last=true"], ("drop_last",)),
    (["options", "digitz"], ("unknown method or task 'digitz'", "digits-mlp")),
    (["options", "mine.py"], ("mine.py:CLASS",)),
    ([*WORDS, "--set", "batch_size=0"], ("batch_size", "0")),
    ([*WORDS, "--data", "nowhere"], ("nowhere", "--data")),
    (["launch", "digits", "--data", "nowhere"], ("nowhere", "--data")),
    ([*WORDS, "--results", "file/results"], ("file/results", "--results")),
    (["launch", "digits", "--results", "file"], ("file", "--results")),
    (["launch", "digits", "--partition", "gpu", "--time", "5"], ("--partition belongs to --launcher slurm",)),
    (["launch", "digits", "--runs-per-task", "2"], ("--runs-per-task belongs to --launcher slurm",)),
    (["launch", "digits", "--results", "cleared"], ("cleared/digits/runs.csv lacks the columns",)),
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


def test_all_methods_and_tasks_are_listed(capsys):
    assert main(["options"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*available(), *TASKS] and all(len(line.split()) > 2 for line in lines)
    assert "cifar10-resnet20w8    CIFAR-10, resnet20 of width 0.5, 160 epochs" in lines


def test_options_of_a_method(capsys, methods_file):
    assert main(["options", "lrr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("=")[0] for line in lines] == list(get("lrr").options())
    assert "threshold=quantile_lerp|topk_exact  how many weights a sparsity keeps" in lines and "momentum=reset|keep  the optimiser's, at the start of a cycle" in lines
    assert main(["options", f"{methods_file}:TooMany"]) == 0 and capsys.readouterr().out == ""
    refused(capsys, ["options", "rgil"], "rgil", "rigl")


def test_every_option_says_what_it_means():
    assert not [(name, option) for name in available() for option, found in get(name).options().items() if not found.help]
    # declared anew for another default it keeps its base's words, unless it has its own
    assert get("gse_uniform").options()["interval"].help == get("set").options()["interval"].help != get("gradual").options()["interval"].help


def test_options_of_a_task(capsys):
    """What is listed is what a run takes; the task's own values come first."""
    assert main(["options", "imagenet-resnet50"]) == 0
    listed = dict(line.partition("  ")[0].split("=") for line in capsys.readouterr().out.splitlines())
    assert listed["lr"] == "0.2" and listed["schedule"] == "cosine|steps|cosine_step|cosine_epoch" and "dataset" not in listed
    for name, values in listed.items():
        settle(Spec("imagenet-resnet50", "dense", 0.0, 0, options={name: values.partition("|")[0]}))
    refused(capsys, ["options", "cifar10-resnet2"], "cifar10-resnet2", "cifar10-resnet20")
    refused(capsys, ["options", "cifar10"], "cifar10 is a suite; its tasks: cifar10-resnet20, ")
    refused(capsys, [*WORDS, "--set", "learning_rate=1"], "learning_rate", "options")


def test_options_of_a_method_on_a_task(capsys):
    """What the task's recipe has for the method stands first."""
    assert main(["options", "rigl", "cifar10-vgg16"]) == 0
    listed = dict(line.partition("  ")[0].split("=") for line in capsys.readouterr().out.splitlines())
    assert (listed["interval"], listed["drop_fraction"], listed["scope"], listed["sampler"]) == ("1000", "0.2", "global|layer", "exact|bernoulli")
    assert main(["options", "cifar10-vgg16"]) == 0
    assert "interval=1000  default here, where a method has such an option" in capsys.readouterr().out
    refused(capsys, ["options", "digits", "rigl"], "a TASK comes after a METHOD")


@pytest.mark.parametrize("words", [["status", "digits"], ["collect", "digits"]])
def test_results_that_are_not_there(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(capsys, [*words, "--results", "reslts"], "there is no results folder reslts")
    assert main(words) == 0 and not any(tmp_path.iterdir())  # the usual one is made by the first launch


@pytest.mark.parametrize("words, said", [
    (["launch", "digits", "--methods", "rigl,set"], "several are separated by spaces"), (["launch", "digits", "--sparsities", "0.9,0.95"], "separated by spaces"),
    (["launch", "digits", "--set", "interval"], "--set takes NAME=VALUE, not 'interval'"), (["launch", "digits", "--set", "=3"], "not '=3'"),
    (["status", "digits", "--methodz"], "--methodz (--help lists them)")])
def test_mistakes_are_quoted_with_what_is_right(words, said, capsys):
    refused(capsys, words, said)


def test_a_file_without_the_class(capsys, methods_file, tmp_path):
    refused(capsys, [*WORDS, "--method", f"{methods_file}:Nothing", "--results", str(tmp_path / "results")], "Nothing", "mine.py")


@pytest.mark.parametrize("text, said", [("def f(:", "SyntaxError, line 1"), ("import nowhere_at_all", "ModuleNotFoundError"), ("1 / 0", "ZeroDivision")])
def test_a_file_that_cannot_be_loaded(text, said, capsys, tmp_path):
    for name in ("broken.py", "broken.txt"):
        (tmp_path / name).write_text(text)
        refused(capsys, [*WORDS, "--method", f"{tmp_path / name}:X", "--results", str(tmp_path / "results")], name, "cannot be loaded", said)


def test_a_run_has_one_key_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from methods import get\n\n\nclass Mine(get('st3')):\n    pass\n")
    keys = {canonical(Spec("digits", f"{path}:Mine", 0.9, 0)).key for path in ("mine.py", "./mine.py", tmp_path / "mine.py")}
    assert len(keys) == 1
    for name, value in (("epochs", 5), ("precision", "bf16")):
        assert canonical(Spec("digits", "st3", 0.9, 0, options={name: str(value)})) == canonical(Spec("digits", "st3", 0.9, 0, **{name: value}))


def test_missing_data_end_the_launch_at_once(capsys, tmp_path):
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)  # so that nothing is downloaded
    words = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    refused(capsys, ["run", "--task", "cifar10-resnet20", "--method", "st3", "--sparsity", "0.9", *words], "cifar10", "missing", "--data")
    assert main(["launch", "cifar10", *words]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "missing" in err
    assert not list((tmp_path / "results").rglob("*.json"))


def test_launch_status_and_collect(tmp_path, capsys):
    words = ["digits", "--results", str(tmp_path)]
    picked = ["--methods", "static", "--sparsities", "0.9", "--seeds", "1", "--epochs", "1"]
    assert main(["collect", *words]) == 0 and "no rows" in capsys.readouterr().out
    assert main(["launch", *words, *picked, "--jobs", "1"]) == 0
    assert "0 runs done, 1 to do" in capsys.readouterr().out
    row, = table(Store(tmp_path), "runs")
    assert (row["method"], row["sparsity"], row["seed"], row["epochs"], row["status"]) == ("static", "0.9", "0", "1", "ok")
    assert main(["launch", *words, *picked]) == 0
    assert "1 runs done, 0 to do" in capsys.readouterr().out
    assert main(["collect", *words]) == 0 and capsys.readouterr().out.startswith("1 rows")
    assert main(["status", *words]) == 0 and "0 diverged, 0 failed" in capsys.readouterr().out


def test_options_of_a_launch(tmp_path, capsys):
    """Its runs are those of `run` with the same options, and no others: what a figure needs besides has options of its own."""
    def chosen(*words):
        return specs_of(parser().parse_args(["launch", "digits", "--methods", *words]))
    assert {spec.options for spec in chosen("st3")} > {(), (("straight_through", "False"),)}
    both = ["--set", "ramp_power=1", "--set", "rescale=off"]
    assert [(spec.method, spec.sparsity, spec.seed, spec.options) for spec in chosen("st3", *both, "--sparsities", "0.9", "--seeds", "2")] == [
        ("st3", 0.9, seed, (("ramp_power", "1.0"), ("rescale", "off"))) for seed in (0, 1)]
    assert {spec.options for spec in chosen("dense", "gmp", "--set", "lr=0.05")} == {(("lr", "0.05"),)}  # the task's, which all have
    assert {spec.options for spec in chosen("static", "--set", f"lr={TASKS['digits'].lr}")} == {()}

    words = ["digits", "--results", str(tmp_path), "--methods", "st3", "--sparsities", "0.9", "--seeds", "1", "--epochs", "1", *both]
    assert main(["launch", *words, "--jobs", "1"]) == 0
    row, = table(Store(tmp_path), "runs")
    assert (row["method"], row["options"], row["status"]) == ("st3", "ramp_power=1.0 rescale=off", "ok")
    capsys.readouterr()
    run = ["run", "--task", "digits", "--method", "st3", "--sparsity", "0.9", "--epochs", "1", "--results", str(tmp_path), *both]
    assert main(run) == 0 and capsys.readouterr().out.startswith(f"{row['key']} is done already")
    assert main(["status", *words]) == 0 and "1 runs: 1 done" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["status", "digits"], ["collect", "digits"], ["cancel", "digits"], ["options", "lrr"]])
def test_commands_that_need_no_data_take_its_folder_too(words, tmp_path, capsys):
    """So that the words of one command serve the next; nothing is looked for there."""
    found = [(main([*words, "--results", str(tmp_path), *more]), capsys.readouterr()) for more in ((), ("--data", "nowhere"))]
    assert found[0] == found[1] and found[0][0] == 0


def test_on_imagenet_a_suite_is_what_the_papers_train_there():
    """Others run where they are named, and then alone."""
    specs = suites.grid("imagenet")
    assert len(specs) == 87 and {(spec.task, spec.method) for spec in specs} == {
        *((task, method) for task in ("imagenet-resnet50", "imagenet-mobilenetv1") for method in ("dense", "st3", "st3_sigma")),
        ("imagenet-resnet50", "gse_uniform")}

    def chosen(*words):
        return specs_of(parser().parse_args(["launch", "imagenet", *words]))
    assert {spec.key for spec in chosen()} == {spec.key for spec in specs}
    assert {spec.key for spec in chosen("--seeds", "1")} == {spec.key for spec in specs if spec.seed == 0}
    assert [(spec.method, spec.seed) for spec in chosen("--methods", "gmp", "--sparsities", "0.9")] == [("gmp", seed) for seed in range(3)]
    assert len(chosen("--methods", "gmp", "feather")) == 2 * 3 * 6
    assert {spec.options for spec in chosen("--methods", "gse")} == {(), (("recipe", "original"),)}


def test_a_list_that_is_given_twice_goes_on():
    words = "launch digits --methods gmp --methods rigl st3 --sparsities 0.9 --sparsity 0.8".split()
    args = parser().parse_args(words)
    assert args.methods == ["gmp", "rigl", "st3"] and args.sparsities == [0.9, 0.8]
    args = parser().parse_args("leaderboard digits --against st3 --against gmp --sparsity 0.9 --sparsity 0.98".split())
    assert args.against == ["st3", "gmp"] and args.sparsities == [0.9, 0.98]


@pytest.mark.parametrize("words, part", [
    (["launch", "digits", "--set", "lr=1", "--set", "lr=2"], "--set lr is given twice"), (["status", "digits", "--results", ""], "has no name"),
    (["status", "digits", "--results", __file__], "is no folder"),
    (["run", "--task", "digits", "--method", "m\udcff.py:Mine"], "is no text here")])
def test_what_would_be_lost_or_land_elsewhere_is_refused(words, part, capsys):
    assert main(words) == 2 and part in capsys.readouterr().err


def test_stored_rows_are_compared_without_data(monkeypatch, capsys):
    monkeypatch.setenv("DATA_DIR", "/nowhere")
    assert main(["leaderboard", "digits", "--against", "st3", "gmp", "--results", str(ROOT / "results")]) == 0
    assert "st3" in capsys.readouterr().out
