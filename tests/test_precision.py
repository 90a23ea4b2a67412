"""Runs in another precision than their task's own: what commands name, what figures show of them, and when a user is told to choose one."""
import io
import platform
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from test_reproduce import drawn, figure, row, run_here, store

from benchmarks import launch, machine, suites
from benchmarks.__main__ import main, parser
from benchmarks.chosen import chosen
from benchmarks.comparison import tables
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.tasks import canonical

QUICK = ["launch", "cifar10", "--profile", "quick"]


def named(*words):
    return chosen(parser().parse_args(words))


@pytest.mark.parametrize("words", [[], ["--methods", "st3", "--seeds", "1"]])
def test_a_launch_makes_all_its_runs_in_the_precision_that_is_named(words):
    """Those of figures too."""
    own, other = named(*QUICK, *words), named(*QUICK, *words, "--precision", "fp32")
    assert len(own) == len(other) and any(spec.options for spec in other)
    assert {spec.precision for spec in own} == {None} and {spec.precision for spec in other} == {"fp32"}
    assert not {spec.key for spec in own} & {spec.key for spec in other}


def test_the_task_s_own_precision_makes_the_same_runs():
    assert named("plan", "digits", "--methods", "st3", "--precision", "fp32") == named("plan", "digits", "--methods", "st3")


def test_run_and_launch_name_one_run_alike():
    alone = canonical(Spec("cifar10-resnet20w8", "st3", 0.9, 0, 6, "fp32"))
    assert alone in named(*QUICK, "--methods", "st3", "--precision", "fp32")


@pytest.fixture
def both(tmp_path):
    """Rows of figure 3 in bf16, and in fp32, where all accuracies are 10 points higher."""
    def rows(precision, more):
        return [row(spec, suite="cifar10", precision=precision or "bf16", top1=50 + more, top1_best_val=55 + more, achieved_sparsity=spec.sparsity,
                    train_flops_fraction=0.1, macs=1, dense_macs=10, cycles=1, seconds=1)
                for spec in suites.trained(figure("figure3").grid("cifar10", "quick"), "quick", precision) if spec.task.startswith("cifar10")]

    store(tmp_path, "cifar10", rows(None, 0) + rows("fp32", 10))
    return tmp_path


@pytest.mark.parametrize("words, mean", [([], 55), (["--precision", "fp32"], 65)])
def test_a_figure_shows_runs_of_one_precision_and_says_of_another_which(both, words, mean):
    done = run_here("figure3.py", "--suite", "cifar10", "--results", both, "--out", both / "out", *words)
    assert not done.returncode and ("In fp32." in done.stdout) == bool(words), done.stderr
    assert {float(line["mean"]) for line in drawn(both / "out" / "cifar10" / "figure3.csv").values() if line["source"] == "measured"} == {mean}


def test_the_leaderboard_compares_runs_of_one_precision(both):
    rows = pd.read_csv(both / "cifar10" / "runs.csv", dtype={"key": str})
    for precision, mean, said in ((None, 55, False), ("fp32", 65, True)):
        table = tables.board(tables.select(rows, "cifar10", "quick", precision=precision), [0.9])
        assert set(table["mean"]) == {mean} and ("In fp32." in table.attrs["note"]) == said


def test_the_leaderboard_says_that_what_is_stored_is_of_another_kind(both, capsys):
    assert main(["leaderboard", "cifar10", "--profile", "quick", "--epochs", "1", "--precision", "fp32", "--results", str(both)]) == 2
    error = capsys.readouterr().err
    assert "bash run_all.sh cifar10 --profile quick --epochs 1 --precision fp32 --results" in error
    assert f"(the {len(pd.read_csv(both / 'cifar10' / 'runs.csv'))} rows that are stored are of other epochs, another precision or options" in error


def test_a_figure_without_such_runs_names_the_command_that_makes_them(tmp_path):
    store(tmp_path, "cifar10", [])
    done = run_here("figure3.py", "--suite", "cifar10", "--results", tmp_path, "--precision", "fp32")
    assert done.returncode == 2 and "bash run_all.sh cifar10 --precision fp32 --results" in done.stderr


@pytest.mark.parametrize("times", [1, 30])
def test_where_bf16_is_imitated_the_user_hears_of_fp32(times, monkeypatch):
    """With a clock that stands still but for what convolutions take."""
    now = [0.0]

    def conv(x, w, padding):
        now[0] += times if x.dtype == torch.bfloat16 else 1

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: now[0])
    said = machine.slow_bf16()
    assert ("--precision fp32" in said and "takes 30 times as long" in said) if times > 1 else said == ""


@pytest.mark.parametrize("precision, told", [(None, ["slow here"]), ("fp32", [])])
def test_only_who_launches_bf16_on_a_cpu_is_told(precision, told, monkeypatch):
    monkeypatch.setattr(machine, "slow_bf16", lambda: "slow here")
    said, spec = [], Spec("cifar10-resnet20w8", "st3", 0.9, 0, precision=precision)
    launch.tell_slow([Spec("digits", "st3", 0.9, 0), spec], said.append, "cpu")
    assert said == told
    launch.tell_slow([spec], said.append, "cuda:0")
    launch.tell_slow([Spec("cifar10-vgg16", "set", 0.9, 0, options={"storage": "sparse"})], said.append, "cpu")
    assert said == told
    launch.tell_slow([Spec("cifar10-vit", "set", 0.9, 0, precision=precision, options={"storage": "sparse"})], said.append, "cpu")
    assert said == 2 * told  # its attention is dense


@pytest.mark.parametrize("words", [
    ["launch", "digits", "--methods", "st3", "--precision", "tf32"], ["plan", "digits", "--precision", "tf32"],
    ["leaderboard", "digits", "--method", "st3", "--precision", "tf32"],
    ["run", "--task", "digits", "--method", "st3", "--sparsity", "0.9", "--precision", "tf32"],
    ["launch", "digits", "--methods", "st3", "--set", "precision=tf32"]])
def test_tf32_without_a_gpu_is_one_line_and_no_failed_rows(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*words, "--results", str(tmp_path)]) == 2
    assert "error: precision tf32 needs a CUDA device; bf16 and fp32 run everywhere\n" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*.json"))


def test_rows_that_cannot_be_made_again_here_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = Spec("digits", "static", 0.9, 0, 1, "tf32")
    store(tmp_path, "digits", [row(spec, suite="digits", precision="tf32")])
    words = ["--methods", "static", "--sparsities", "0.9", "--seeds", "1", "--epochs", "1", "--precision", "tf32", "--again"]
    assert main(["launch", "digits", *words, "--results", str(tmp_path)]) == 2
    assert "tf32 needs a CUDA device" in capsys.readouterr().err
    assert spec.key in Store(tmp_path).rows("digits") and not Store(tmp_path).again(spec.key).exists()


def test_a_figure_makes_no_failed_rows_of_tf32_without_a_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["--suite", "digits", "--results", str(tmp_path), "--run", "--precision", "tf32"]
    assert figure("figure5").main("figure5", figure("figure5").grid, None, words) == 2
    assert "precision tf32 needs a CUDA device" in capsys.readouterr().err and not list(tmp_path.glob("runs/*.json"))


def test_processors_of_one_name_are_told_apart_by_their_instructions(monkeypatch):
    names = []
    for vectors in ("AVX512", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda vectors=vectors: vectors)
        names.append(machine.hardware(torch.device("cpu")))
    assert names[1] == names[0] + ", AVX2"


@pytest.fixture
def processor():
    """So that a test may ask for the name of another processor."""
    machine._processor.cache_clear()
    yield
    machine._processor.cache_clear()


@pytest.mark.parametrize("lscpu, name", [("Architecture: aarch64\nModel name:          Neoverse-N1\nModel:  1\n", "Neoverse-N1"),
                                         ("Architecture: aarch64\n", platform.processor() or platform.machine())])
def test_a_processor_that_linux_names_by_numbers_has_the_name_that_lscpu_gives_it(processor, monkeypatch, lscpu, name):
    numbers = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
    monkeypatch.setattr(machine, "open", lambda path: io.StringIO(numbers), raising=False)
    monkeypatch.setattr(machine.subprocess, "run", lambda words, **_: SimpleNamespace(stdout=lscpu * (words == ("lscpu",))))
    assert machine.hardware(torch.device("cpu")).split(",")[0] == name


def test_apple_s_processors_have_a_name(processor, monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.subprocess, "run", lambda words, **_: SimpleNamespace(stdout=f"Apple {words[-1].rpartition('.')[2]}\n"))
    assert machine.hardware(torch.device("cpu")).split(",")[0] == "Apple brand_string"
