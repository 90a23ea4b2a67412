"""`--keep-models`: the trained network of a run, loaded again."""
import pytest
import torch
from test_command_refusals import refused

from benchmarks import kept
from benchmarks.__main__ import main
from benchmarks.batches import eval_batches
from benchmarks.data import load
from benchmarks.results import Store


@pytest.mark.parametrize("words", [
    ["run", "--task", "digits", "--method", "st3", "--sparsity", "0.9", "--epochs", "2"],
    ["run", "--task", "digits", "--method", "gse_uniform", "--sparsity", "0.9", "--epochs", "2", "--set", "storage=sparse", "--set", "width=2"],
    ["launch", "digits", "--methods", "lrr", "--sparsities", "0.36", "--seeds", "1", "--epochs", "2"]])
def test_the_network_of_a_row(words, tmp_path):
    assert main([*words, "--results", str(tmp_path), "--keep-models"]) == 0
    store, data = Store(tmp_path, write=False), load("digits", "data")
    rows = store.rows("digits")
    assert len(rows) == (2 if "lrr" in words else 1)  # a row for each level
    for key, row in rows.items():
        net, content = kept.load(store.model(key)), torch.load(store.model(key), weights_only=True)
        with torch.no_grad():
            hits = sum(int((net(x).argmax(1) == y).sum()) for x, y in eval_batches(data.test, data, 500))
        assert 100 * hits / len(data.test) == pytest.approx(float(row["top1"]))
        mean, std = (torch.tensor(content[name]).view(-1, 1, 1) for name in ("mean", "std"))  # what it takes, made of plain images
        images = (data.test.images.permute(0, 3, 1, 2) / 255 - mean) / std
        assert torch.allclose(images, torch.cat([x for x, _ in eval_batches(data.test, data, 500)]), atol=1e-5)
        weights = {name: dict(net.named_parameters())[name] for name in content["masks"]}
        assert sum(int(mask.sum()) for mask in content["masks"].values()) == int(row["nnz"])
        assert all(mask.shape == weights[name].shape and not weights[name][~mask].any() for name, mask in content["masks"].items())
        assert f"--sparsity {float(row['sparsity'])!r}" in content["command"]


def test_of_a_run_that_diverged_no_network_is_kept(tmp_path):
    words = ["run", "--task", "digits", "--method", "gmp", "--sparsity", "0.9", "--epochs", "1", "--set", "lr=1e30", "--keep-models"]
    assert main([*words, "--results", str(tmp_path)]) == 1
    row, = Store(tmp_path, write=False).rows("digits").values()
    assert row["status"] == "diverged" and not list((tmp_path / "models").glob("*"))


def test_runs_without_a_network_are_named(tmp_path, capsys):
    words = ["launch", "digits", "--methods", "gmp", "--sparsities", "0.9", "--seeds", "1", "--epochs", "1", "--results", str(tmp_path)]
    assert main(words) == 0 and not (tmp_path / "models").exists()
    assert main([*words, "--keep-models"]) == 0
    assert "of 1 run that is done no network was kept; --again with --methods makes it again" in capsys.readouterr().err
    assert main([*words, "--keep-models", "--again"]) == 0 and len(list((tmp_path / "models").iterdir())) == 1
    assert main([*words, "--keep-models"]) == 0 and "no network" not in capsys.readouterr().out
    assert main([*words, "--again"]) == 0 and not list((tmp_path / "models").iterdir())  # it would be another training's


def test_where_networks_cannot_be_kept_nothing_is_trained(tmp_path, capsys):
    (tmp_path / "models").write_text("something else")
    refused(capsys, ["run", "--task", "digits", "--method", "dense", "--epochs", "1", "--results", str(tmp_path), "--keep-models"],
            f"{tmp_path / 'models'} cannot be written", "--keep-models stores the trained networks there")
    assert not list(tmp_path.glob("runs/*.json"))
