"""Checkpoints by themselves: when the next is due, and what becomes of one that loads in part."""
import pytest
import torch
from test_cycles import trainer

from benchmarks import checkpoint, kept
from benchmarks.__main__ import main
from benchmarks.checkpoint import Saver, restored
from benchmarks.grid import Spec
from benchmarks.results import Store


def test_what_a_checkpoint_takes_decides_when_the_next_is_due(tmp_path, monkeypatch):
    """Three seconds are a hundredth of 300; where it takes nothing it is due every minute."""
    clock, made, takes = [1000.0], [], [3.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])

    class Run:
        def state_dict(self):
            made.append(clock[0])
            clock[0] += takes[0]
            return {}

    def every():
        saver = Saver(tmp_path / "run.pt")
        made.clear()
        for _ in range(1000):
            clock[0] += 1
            saver(Run())
        return [round(then - before) for before, then in zip(made, made[1:])]
    assert every() == [303] * 3
    takes[0] = 0.0
    assert every() == [60] * 15


def test_a_checkpoint_that_loads_in_part_leaves_nothing_behind(tmp_path, capsys):
    """Weights that are there, and a part that is not: the run starts anew, as one that never had it."""
    path, state = tmp_path / "run.pt", trainer("st3", 0.5, epochs=1).run().state_dict()
    del state["training"]
    torch.save(state, path)
    run, new = restored(lambda: trainer("st3", 0.5, epochs=1), path), trainer("st3", 0.5, epochs=1)
    assert f"{path} is damaged, or not of this method (KeyError); the run starts anew" in capsys.readouterr().out
    assert not torch.equal(state["model"]["theta"], new.model.theta)
    assert all(torch.equal(a, b) for a, b in zip(run.model.state_dict().values(), new.model.state_dict().values()))
    assert run.progress == new.progress and not run.optimizer.state


def test_a_checkpoint_of_other_batches_says_so(tmp_path, capsys):
    path, state = tmp_path / "run.pt", trainer("st3", 0.5, epochs=1).run().state_dict()
    state["training"]["steps_per_epoch"] = 7
    torch.save(state, path)
    restored(lambda: trainer("st3", 0.5, epochs=2), path)
    assert "not of this method (this training had 7 steps per epoch and would go on with " in capsys.readouterr().out


def test_a_bit_of_a_weight_that_has_changed_on_the_disk_is_noticed(tmp_path, capsys):
    """torch reads it without a word."""
    path, run = tmp_path / "run.pt", trainer("st3", 0.5, epochs=1)
    Saver(path).write(run.state_dict())
    content, weights = bytearray(path.read_bytes()), run.model.theta.detach().numpy().tobytes()
    at = content.find(weights)
    assert at > 0
    content[at + len(weights) // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    restored(lambda: trainer("st3", 0.5, epochs=1), path)
    assert f"{path} is damaged" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_read_costs_a_launch_no_other_run(tmp_path, capsys):
    """It has no row, so that the next launch tries it again."""
    bad, good = (Spec("digits", "static", 0.9, seed, epochs=1) for seed in (0, 1))
    store = Store(tmp_path)
    store.checkpoint(bad.key).mkdir()
    words = ["launch", "digits", "--methods", "static", "--sparsities", "0.9", "--seeds", "2", "--epochs", "1", "--jobs", "1",
             "--set", "allocation=erk", "--results", str(tmp_path)]
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "1 row in " in out and f"the checkpoint {store.checkpoint(bad.key)} cannot be read (Is a directory)" in err, err
    assert not store.row(bad.key) and store.row(good.key)["status"] == "ok" and "Traceback" not in out + err + store.log(bad.key).read_text()


@pytest.mark.parametrize("before", [b"", b"a tape", b"a tape, then "])
def test_torch_is_given_no_file_of_another_kind(before, tmp_path, monkeypatch, capsys):
    """Not even where a zip file is behind it: by how it begins, older versions of torch decide what they run."""
    path, whole = tmp_path / "run.pt", tmp_path / "whole.pt"
    torch.save(trainer("st3", 0.5, epochs=1).run().state_dict(), whole)
    path.write_bytes(before + whole.read_bytes() * before.endswith(b"then "))
    monkeypatch.setattr(torch, "load", lambda *rest, **options: pytest.fail("was asked"))
    restored(lambda: trainer("st3", 0.5, epochs=1), path)
    assert f"the checkpoint {path} is damaged, or not of this method" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"^{path} is damaged, or no network that --keep-models has kept .no file of torch.save.$"):
        kept.load(path)


def test_a_file_that_is_no_kept_network_is_refused_without_advice_to_trust_it(tmp_path):
    for content in {"model": Spec("digits", "st3", 0.9, 0)}, [1], {"network": {"name": "resnet8_digits", "classes": 10}, "state_dict": {}}:
        torch.save(content, tmp_path / "net.pt")
        with pytest.raises(ValueError, match=f"^{tmp_path}/net.pt is damaged, or no network that --keep-models has kept") as caught:
            kept.load(tmp_path / "net.pt")
        assert "weights_only" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        kept.load(tmp_path / "none.pt")


def test_a_checkpoint_that_torch_could_not_write_ends_no_run(tmp_path, monkeypatch, capsys):
    """It raises RuntimeError where a disk is full, not OSError."""
    def full(state, file):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0:\nfile write failed")
    saver = Saver(tmp_path / "run.pt")
    saver.write({"step": 1})
    before = saver.path.read_bytes()
    monkeypatch.setattr(torch, "save", full)
    saver.write({"step": 2})
    assert "(PytorchStreamWriter failed writing file data/0: file write failed); the run goes on" in capsys.readouterr().out
    assert saver.path.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["run.pt"]
