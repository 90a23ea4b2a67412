"""The check of a device, on the CPU: what is right, what is wrong and what ends its process."""
import json

import check_device
import pytest
import torch
from torch.func import functional_call

from benchmarks import models
from benchmarks.gpu import compiled
from methods import SparseModel


def said(capfd):
    return {line["name"]: line for line in map(json.loads, capfd.readouterr().out.splitlines())}


def test_the_cpu_is_as_it_should_be(capfd):
    for part, name in (("methods", "probmask"), ("ranking", "int64")):
        names, check = check_device.PARTS[part]
        assert name in names and check(name, torch.device("cpu")) == {}
    assert "set" in check_device.PARTS["sparse"][0] and check_device.parent("sparse", "cpu", ["set"]) == 0
    assert len(said(capfd)["set"]["cpu"]) == 4


def test_a_network(monkeypatch):
    name = "cifar10-resnet20w8 rigl fp32"
    monkeypatch.setattr(check_device, "STEPS", 9)
    monkeypatch.setattr(check_device, "RESUMED", 8)
    assert name in check_device.PARTS["networks"][0] and check_device.check_network(name, torch.device("cpu")) == {}


@pytest.fixture
def fused(monkeypatch):
    """In the place of the kernels, which need a GPU, the plain network, whose weights are `factor` of what they should be, in runs of digits."""
    def replaced(factor=1.0, used=True):
        def computed(net, layout, x, dtype):
            return lambda weights, x: functional_call(net, layout.named_views(factor * weights), (x,))
        monkeypatch.setattr(check_device.residual, "fused", computed)

        def network(name, device, images):
            assert images > 128 * check_device.STEPS  # nothing is evaluated

            def build(record):
                trainer = check_device.make(name.split()[0], record=record)
                trainer.network.fused = used and compiled.FUSED
                return trainer
            return build
        monkeypatch.setattr(check_device, "network", network)
        model, far = SparseModel(models.build("resnet20", 10, width=0.5), "dense"), check_device.far
        monkeypatch.setattr(check_device, "far", lambda _, device, dtypes: far(model, device, 32, dtypes))
    return replaced


@pytest.mark.parametrize("factor, precision, wrong", [
    (1.0, "bf16", None), (1.0, "fp32", None), (1.2, "bf16", "logits, torch.bfloat16"), (1.005, "fp32", "logits, torch.float32"),
    (1.005, "bf16", None)])
def test_a_batch_by_kernels_of_its_own(factor, precision, wrong, fused):
    """Weights that are larger than they should be are found, in float32 also those that 16 bits do not show."""
    fused(factor)
    found = check_device.check_fused(f"static {precision} batch", torch.device("cpu")).get("wrong", {})
    assert wrong in found if wrong else found == {}
    assert all(key.endswith({"bf16": "bfloat16", "fp32": "float32"}[precision]) for key in found)


@pytest.mark.parametrize("what", check_device.SAME)
def test_a_residual_network_by_kernels_of_its_own(what, fused, monkeypatch):
    cpu = torch.device("cpu")
    fused()
    assert check_device.check_fused(f"static bf16 {what}", cpu) == {} and compiled.FUSED is False
    with monkeypatch.context() as patch:  # what another name looks at is not this one's
        patch.setattr(check_device.Trainer, "load_state_dict", lambda trainer, state: None)
        assert ("wrong" in check_device.check_fused(f"static bf16 {what}", cpu)) == (what == "resumed")
    fused(used=False)
    assert check_device.check_fused(f"static bf16 {what}", cpu)["wrong"] == {"kernels": "not used"}


def test_names_of_kernels_of_their_own_are_small_and_the_first_are_known_soonest():
    names, _ = check_device.PARTS["fused"]
    assert len(names) == len({*names}) == 10 and all(name.endswith(" batch") for name in names[:4])
    assert {tuple(name.split()[2:]) for name in names} == {("fp32", "batch"), *(("bf16", what) for what in ("batch", *check_device.SAME))}
    run = check_device.network(names[4].rsplit(maxsplit=1)[0], torch.device("cpu"), check_device.EPOCH)(None)
    assert run.training.steps_per_epoch > check_device.STEPS


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_gradients_that_are_wrong_show_in_float32(share, monkeypatch):
    """Those of 16 bits are so far off by themselves that some could be missing."""
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weights):
            return weights.clone()

        @staticmethod
        def backward(ctx, gradient):
            return share * gradient

    def fused(net, layout, x, dtype):
        return lambda weights, x: functional_call(net, layout.named_views(Scaled.apply(weights)), (x,))
    monkeypatch.setattr(check_device.residual, "fused", fused)
    model = SparseModel(models.build("resnet20", 10, width=0.5), "dense")
    found = check_device.far(model, torch.device("cpu"), 8)
    assert {key for key in found if key.endswith("float32")} == {f"at {entry.name}, torch.float32" for entry in model.layout.entries}


def test_what_differs_is_found(monkeypatch):
    """A run that resumes nothing, a recording that is none, one that is not made, and weights that are others."""
    cpu = torch.device("cpu")
    assert check_device.check_method("st3", cpu) == {}
    with monkeypatch.context() as patch:
        patch.setattr(check_device.Trainer, "load_state_dict", lambda trainer, state: None)
        assert set(check_device.check_method("static", cpu)["wrong"]) == {"resumed"}
    with monkeypatch.context() as patch:
        patch.setattr(check_device.Run, "recorder", lambda run, device: lambda function: (function(), int))  # replays nothing
        assert "recorded" in check_device.check_method("static", cpu)["wrong"]
    with monkeypatch.context() as patch:
        patch.setattr(check_device, "STEPS", 2)
        patch.setattr(check_device, "RESUMED", 1)
        assert check_device.check_method("static", cpu)["wrong"] == {"recorded": "not recorded"}
    with monkeypatch.context() as patch:
        patch.setattr(check_device, "NEAR", 0)
        assert check_device.check_sparse("set", cpu)["wrong"] == "losses"
    with monkeypatch.context() as patch:
        patch.setattr(check_device, "keep", lambda score, k, calls=[]: calls.append(0) or torch.arange(len(score)) < k + len(calls))
        assert check_device.check_ranking("int64", cpu)["wrong"]


def test_a_cpu_has_all_parts_but_that_of_a_gpus_kernels(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(check_device, "parent", lambda part, device, names: asked.append(part) or 0)
    assert check_device.main(["--device", "cpu", "--processes", "1"]) == 0 and asked == ["methods", "networks", "sparse", "ranking"]


def test_a_device_that_is_not_there_is_one_line(capfd):
    assert check_device.main(["--device", "banana", "ranking"]) == 2
    out, err = capfd.readouterr()
    assert not out and err.startswith("error: there is no device 'banana' here (") and err.count("\n") == 1


def test_a_child_that_says_nothing_is_not_asked_for_ever(tmp_path, monkeypatch, capfd):
    (tmp_path / "child.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(check_device, "__file__", str(tmp_path / "child.py"))
    assert check_device.parent("ranking", "cpu", ["one", "two"]) == 2
    assert {name: line["error"] for name, line in said(capfd).items()} == dict.fromkeys(("one", "two"), "its process ended with status 1")


def test_a_mistake_does_not_end_the_others(capfd):
    assert check_device.parent("methods", "cpu", ["nonsense", "static"]) == 1
    out, err = capfd.readouterr()
    lines = {line["name"]: line for line in map(json.loads, out.splitlines())}
    assert "nonsense" in lines["nonsense"]["error"] and "error" not in lines["static"]
    assert "in check_method" in err  # its traceback


@pytest.mark.parametrize("words, message", [(["networsk"], "unknown part 'networsk'; parts: methods, networks, fused, sparse, ranking"),
                                            (["--processes", "0"], "--processes must be at least 1, not 0"),
                                            (["--device", "cpu", "ranking", "fused"], "fused: Triton's kernels need a GPU; `python -m pytest "
                                             "tests/test_kernels.py` rehearses them, by its interpreter and compiler")])
def test_bad_arguments(words, message, capsys):
    assert check_device.main(words) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
