"""The counter of multiply-accumulates against numbers that were computed by hand, published, or counted by fvcore."""
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_models import TABLE
from torch import nn

from benchmarks import cost
from benchmarks.describe import macs_of
from benchmarks.grid import Spec
from benchmarks.models import MODELS, build
from benchmarks.results import Store
from benchmarks.run import run
from benchmarks.tasks import TASKS, get_task

SHAPES = {name: shape for name, _, _, shape, *_ in TABLE}


@pytest.mark.parametrize("name", MODELS)
def test_fvcore_counts_the_same(name):
    fvcore = pytest.importorskip("fvcore.nn", reason="fvcore, against which the counts are checked, is not installed")
    net, shape = build(name, 10).eval(), SHAPES[name]
    analysis = fvcore.FlopCountAnalysis(net, torch.zeros(1, *shape)).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counts = cost.layer_macs(net, shape)
    assert counts == {layer: int(analysis.by_module()[layer]) for layer in counts}
    assert all(type(count) is int and count > 0 for count in counts.values())


def test_hand_counted_layers():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(),
                        nn.Linear(8 * 4, 5))
    assert cost.layer_macs(net, (3, 8, 8)) == {"0": 8 * 27 * 16, "2": 8 * 9 * 4, "4": 160}
    assert cost.layer_macs(nn.Linear(8, 5), (3, 8)) == {"": 3 * 8 * 5}
    assert cost.layer_macs(nn.Conv1d(3, 4, 5), (3, 9)) == {"": 4 * 3 * 5 * 5}
    assert cost.layer_macs(nn.Conv3d(2, 3, 2), (2, 3, 3, 3)) == {"": 3 * 2 * 8 * 8}


def test_a_network_that_is_one_layer(monkeypatch, tmp_path):
    class Flat(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1))

    monkeypatch.setitem(MODELS, "flat", lambda classes: Flat(64, classes))
    monkeypatch.setitem(TASKS, "digits-flat", replace(TASKS["digits"], model="flat"))
    row = run(Spec("digits-flat", "gmp", 0.9, 0, 1), Store(tmp_path))
    assert (row["status"], row["dense_macs"], row["macs"]) == ("ok", 640, 64)


def test_an_example_may_be_any_input():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

        def forward(self, ids, mask=None):
            return self.head(self.words(ids) * (1 if mask is None else mask.unsqueeze(-1)))

    ids, mask = torch.zeros(1, 7, dtype=torch.long), torch.ones(1, 7)
    for example in (ids, (ids, mask), (ids,), {"ids": ids, "mask": mask}):
        assert cost.layer_macs(Words(), example) == {"head": 7 * 4 * 3}


def test_the_projections_of_attention_are_counted_though_no_module_is_called():
    """16 positions of 16 numbers: 16 · 48 · 16 into, 16 · 16 · 16 out of attention; 32 of another that attend to 10."""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.own = nn.Conv2d(1, 16, 2, 2), nn.MultiheadAttention(16, 2, batch_first=True)
            self.block = nn.TransformerEncoderLayer(16, 2, dim_feedforward=8, batch_first=True)
            self.across = nn.MultiheadAttention(16, 2, kdim=5, vdim=7, batch_first=True)

        def forward(self, x):
            x = self.stem(x).flatten(2).transpose(1, 2)
            x = self.block(self.own(x, self.own(x, x, x)[0], value=x)[0])
            return self.across(torch.cat([x, x], 1), key=x.new_zeros(1, 10, 5), value=x.new_zeros(1, 10, 7))[0]

    assert cost.layer_macs(Net(), (1, 8, 8)) == {
        "stem": 16 * 4 * 16, "own.in_proj": 2 * 12288, "own.out_proj": 2 * 4096, "block.self_attn.in_proj": 12288, "block.self_attn.out_proj": 4096,
        "block.linear1": 16 * 16 * 8, "block.linear2": 16 * 16 * 8, "across.in_proj": 32 * 256 + 10 * (5 + 7) * 16, "across.out_proj": 32 * 256}


def test_attention_of_another_call_counts_as_nothing():
    class Own(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    assert cost.layer_macs(nn.Sequential(nn.Linear(4, 4), Own(4, 1)), (3, 4)) == {"0": 3 * 16, "1.out_proj": 0}


def test_all_that_can_be_pruned_is_counted():
    assert cost.layer_macs(nn.ConvTranspose2d(8, 6, 2, 2), (8, 4, 4)) == {"": 16 * 8 * 6 * 4}
    assert cost.layer_macs(nn.ConvTranspose1d(4, 6, 3, groups=2), (4, 5)) == {"": 5 * 4 * 3 * 3}


def test_one_image_is_counted_whatever_normalises_it():
    """In evaluation: of a single image there are no statistics of a batch."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)).train()
    assert cost.layer_macs(net, (3, 2, 2)) == {"1": 72, "3": 24} and net.training


def test_counting_changes_nothing():
    net = build("vgg16_small", 10)
    net[1].eval()
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random = torch.get_rng_state()
    cost.layer_macs(net, (3, 32, 32))
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_counting_prints_nothing():
    code = "from benchmarks import cost, models; cost.layer_macs(models.build('vit_tiny', 10), (3, 32, 32))"
    command = [sys.executable, "-W", "always", "-c", code]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_sparse_macs():
    macs = {"a": 1000, "b": 3000}
    sparse = cost.sparse_macs(macs, {"a": 0.5, "b": 0.25})
    assert sparse == 1250
    assert 1 - sparse / sum(macs.values()) == 0.6875
    assert cost.sparse_macs(macs, {"b": 1, "a": 1}) == 4000


@pytest.mark.parametrize("density, named", [({"a": 0.5}, "'b'"), ({"a": 0.5, "c": 0.5}, "'b', 'c'"), ({"a": 0.5, "b": 0.5, "c": 0.5}, "'c'")])
def test_sparse_macs_needs_the_same_layers(density, named):
    with pytest.raises(ValueError, match=f"must name the same layers.*\\[{named}\\]"):
        cost.sparse_macs({"a": 1000, "b": 3000}, density)


@pytest.mark.parametrize("name, model, width", [("cifar10-resnet20w8", "resnet20", 0.5), ("cifar10-resnet20", "resnet20", 1.0)])
def test_the_network_that_is_counted_has_the_task_s_width(name, model, width):
    found = macs_of(get_task(name), SimpleNamespace(classes=10, shape=(3, 32, 32)))
    assert found == {f"{layer}.weight": count for layer, count in cost.layer_macs(build(model, 10, width=width), (3, 32, 32)).items()}


@pytest.mark.parametrize("sparsity, fraction", [(0.8, 0.2231), (0.9, 0.1260), (0.95, 0.0774), (0.965, 0.0628)])
def test_resnet50_uniform_with_dense_stem(sparsity, fraction):
    with torch.device("meta"):
        net = build("resnet50", 1000)
    macs = cost.layer_macs(net, (3, 224, 224))
    density = {name: 1 if name == "conv1" else 1 - sparsity for name in macs}
    assert cost.sparse_macs(macs, density) / sum(macs.values()) == pytest.approx(fraction, abs=5e-5)
