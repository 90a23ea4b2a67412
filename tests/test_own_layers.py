"""Which weights of its network a task of one's own prunes: `skip` and `include` of a Task."""
import csv
from dataclasses import replace

import pytest
from torch import nn

from benchmarks import models, tasks
from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.run import run


class Attends(nn.Module):
    """Attention over the 16 patches of 2×2 pixels of a digit."""

    def __init__(self, classes):
        super().__init__()
        self.patches, self.place = nn.Conv2d(1, 16, 2, 2), nn.Parameter(0.1 * nn.init.normal_(nn.Linear(16, 16).weight.detach()))
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT + self.place
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


ALL = {"patches.weight": 16 * 16 * 4, "attention.in_proj_weight": 16 * 48 * 16, "attention.out_proj.weight": 16 * 16 * 16, "head.weight": 160}  # MACs


@pytest.fixture
def attends(monkeypatch):
    """A function that makes a task with these fields, and returns its name: another for each, for what a Spec stands for is kept."""
    monkeypatch.setitem(models.MODELS, "attends", Attends)

    def made(**values):
        name = "digits-attends" + "".join(part for names in values.values() for part in str(names) if part.isalnum())
        monkeypatch.setitem(tasks.TASKS, name, replace(tasks.TASKS["digits"], model="attends", **values).checked())
        return name
    return made


@pytest.mark.filterwarnings(r"ignore:\d+ weights stay dense")
@pytest.mark.parametrize("values, dense", [
    ({}, {"attention.in_proj_weight"}), ({"include": ("attention",)}, set()),
    ({"include": ("attention.in_proj_weight",), "skip": ("patches", "head.weight")}, {"patches.weight", "head.weight"}),
    ({"skip": ("patches",), "first_dense": True}, {"patches.weight", "attention.in_proj_weight", "attention.out_proj.weight"}),
    ({"include": ("attention",), "skip": ("head",), "last_dense": True}, {"head.weight", "attention.out_proj.weight"})])
@pytest.mark.parametrize("method", ["rigl", "grasp"])
def test_a_row_counts_the_layers_that_the_task_prunes(attends, tmp_path, method, values, dense):
    row = run(Spec(attends(**values), method, 0.5, 0, epochs=1), Store(tmp_path))
    Store(tmp_path).collect("digits")
    with open(tmp_path / "digits" / "layers.csv", newline="") as file:
        layers = {line["layer"]: line for line in csv.DictReader(file)}
    sizes = {"patches.weight": 64, "attention.in_proj_weight": 768, "attention.out_proj.weight": 256, "head.weight": 160}
    assert layers.keys() == ALL.keys() - dense and row["prunable"] == sum(sizes[name] for name in layers) and row["nnz"] == row["prunable"] // 2
    assert row["dense_macs"] == sum(ALL.values()) and row["parameters"] == sum(sizes.values()) + 16 * 16 + 16 + 48 + 16 + 10
    kept = {name: round(ALL[name] * int(layers[name]["nnz"]) / sizes[name]) for name in layers}
    assert row["macs"] == sum(kept.values()) + sum(ALL[name] for name in dense)


@pytest.mark.parametrize("values, said", [
    ({"include": ("place",)}, "include: the products of place cannot be counted, only those of linear and convolutional layers and in_proj_weight; "
                                "skip=('place',) leaves it dense"),
    ({"include": ("places",)}, "include: 'places' is no weight of 2 or more dimensions that is trained, nor a module that has one"),
    ({"skip": ("patch",)}, "skip: the network has no parameter or module 'patch'")])
def test_names_that_cannot_be_are_one_line_before_anything_runs(attends, tmp_path, capsys, values, said):
    task = attends(**values)
    for words in (["run", "--task", task, "--method", "gmp"], ["launch", "digits", "--tasks", task, "--methods", "gmp"]):
        more = ["--sparsity", "0.9"] if words[0] == "run" else ["--sparsities", "0.9", "--seeds", "1"]
        assert main([*words, *more, "--results", str(tmp_path)]) == 2
        assert capsys.readouterr().err == f"error: {said}\n"
