"""Where the time of a packed step goes, in miniature and without a GPU. No time is tested."""
import contextlib
import csv
from dataclasses import replace

import pytest
import torch

from benchmarks import models, operations, replays, train
from benchmarks.gpu import compiled, pack


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The measurement on a CPU, of batches of 8 images: (its exit status, its rows)."""
    monkeypatch.setattr(pack, "Trainer", lambda task, *given: train.Trainer(replace(task, batch_size=8), *given))

    def rows(name="replays.csv"):
        with open(tmp_path / "performance" / name, newline="") as file:
            return list(csv.DictReader(file))

    def measured(*words, steps=True):
        status = replays.main(["--results", str(tmp_path), "--device", "cpu", "--task", "cifar10-resnet20w8", "--rounds", "1", *words])
        return status, rows() if steps else []
    measured.rows = rows
    return measured


def test_each_part_of_a_packed_step_has_a_row(small):
    status, rows = small("--packs", "1", "2")
    assert status == 0 and [(row["part"], row["loop"], row["method"], row["runs"]) for row in rows] == [
        (part, "compiled", "st3", runs) for part in ("apply", "forward_backward", "rank", "step") for runs in "12"]
    assert all(float(row["us"]) >= float(row["host_us"]) - 0.1 > 0 for row in rows)


def test_densities_are_read_as_often_as_in_a_run(monkeypatch):
    """Every 44th step of an epoch of 45,000 images; it takes some 40 launches. In an epoch of the measured steps alone it was every third."""
    read = []
    monkeypatch.setattr(train, "computed_with", lambda model: read.append(made) or torch.zeros(len(model.layout.sizes)))
    steps, made = train.Trainer.step, 0

    def step(trainer, x, y):
        nonlocal made
        made += 1
        return steps(trainer, x[:2], y[:2])
    monkeypatch.setattr(train.Trainer, "step", step)
    rounds = 90
    spec = replays.Spec("cifar10-resnet20w8", "static", 0.95, 0)
    assert next(replays.steps(spec, False, 1, torch.device("cpu"), rounds))[0]["part"] == "step"
    assert made == replays.FIRST + 1 + rounds and read == [0, 44, 88]


def test_what_was_measured_before_a_failure_is_stored(small, monkeypatch, capsys):
    def steps(spec, fused, runs, device, rounds):
        yield [dict(part="step", us=2.0, host_us=1.0)]
        if runs == 2:
            raise torch.OutOfMemoryError("no memory on purpose")
        yield [dict(part="apply", us=1.0, host_us=0.5)]
    monkeypatch.setattr(replays, "steps", steps)
    status, rows = small("--packs", "1", "2", "4")
    assert status == 1 and [row["part"] + row["runs"] for row in rows] == ["apply1", "apply4", "step1", "step2", "step4"]
    said = capsys.readouterr()
    assert "no memory on purpose" in said.err and said.out.endswith(", without compiled 2\n")


def test_single_kernels_are_recorded_for_each_stream_and_replayed_in_turns(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: len(made))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def record(function):
        number = len(made)
        made.append([f"recorded {number}, {len(function())} kernels"])
        return None, lambda: made[number].append("replayed")
    monkeypatch.setattr(operations, "cuda_graph", record)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    monkeypatch.setattr(operations, "now", lambda device: operations.time.perf_counter())
    [row], = replays.launches(2, torch.device("cuda"), 3)
    assert made == [[f"recorded {number}, {replays.KERNELS} kernels", *["replayed"] * 4] for number in range(2)]
    assert row["part"] == "launches" and 0 < row["us"] < row["host_us"]


def test_a_gpu_is_asked_for_all_parts_and_for_both_loops(small, monkeypatch):
    """Of a GPU that is not there: which measurements would be made, in which tables."""
    asked = []
    monkeypatch.setattr(replays, "usable_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(replays, "measured_on", lambda device: {"device": "a GPU"})
    monkeypatch.setattr(replays, "launches", lambda streams, *_: iter([[dict(part="launches", us=1.5)]]))
    monkeypatch.setattr(replays, "steps", lambda spec, fused, runs, *_: asked.append((fused, runs)) or iter([[dict(part="step", us=500.0)]]))
    monkeypatch.setattr(replays, "profile", lambda spec, fused, runs, *_: iter([[dict(part="rank", kernel=kernel, us=1.0) for kernel in "ab"]]))
    monkeypatch.setattr(replays, "operations", lambda net, images: [])
    status, rows = small()
    assert status == 0 and asked == [(False, 1), (False, 8), (True, 1), (True, 8)]
    assert [(row["part"], row["loop"], row["runs"]) for row in rows] == [
        *(("launches", "", str(streams)) for streams in (1, 2, 4, 8)), *(("step", loop, runs) for loop in ("compiled", "fused") for runs in "18")]
    for _ in range(2):  # the second time in the places of the first
        assert small("--parts", "profile", "--loops", "fused")[0] == 0
        assert [(row["loop"], row["runs"], row["kernel"]) for row in small.rows("profile.csv")] == [
            (loop, runs, kernel) for loop in ("compiled", "fused") for runs in "18" for kernel in "ab"]


def test_what_a_step_has_of_each_operation_is_summed_up(small, monkeypatch, capsys):
    """By stand-ins of a GPU, and of the operations of a network."""
    monkeypatch.setattr(replays, "usable_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(replays, "measured_on", lambda device: {"device": "a GPU"})
    monkeypatch.setattr(operations, "now", lambda device: operations.time.perf_counter())
    measured, called = operations.measured, []
    monkeypatch.setattr(replays, "measured", lambda operation, packs, device, rounds: measured(operation, packs, torch.device("cpu"), rounds))
    x = torch.arange(3), torch.full((3,), 5.0)

    def some(net, images):
        assert (net.fc.in_features, images) == (32, 128)
        return [operations.Operation(loop, kernel, shape, calls, lambda *given, factor: called.append((*given, factor)), (x, dict(factor=2)))
                for loop, kernel, shape, calls in (
                    ("compiled", "one", "a", 3), ("compiled", "one", "b", 1), ("fused", "two", "a", 1), ("torch", "three", "a", 1))]
    monkeypatch.setattr(replays, "operations", some)
    status, _ = small("--parts", "operations", "--loops", "compiled", "--packs", "1", "2", steps=False)
    rows = small.rows("operations.csv")
    assert status == 0 and [(row["loop"], row["kernel"], row["shape"], row["runs"]) for row in rows] == [
        ("compiled", "one", shape, runs) for shape in "ab" for runs in "12"] + [("torch", "three", "a", runs) for runs in "12"]
    assert all(float(row["step_us"]) == pytest.approx(float(row["us"]) * int(row["calls"]), abs=0.02) for row in rows)
    whole = sum(float(row["step_us"]) for row in rows if row["kernel"] == "one" and row["runs"] == "2")
    assert f"of a step of 2: compiled one {whole:.1f} us" in capsys.readouterr().out
    assert len(called) == 3 * operations.CALLS * (2 + 2 + 2 * 2)  # first once in each lane, then twice alone and twice in turns
    assert len({given[1].data_ptr() for given in called[:2 * operations.CALLS]}) == 2 * operations.SETS  # no lane has another one's
    assert all(torch.equal(given[0], x[0]) and 0 <= float(given[1].min()) <= float(given[1].max()) < 1 for given in called)


@pytest.mark.parametrize("name, calls", [("resnet20", {"compiled": 62, "fused": 104, "torch": 63}),
                                         ("resnet56", {"compiled": 164, "fused": 276, "torch": 165}), ("vgg11", {"compiled": 2, "torch": 3})])
def test_the_operations_of_a_network(name, calls):
    """All launches of a step; of another network those of its narrow convolutions."""
    pytest.importorskip("triton", reason="torch for CPUs alone has no Triton")
    kernels = [getattr(module, kernel) for kernel, module in operations.KERNELS.items()]
    found = operations.operations(models.build(name, 10), 2)
    assert {loop: sum(one.calls for one in found if one.loop == loop) for loop in {one.loop for one in found}} == calls
    assert kernels == [getattr(module, kernel) for kernel, module in operations.KERNELS.items()]  # they are there again
    if name == "resnet20":
        six = next(one for one in found if one.kernel == "_gather" and "inputs=16 outputs=16 back=True" in one.shape)
        assert (six.loop, six.calls, six.arguments[0][0].dtype, six.arguments[0][0].shape) == ("compiled", 6, torch.bfloat16, (2, 16, 32, 32))
        torch_one = next(one for one in found if one.kernel == "convolution_weight" and "inputs=32 outputs=64" in one.shape)
        gradient, x, weight, *_, wanted = torch_one.arguments[0]
        assert (gradient.shape, x.shape, weight.shape) == ((2, 64, 8, 8), (2, 32, 16, 16), (64, 32, 1, 1)) and wanted == [False, True, False]


def test_kernels_of_a_trace():
    def event(name, begin, us, grid, cat="kernel"):
        given = {"grid": grid, "block": [128, 1, 1], "registers per thread": 40, "shared memory": 512}
        return {"name": name, "cat": cat, "ts": begin, "dur": us, "args": given}
    rows = operations.rows_of([event("a", 10, 2, [8, 1, 1]), event("a", 11, 4, [8, 1, 1]), event("a", 20, 1, [4, 1, 1]), {"name": "no more"},
                               {"name": "other", "cat": "cpu_op"}, {"name": "Memset", "cat": "gpu_memset", "ts": 30, "dur": 10}], 2)
    assert [(row["kernel"], row["calls"], row["us"], row["grid"], row["registers"]) for row in rows] == [
        ("all, from first to last", 2.0, 15.0, "", ""), ("Memset", 0.5, 5.0, "", ""), ("a", 1.0, 3.0, "8x1x1", 40), ("a", 0.5, 0.5, "4x1x1", 40)]
    assert operations.rows_of([{"name": "other", "cat": "cpu_op"}], 1) == []


def test_a_profiler_that_sees_nothing_says_so(small, capsys):
    assert small("--parts", "profile", "--packs", "1", "--method", "static", steps=False)[0] == 0
    said = capsys.readouterr().out
    assert "the profiler saw no kernels of forward_backward" in said and "of apply" in said


def test_a_network_that_the_other_kernels_are_not_for_is_refused():
    spec = replays.Spec("cifar10-resnet20w8", "static", 0.95, 0, precision="fp32")
    with pytest.raises(ValueError, match="kernels/residual.py are for the ResNets of CIFAR alone"):
        replays.pack(spec, True, 1, torch.device("cpu"))
    assert compiled.FUSED is False


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--packs", "8", "0"], ["--task", "digits"], ["--method", "nothing"], ["--parts", "operations"],
                                   ["--parts", "step"], ["--loops", "plain"]])
def test_bad_arguments(words, tmp_path, capsys):
    assert replays.main(["--results", str(tmp_path), "--device", "cpu", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
