"""The tables that figures without runs are drawn from: training FLOPs, products, a weight's trajectory."""
import csv
import re
import subprocess
import threading
import time

import pytest
import torch
from scipy.optimize import brentq

from benchmarks import data, machine, measurements, models, plan, products, run, training_flops, trajectory
from benchmarks.cost import layer_macs
from benchmarks.grid import Spec
from benchmarks.machine import code_version, numerics
from benchmarks.measurements import store
from benchmarks.overhead import Entrant
from benchmarks.results import Store


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_measurements_that_end_at_once_are_both_kept(tmp_path, monkeypatch):
    stored = measurements.stored

    def slow(path, columns):
        rows = stored(path, columns)
        time.sleep(0.2)
        return rows
    monkeypatch.setattr(measurements, "stored", slow)
    path = tmp_path / "performance" / "some.csv"
    threads = [threading.Thread(target=store, args=([{"who": who, "value": 1}], path, ["who", "value"], ["who"])) for who in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["who"] for row in rows_of(path)] == ["a", "b"]


def test_training_flops_are_those_of_the_specification():
    line, = training_flops.lines(densities=(0.01,))
    assert line["dense_macs"] == 4_089_184_256
    assert line["sparse_macs"] / line["dense_macs"] == pytest.approx(0.0243345, abs=1e-6)
    assert 1 - line["gse_flops"] / line["rigl_flops"] == pytest.approx(0.1169, abs=1e-4)
    fewer, = training_flops.lines(densities=(0.01,), interval=1000)
    assert 1 - fewer["gse_flops"] / fewer["rigl_flops"] == pytest.approx(0.013, abs=5e-4)
    sparse, = training_flops.lines(densities=(2.54e-5 / 0.0243345 * 0.01,))
    assert sparse["rigl_flops"] / sparse["gse_flops"] == pytest.approx(131, abs=1)


def test_a_mean_step_by_the_specification():
    """Its example: the sparse forward pass costs .1 of the dense one, and every 100 steps the mask is updated."""
    assert training_flops.step(0.1, 1.0, 100) == pytest.approx(0.3089109, abs=1e-7)   # RigL: (3 f_S ΔT + 2 f_S + f_D) / (ΔT + 1)
    assert training_flops.step(0.1, 0.1, 100) == pytest.approx(0.3)                   # GSE: (3 f_S ΔT + 2 f_S + γ f_S) / (ΔT + 1)
    assert training_flops.step(0.1, 0.2, 100) == pytest.approx(0.3 + 0.1 / 101)


def test_training_flops_of_other_subsets():
    """An update of GSE's mask costs 2 + γ sparse passes where a step costs 3; RigL knows no γ."""
    one, = training_flops.lines(densities=(0.01,))
    four, = training_flops.lines(densities=(0.01,), gamma=4.0)
    assert four["rigl_flops"] == one["rigl_flops"] and (four["gamma"], one["gamma"]) == (4.0, 1.0)
    assert four["gse_flops"] - one["gse_flops"] == pytest.approx(2 * 3 * one["sparse_macs"] / 101)


def test_training_flops_of_another_allocation():
    """As many weights in each layer, or all of a smaller one."""
    line, = training_flops.lines(densities=(0.01,), allocation="balanced")
    with torch.device("meta"):
        net = models.build("resnet50", 1000)
    layers = [(macs, net.get_submodule(name).weight.numel()) for name, macs in layer_macs(net, (3, 224, 224)).items()]
    budget = 0.01 * sum(size for _, size in layers)
    each = brentq(lambda each: sum(min(each, size) for _, size in layers) - budget, 0, budget)
    assert line["sparse_macs"] == pytest.approx(sum(macs * min(each, size) / size for macs, size in layers)) and line["allocation"] == "balanced"


def test_products(tmp_path, capsys):
    path = tmp_path / "performance" / "products.csv"
    assert products.main(["--results", str(tmp_path), "--units", "32", "--repeats", "2", "--device", "cpu"]) == 0
    rows = rows_of(path)
    assert [row["format"] for row in rows] == ["coo"] * 10 + ["csr"] * 10 + ["dense"]
    assert float(rows[0]["sparsity"]) == pytest.approx(0.8) and float(rows[9]["sparsity"]) == pytest.approx(0.999)
    assert all(float(row["seconds"]) > 0 for row in rows)
    other = {**rows[0], "device": "another"}
    store([other], path, products.COLUMNS, products.IDENTITY)
    assert products.main(["--results", str(tmp_path), "--units", "32", "--repeats", "2", "--device", "cpu"]) == 0
    again = rows_of(path)
    assert len(again) == 22 and other in again and rows[0] not in again  # rows of another machine stay
    assert products.main(["--results", str(tmp_path), "--units", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_formats_give_the_same_product(monkeypatch):
    seen = []

    def once(product, repeats, device):
        seen.append(product())
        return [1.0, 1.0]

    monkeypatch.setattr(products, "seconds", once)
    products.measure(16, (0.3,), 2, torch.device("cpu"))
    _, coo, csr = seen
    torch.testing.assert_close(coo, csr)


def test_trajectory(tmp_path):
    assert trajectory.main(["--results", str(tmp_path), "--epochs", "4"]) == 0
    rows = rows_of(tmp_path / "digits" / "trajectory.csv")
    assert len({row["weight"] for row in rows}) == 1
    for method, soft in (("ste_hard", False), ("ste_soft", True)):
        lines = [{k: float(row[k]) for k in ("stored", "forward", "threshold")} for row in rows if row["method"] == method]
        assert len({row["step"] for row in rows if row["method"] == method and row["panel"] == "training"}) == 4 * 19
        for line in lines:
            size = abs(line["stored"])
            expected = 0 if size <= line["threshold"] else size - soft * line["threshold"]
            assert abs(line["forward"]) == pytest.approx(expected, abs=1e-6)
        operator = [float(row["forward"]) for row in rows if row["method"] == method and row["panel"] == "operator"]
        assert operator.count(0) / len(operator) == pytest.approx(0.5, abs=0.01)  # of evenly spaced weights half are below the threshold
    first = [next(row for row in rows if row["method"] == method and row["step"] == "0") for method in ("ste_hard", "ste_soft")]
    assert first[0]["stored"] == first[1]["stored"]


def test_the_weight_that_is_followed_switches_most_where_it_switches_less(monkeypatch):
    """In the second half of eight steps: the first weight switches before, the second in one run alone, the third twice in both."""
    step = torch.tensor
    runs = {"ste_hard": step([[1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 1.0]]),
            "ste_soft": step([[1, 1, 1], [0, 1, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1.0]])}
    even = step([-1.0, 0.0, 1.0])
    monkeypatch.setattr(trajectory, "follow", lambda spec, folder: (
        10 + runs[spec.method], runs[spec.method], [0.5] * 8, (even, 2 * even, 0.25)))
    lines = trajectory.measure("digits", 0.9, 0, 4, "data")
    assert {line["weight"] for line in lines} == {2} and {line["steps"] for line in lines} == {8}
    for method, forward in runs.items():
        own = [line for line in lines if line["method"] == method]
        assert [(line["stored"], line["forward"], line["threshold"]) for line in own if line["panel"] == "operator"] == [
            (-1, -2, 0.25), (0, 0, 0.25), (1, 2, 0.25)]
        assert [(line["step"], line["stored"], line["forward"], line["threshold"]) for line in own if line["panel"] == "training"] == [
            (place, 10 + value, value, 0.5) for place, value in enumerate(forward[:, 2].tolist())]


CPU, SPEC = torch.device("cpu"), Spec("digits", "ste_soft", 0.9, 0, 1)
MADE_BY = {
    "run": lambda folder: run.run(SPEC, Store(folder), device="cpu"),
    "overhead": lambda folder: Entrant(SPEC, data.load("digits", "data"), CPU, 1),  # sparse_speed, sparse_growth and scaling make it too
    "plan": lambda folder: plan.seconds_of(SPEC, "data", CPU),
    "trajectory": lambda folder: trajectory.follow(SPEC, "data"),
}


@pytest.mark.parametrize("steps", MADE_BY.values(), ids=MADE_BY)
def test_all_steps_are_made_with_the_arithmetic_of_a_run(steps, tmp_path, arithmetic):
    assert arithmetic() == (False, True, False)
    steps(tmp_path)
    assert arithmetic() == (False, False, True)


def test_arithmetic_of_a_precision(arithmetic):
    numerics("tf32", torch.device("cuda"))
    assert arithmetic() == (True, True, True)
    numerics("bf16", torch.device("cuda"))
    assert arithmetic() == (False, False, True)
    with pytest.raises(ValueError, match="precision tf32 needs a CUDA device"):
        numerics("tf32", CPU)


def test_a_copy_of_the_code_names_its_version(tmp_path, monkeypatch):
    """Of a folder without git: by the environment, else by its file, else by the package's number and what the code is."""
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("CODE_VERSION", " ")
    version = code_version.__wrapped__  # not the one that is remembered
    without = version()
    assert re.fullmatch(r"0\.1\.0\+[0-9a-f]{10}", without)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "st3.py").write_text("another")
    assert re.fullmatch(r"0\.1\.0\+[0-9a-f]{10}", version()) and version() != without
    (tmp_path / "code_version").write_text("1234abcdef+\n")
    assert version() == "1234abcdef+"
    monkeypatch.setenv("CODE_VERSION", "abcdef1234")
    assert version() == "abcdef1234"


def test_a_commit_of_a_project_around_this_one_is_not_its_version(tmp_path, monkeypatch):
    """Where it is copied into another one's repository, or installed in a .venv there."""
    def git(folder, *words):
        subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)
    monkeypatch.delenv("CODE_VERSION", raising=False)
    inside = tmp_path / "inside"
    inside.mkdir()
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "another project")
    monkeypatch.setattr(machine, "ROOT", inside)
    assert code_version.__wrapped__().startswith("0.1.0+")
    git(inside, "init")
    git(inside, "commit", "--allow-empty", "-m", "this one")
    assert re.fullmatch("[0-9a-f]{10}", code_version.__wrapped__())
