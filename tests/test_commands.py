"""Runs that go wrong, the local launcher, and the command line: what it lists, and what a launch chooses."""
import pytest
from made_up import row as made_row
from stored import ROOT, WORDS, table, timeless
from test_command_refusals import refused

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
import time
import warnings
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


class Warns(Sparsifier):
    """Warns twice, and ends well only if the first was told while it trains."""

    def after_step(self, run):
        told = Path(__file__).with_name("told").exists()
        if run.step in (2, 18):
            warnings.warn(f"said in step {run.step}")
        if run.step > 2 and not told:
            time.sleep(0.5)
        if run.step == 18 and not told:
            raise RuntimeError("nobody was told")
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
    assert capsys.readouterr().err == f"digits st3 lr=1000000000.0 sparsity 0.9 seed 0 diverged: {row['error']}\n"
    assert row["status"] == "diverged" and "epoch 0" in row["error"] and row["options"] == "lr=1000000000.0"
    assert row["top1"] is row["top1_best_val"] is row["val_top1"] is None
    assert Store(tmp_path).collect("digits") == 1
    assert table(Store(tmp_path), "runs")[0]["top1"] == ""
    assert main([*WORDS, "--set", "lr=1e9", "--results", str(tmp_path)]) == 1
    assert "is done already: diverged" in capsys.readouterr().out


def test_the_log_of_a_diverged_run_says_so(tmp_path, capsys):
    """To launch and plan it is done."""
    words = ["digits", "--methods", "st3", "--sparsities", "0.9", "--seeds", "1", "--epochs", "1", "--set", "lr=1e9", "--results", str(tmp_path)]
    assert main(["launch", *words, "--jobs", "1"]) == 0
    log, = Store(tmp_path).runs.glob("*.log")
    assert f"(log: {log})" in capsys.readouterr().err
    assert "digits st3 lr=1000000000.0 sparsity 0.9 seed 0 diverged: " in log.read_text()
    assert main(["plan", *words]) == 0 and "1 run done, 0 missing" in capsys.readouterr().out


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

def test_all_methods_and_tasks_are_listed(capsys):
    assert main(["options"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*available(), *TASKS] and all(len(line.split()) > 2 for line in lines)
    assert all(line.endswith(".") for line in lines[:len(available())])  # the first lines of docstrings, which break off nowhere
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


def test_a_file_without_the_class(capsys, methods_file, tmp_path):
    refused(capsys, [*WORDS, "--method", f"{methods_file}:Nothing", "--results", str(tmp_path / "results")], "Nothing", "mine.py")


def test_a_run_has_one_key_however_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from methods import get\n\n\nclass Mine(get('st3')):\n    pass\n")
    keys = {canonical(Spec("digits", f"{path}:Mine", 0.9, 0)).key for path in ("mine.py", "./mine.py", tmp_path / "mine.py")}
    assert len(keys) == 1
    for name, value in (("epochs", 5), ("precision", "bf16")):
        assert canonical(Spec("digits", "st3", 0.9, 0, options={name: str(value)})) == canonical(Spec("digits", "st3", 0.9, 0, **{name: value}))


def test_launch_status_and_collect(tmp_path, capsys):
    words = ["digits", "--results", str(tmp_path)]
    picked = ["--methods", "static", "--sparsities", "0.9", "--seeds", "1", "--epochs", "1"]
    assert main(["collect", *words]) == 0 and "no rows" in capsys.readouterr().out
    assert main(["launch", *words, *picked, "--jobs", "1"]) == 0
    assert "0 runs done, 1 to do" in capsys.readouterr().out
    row, = table(Store(tmp_path), "runs")
    assert (row["method"], row["sparsity"], row["seed"], row["epochs"], row["status"]) == ("static", "0.9", "0", "1", "ok")
    assert main(["launch", *words, *picked]) == 0
    assert "1 run done, 0 to do" in capsys.readouterr().out
    assert main(["collect", *words]) == 0 and capsys.readouterr().out.startswith("1 row in")
    assert main(["status", *words]) == 0 and "0 diverged, 0 failed" in capsys.readouterr().out


def test_status_and_collect_tell_a_script_of_failed_runs(tmp_path, capsys):
    words = ["digits", "--results", str(tmp_path)]
    store, specs = Store(tmp_path), [Spec("digits", "static", 0.9, seed) for seed in (0, 1)]
    for spec, status in zip(specs, ("diverged", "failed")):
        store.log(spec.key).touch()
        store.write(made_row(spec, status=status, error="the disk is away"))
        assert main(["status", *words]) == main(["collect", *words]) == (status == "failed")  # what diverged is a result
    captured = capsys.readouterr()
    assert "1 diverged, 1 failed" in captured.out
    assert captured.err.splitlines() == [f"failed: digits static sparsity 0.9 seed 1: the disk is away (log: {store.log(specs[1].key)})",
                                         "1 run failed; `launch` with --retry-failed makes it again"]


def test_what_good_runs_were_warned_of_is_said_once(tmp_path, capsys):
    words = ["launch", "digits", "--methods", "rigl", "--set", "interval=1000", "--sparsities", "0.9", "--seeds", "2", "--epochs", "1"]
    assert main([*words, "--results", str(tmp_path), "--jobs", "1"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert told == ["warning, digits rigl interval=1000 sparsity 0.9 seed 0: rigl cannot change its mask in time: of 19 steps, its first update "
                    "at step 1000 comes too late; choose a smaller interval"]
    assert not list(tmp_path.rglob("*.log")) and all(row["status"] == "ok" for row in table(Store(tmp_path), "runs"))


def test_warnings_are_told_while_the_run_trains(tmp_path, methods_file):
    lines = []

    def report(line):
        lines.append(line)
        if line.startswith("warning"):
            methods_file.with_name("told").touch()
    launcher.launch([Spec("digits", f"{methods_file}:Warns", 0.0, 0, epochs=1)], Store(tmp_path / "results"), "data", jobs=1, report=report)
    assert [line.split(": ")[-1] for line in lines if line.startswith("warning")] == ["said in step 2", "said in step 18"]
    assert [row["status"] for row in Store(tmp_path / "results").rows("digits").values()] == ["ok"]


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
    assert main(["status", *words]) == 0 and "1 run: 1 done" in capsys.readouterr().out


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


def test_stored_rows_are_compared_without_data(monkeypatch, capsys):
    monkeypatch.setenv("DATA_DIR", "/nowhere")
    assert main(["leaderboard", "digits", "--against", "st3", "gmp", "--results", str(ROOT / "results")]) == 0
    assert "st3" in capsys.readouterr().out


def test_collect_names_the_command_that_makes_rows_in_a_folder_of_any_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my rows").mkdir()
    assert main(["collect", "digits", "--results", "my rows"]) == 0
    assert "`bash run_all.sh digits --results 'my rows'` makes them" in capsys.readouterr().out


def test_the_command_of_each_run(capsys):
    words = ["status", "digits", "--methods", "gmp", "--sparsities", "0.98", "--seeds", "2-3", "--set", "ramp_power=0", "--commands"]
    assert main(words) == 0
    keys = [canonical(Spec("digits", "gmp", 0.98, seed, options={"ramp_power": "0"})).key for seed in (2, 3)]
    run = "python -m benchmarks run --task digits --method gmp --sparsity 0.98 --seed {} --set ramp_power=0.0{}  # {}\n"
    assert capsys.readouterr().out == run.format(2, "", keys[0]) + run.format(3, "", keys[1])
    assert main([*words, "--results", "my rows", "--data", "images"]) == 0  # it must not write to other folders than those asked about
    assert capsys.readouterr().out.splitlines()[0] + "\n" == run.format(2, " --results 'my rows' --data images", keys[0])
