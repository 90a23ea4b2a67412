"""Runs for other epochs than the profile's: `launch --epochs` makes them, figures and leaderboard show them with the same words."""
import sys

import pandas as pd
import pytest
from test_figures import drawn as lines
from test_precision import named
from test_reproduce import ROOT, drawn, figure, row, run_here, store

sys.path.insert(0, str(ROOT / "reproduce"))
from rows import Trained, runs_of  # noqa: E402

from benchmarks.comparison import tables  # noqa: E402
from benchmarks.grid import union  # noqa: E402


@pytest.mark.parametrize("suite, profile, epochs", [("digits", "paper", 5), ("digits", "paper", 30), ("cifar10", "quick", 20), ("cifar10", "quick", 160),
                                                    ("cifar10", "paper", 20), ("cifar10", "paper", 160)])
@pytest.mark.parametrize("name", ["figure3", "figure5", "gse_figure5", "gse_table3"])
def test_a_figure_shows_what_a_launch_makes(name, suite, profile, epochs):
    """Once more asked for, or a task's own: the same runs, under the same keys."""
    grid = Trained(figure(name).grid, epochs=epochs)
    specs = [spec for spec in grid(suite, profile) if spec.task.startswith(suite)]
    made = {spec.key for spec in named("plan", suite, "--profile", profile, "--epochs", str(epochs))}
    assert (specs or (name, profile) == ("gse_table3", "paper")) and {spec.key for spec in specs} <= made
    assert grid.of(specs, profile) == specs


@pytest.fixture
def both(tmp_path):
    """Rows of figure 3: of 6 epochs, 24 where it shows longer runs, and of 20, where all accuracies are 10 points higher."""
    def rows(epochs, more):
        return [row(spec, suite="cifar10", precision="bf16", top1=50 + more, top1_best_val=55 + more, achieved_sparsity=spec.sparsity,
                    train_flops_fraction=0.1, macs=1, dense_macs=10, cycles=1, seconds=1)
                for spec in Trained(figure("figure3").grid, epochs=epochs)("cifar10", "quick") if spec.task.startswith("cifar10")]

    store(tmp_path, "cifar10", rows(None, 0) + rows(20, 10))
    return tmp_path


@pytest.mark.parametrize("words, mean, epochs", [([], 55, "6 to 24"), (["--epochs", "20"], 65, "20")])
def test_a_figure_shows_runs_of_one_length_and_says_which(both, words, mean, epochs):
    done = run_here("figure3.py", "--suite", "cifar10", "--results", both, "--out", both / "out", *words)
    assert not done.returncode and f"Reduced runs: {epochs} of 160 epochs." in done.stdout, done.stderr
    points = drawn(both / "out" / "cifar10" / "figure3.csv").values()
    assert {float(line["mean"]) for line in points if line["source"] == "measured"} == {mean}
    runs, profile = runs_of(Trained(figure("figure3").grid, epochs=int((words or [0, 6])[1])), "cifar10", both)
    assert profile == "quick" and not runs.options.str.contains("epochs").any()


def test_the_leaderboard_ranks_runs_of_one_length(both):
    for words, mean, epochs in (([], 55, 6), (["--epochs", "20"], 65, 20)):
        done = run_here("leaderboard.py", "--suite", "cifar10", "--results", both, "--out", both / "out", *words)
        assert not done.returncode and "profile quick" in done.stdout and f"Reduced runs: {epochs} of 160 epochs." in done.stdout, done.stderr
        assert set(pd.read_csv(both / "out" / "cifar10" / "leaderboard.csv")["mean"]) == {mean}


def test_what_cannot_be_drawn_is_said_in_one_line(both):
    for epochs, text in (("0", "--epochs must be at least 1, not 0"), ("7", "bash run_all.sh cifar10 --epochs 7 --results")):
        done = run_here("figure3.py", "--suite", "cifar10", "--results", both, "--epochs", epochs)
        assert done.returncode == 2 and text in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_launch_makes_none_of_the_runs_that_are_longer_than_the_others():
    """Figure 3's of four times the epochs: of the length that is asked for there are others at these sparsities."""
    usual, other = ({(spec.method, spec.sparsity) for spec in named("plan", "cifar10", "--profile", "quick", *words)}
                    for words in ([], ["--epochs", "20"]))
    assert usual - other == {("st3", 0.67232)}


@pytest.mark.parametrize("epochs, said", [(5, "Reduced runs: 5 of 30 epochs."), (45, "45 instead of 30 epochs."), (30, "paper's task.")])
def test_the_leaderboard_of_digits_says_of_another_length_which(epochs, said):
    assert tables.reduced(pd.DataFrame([dict(task="digits", epochs=epochs, precision="fp32")])).endswith(said)


@pytest.mark.parametrize("epochs, published", [(200, True), (400, False)])
def test_published_values_of_another_length_are_not_put_beside_runs(epochs, published, tmp_path):
    grid = Trained(figure("gse_table3").grid, epochs=epochs)
    store(tmp_path, "cifar100", [row(spec, epochs=epochs) for spec in union(grid("cifar100", "paper"))])
    done = run_here("gse_table3.py", "--results", tmp_path, "--epochs", str(epochs))
    assert not done.returncode, done.stderr
    path, = (tmp_path / "figures").glob("*/gse_table3.csv")
    assert {line["source"] for line in lines(path)} == {"measured", *["gse"] * published}
    assert ("Table 3" in done.stdout) == published  # of the supplement


@pytest.mark.parametrize("script", ["beyond.py", "figure4.py"])
def test_literature_alone_is_not_what_was_asked_for(script, both):
    done = run_here(script, "--suite", "imagenet", "--results", both, "--epochs", "20")
    assert done.returncode == 2 and "bash run_all.sh imagenet --epochs 20" in done.stderr
