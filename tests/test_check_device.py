"""The check of a device, on the CPU: what is right, what is wrong and what ends its process."""
import json

import check_device
import pytest
import torch


@pytest.fixture(autouse=True)
def few_scores(monkeypatch):
    """More are for a GPU."""
    monkeypatch.setattr(check_device, "RANKED", (7, 1000, 300_000))


def said(capfd):
    return {line["name"]: line for line in map(json.loads, capfd.readouterr().out.splitlines())}


def test_the_cpu_is_as_it_should_be(capfd):
    for part, name in (("methods", "probmask"), ("ranking", "bfloat16"), ("convolutions", "bf16 33 40 2 3 15 7"),
                       ("convolutions", "fp32 3 16 1 3 32 128")):
        names, check = check_device.PARTS[part]
        assert name in names and check(name, torch.device("cpu")) == {}
    assert "set" in check_device.PARTS["sparse"][0] and check_device.parent("sparse", "cpu", ["set"]) == 0
    assert len(said(capfd)["set"]["cpu"]) == 4


def test_a_network(monkeypatch):
    name = "cifar10-resnet20w8 rigl fp32"
    monkeypatch.setattr(check_device, "STEPS", 9)
    monkeypatch.setattr(check_device, "RESUMED", 8)
    assert name in check_device.PARTS["networks"][0] and check_device.check_network(name, torch.device("cpu")) == {}


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
        patch.setattr(check_device.narrow, "convolution", lambda x, weight, stride: 1.01 * torch.conv2d(x, weight, None, stride, 1))
        assert set(check_device.check_convolution("bf16 3 16 1 3 8 4", cpu)["wrong"]) == {"output", "at input", "at weights"}
    with monkeypatch.context() as patch:
        patch.setattr(check_device, "keep", lambda score, k, calls=[]: calls.append(0) or torch.arange(len(score)) < k + len(calls))
        assert check_device.check_ranking("int64", cpu)["wrong"]


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


@pytest.mark.parametrize("words, message", [(["networsk"], "unknown part 'networsk'; parts: methods, networks, sparse, convolutions, ranking"),
                                            (["--processes", "0"], "--processes must be at least 1, not 0")])
def test_bad_arguments(words, message, capsys):
    assert check_device.main(words) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
