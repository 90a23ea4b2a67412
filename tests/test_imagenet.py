"""ImageNet's path on a small folder of real JPEG files: reading, the recipe, and runs that several processes make together."""
import gc
import itertools
import math
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from stored import timeless
from test_every_method import difference, lasting, make, read, saved
from torch.utils.data import default_collate
from torchvision.transforms.functional import pil_to_tensor

from benchmarks import imagenet, team
from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.checkpoint import Stopped
from benchmarks.data import DataError, epoch_batches, eval_batches, load
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.tasks import get_task, settle
from benchmarks.train import Trainer
from methods import available

TRAIN, VAL, SIZE = 26, 9, 32
STEPS = 3        # of every method; masks are updated in the third
PAUSE = 5        # three steps and the end of an epoch, and one step more


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits 0 to 2, enlarged to images of several sizes and modes."""
    home, bunch, counts = tmp_path_factory.mktemp("data"), load_digits(n_class=3), {}
    for number in range(TRAIN + VAL):
        label = bunch.target[number]
        place = home / "imagenet" / ("train" if number < TRAIN else "val") / f"n{label}"
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((bunch.images[number] * 15.9).astype("uint8")).resize((40 + number, 56), Image.BICUBIC)
        counts[label] = counts.get(label, 0) + 1
        (image if number % 5 else image.convert("RGB")).save(place / f"{number:03}.JPEG")
    assert set(counts) == {0, 1, 2}
    return home


def small(folder):
    """The data at 32 pixels, so that a step takes milliseconds."""
    data = imagenet.load(folder)
    return replace(data, train=replace(data.train, size=SIZE), test=replace(data.test, size=SIZE), shape=(3, SIZE, SIZE))


def of_images(folder):
    """A Trainer on them: three batches of 10, 10 and 6 an epoch. Its network computes in 64 bits, for 27 layers of normalisation over
    few pixels make much of rounding."""
    task, options = settle(Spec("imagenet-mobilenetv1", "st3", 0.9, 0, epochs=2, precision="fp32", options={"batch_size": 10, "lr": 0.02}))
    torch.set_default_dtype(torch.float64)
    try:
        trainer = Trainer(task, "st3", 0.9, 0, options, small(folder))
    finally:
        torch.set_default_dtype(torch.float32)
    trainer.model.net.register_forward_pre_hook(lambda module, args: args[0].double())
    return trainer


# ---- reading

def test_load(folder):
    data = load("imagenet", folder, validation=False)
    assert (len(data.train), data.val, len(data.test), data.classes, data.shape) == (TRAIN, None, VAL, 3, (3, 224, 224))
    held = load("imagenet", folder)
    assert (len(held.val), len(held.train)) == (1, TRAIN - 1)
    assert {path for path, _ in held.val.samples + held.train.samples} == {path for path, _ in data.train.samples}


def test_what_cannot_be_read_is_named(folder, tmp_path):
    with pytest.raises(DataError, match="imagenet cannot be read .*train.* --data DIR"):
        load("imagenet", tmp_path)
    for name in ("train/a", "train/b", "val/a"):
        (tmp_path / "imagenet" / name).mkdir(parents=True)
        (tmp_path / "imagenet" / name / "0.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match="other classes"):
        load("imagenet", tmp_path)
    (tmp_path / "imagenet" / "val" / "b").mkdir()
    (tmp_path / "imagenet" / "val" / "b" / "0.JPEG").write_bytes(b"no image")
    data = imagenet.load(tmp_path)
    with pytest.raises(DataError, match="train/./0.JPEG cannot be read"):
        next(epoch_batches(data.train, data, 2, 0, 0))


def listed(batches):
    return [(x.clone(), y.clone()) for x, y in batches]


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for pair in zip(first, second) for a, b in zip(*pair))


def test_batches_follow_from_seed_and_epoch_alone(folder, monkeypatch):
    data = small(folder)
    whole = listed(epoch_batches(data.train, data, 10, 0, 3))
    assert [tuple(x.shape) for x, _ in whole] == [(10, 3, SIZE, SIZE), (10, 3, SIZE, SIZE), (6, 3, SIZE, SIZE)]
    assert sorted(torch.cat([y for _, y in whole]).tolist()) == sorted(label for _, label in data.train.samples)
    assert all(x.is_contiguous(memory_format=torch.channels_last) and x.dtype == torch.float32 for x, _ in whole)
    assert same(listed(epoch_batches(data.train, data, 10, 0, 3, start=1)), whole[1:])
    assert len(listed(epoch_batches(data.train, data, 10, 0, 3, drop_last=True))) == 2
    for other in ((1, 3), (0, 4)):
        assert not same(listed(epoch_batches(data.train, data, 10, *other)), whole)
    replayed = listed(epoch_batches(data.train, data, 10, 0, 4, crops=3))
    assert not same(replayed, whole) and not same(replayed, listed(epoch_batches(data.train, data, 10, 0, 4)))
    monkeypatch.setattr(imagenet, "cores", lambda: 3)  # two workers
    assert same(listed(epoch_batches(data.train, data, 10, 0, 3)), whole)


class Left:
    """In a cycle with itself: garbage, until the collector comes, which notes the process that it comes in."""

    def __init__(self, place):
        self.place, self.itself = place, self

    def __del__(self):
        self.place.write_text(str(os.getpid()))


def collecting(samples):
    gc.collect()
    return default_collate(samples)


def test_what_an_earlier_run_left_is_not_taken_apart_by_a_worker(folder, tmp_path, monkeypatch):
    data = small(folder)
    monkeypatch.setattr(imagenet, "cores", lambda: 3)  # two workers
    monkeypatch.setattr(imagenet.Folder, "collate", staticmethod(collecting))
    gc.disable()
    try:
        Left(tmp_path / "process")
        listed(epoch_batches(data.train, data, 10, 0, 3))
    finally:
        gc.enable()
    assert (tmp_path / "process").read_text() == str(os.getpid())


def test_processes_have_parts_of_the_same_batches(folder, monkeypatch):
    for data in (small(folder), load("digits", folder)):
        few = replace(data, train=data.train.first(9))
        whole = [listed(epoch_batches(few.train, few, 4, 0, 0)), listed(eval_batches(few.train, few, 4))]
        monkeypatch.setattr(team, "size", lambda: 2)
        parts = []
        for rank in range(2):
            monkeypatch.setattr(team, "rank", lambda: rank)
            parts.append([listed(epoch_batches(few.train, few, 4, 0, 0)), listed(eval_batches(few.train, few, 4))])
            assert same(listed(epoch_batches(few.train, few, 4, 0, 0, whole=True)), whole[0])
        monkeypatch.undo()
        for kind in range(2):
            assert [[len(y) for _, y in part[kind]] for part in parts] == [[2, 2, 0], [2, 2, 1]]
            assert same([tuple(map(torch.cat, zip(*pair))) for pair in zip(parts[0][kind], parts[1][kind])], whole[kind])


def test_evaluation_takes_the_middle_in_the_order_of_the_files(folder):
    data = small(folder)
    (x, y), = eval_batches(data.test, data, 500)
    assert y.tolist() == [label for _, label in data.test.samples]
    path, _ = data.test.samples[0]
    image = Image.open(path).convert("RGB")
    width, height = image.size
    scaled = image.resize((round(width * 36 / min(width, height)), round(height * 36 / min(width, height))), Image.BILINEAR)
    left, top = (scaled.width - SIZE) // 2, (scaled.height - SIZE) // 2
    expected = pil_to_tensor(scaled.crop((left, top, left + SIZE, top + SIZE))).permute(1, 2, 0)
    pixels = (x[0].permute(1, 2, 0) * torch.tensor(imagenet.STD) + torch.tensor(imagenet.MEAN)) * 255
    assert (pixels - expected).abs().mean() < 8  # another rounding of sizes moves the crop by at most a pixel


# ---- the recipe

def test_recipe():
    for name in ("imagenet-resnet50", "imagenet-mobilenetv1"):
        task = get_task(name)
        assert (task.epochs, task.batch_size, task.lr, task.momentum, task.weight_decay) == (100, 512, 0.2, 0.875, 5e-5)
        assert (task.label_smoothing, task.clip, task.decay_all, task.validation, task.precision) == (0.1, 3.0, False, False, "bf16")
        _, options = settle(Spec(name, "st3", 0.9, 0))
        assert (options["ramp_start"] * 100, options["ramp_end"] * 100) == (5, 50)


@pytest.mark.parametrize("epochs, table", [
    (100, {0: 0.04, 3: 0.16, 4: 0.2, 5: 0.2, 6: 0.1 * (1 + math.cos(math.pi / 95)), 52: 0.1 * (1 + math.cos(math.pi * 47 / 95)),
           99: 0.1 * (1 + math.cos(math.pi * 94 / 95))}),
    (5, {0: 0.2, 4: 0.1 * (1 + math.cos(math.pi * 4 / 5))}),  # too short for a warm-up
])
def test_learning_rate_is_a_cosine_renewed_at_every_epoch(epochs, table):
    trainer = make("static", schedule="cosine", lr=0.2, epochs=epochs)
    spe = trainer.training.steps_per_epoch
    for epoch, rate in table.items():
        assert trainer.learning_rate(epoch * spe) == trainer.learning_rate(epoch * spe + spe - 1) == pytest.approx(rate)


# ---- several processes

def steps(trainer, count):
    """The trainer after as many steps and ends of epochs."""
    list(itertools.islice(trainer.steps(), count))
    return trainer


def together(rank, place, folder):
    """What each of two processes does: some steps of every method, and a run on images, saved within an epoch and gone on with."""
    torch.set_num_threads(1)
    result = {}
    with team.joined(rank, 2, place):
        for name in available():
            trainer = make(name)
            steps(trainer, STEPS)
            result[name] = read(saved(trainer))["model"]
        result["epoch"] = lasting(steps(of_images(folder), PAUSE - 1))
        state = saved(steps(of_images(folder), PAUSE))
        resumed = of_images(folder)
        resumed.load_state_dict(read(state))
        result["images"], result["resumed"] = lasting(of_images(folder).run()), lasting(resumed.run())
    torch.save(result, Path(place) / f"result{rank}")


@pytest.fixture(scope="module")
def two(folder, tmp_path_factory):
    """The results of two processes."""
    place, context = tmp_path_factory.mktemp("two"), multiprocessing.get_context("spawn")
    helpers = [context.Process(target=together, args=(rank, str(place), folder)) for rank in range(2)]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    assert [helper.exitcode for helper in helpers] == [0, 0]
    return [torch.load(place / f"result{rank}", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", available())
def test_every_method_is_the_same_in_both_processes_and_as_in_one(two, name):
    assert difference(*(result[name] for result in two)) is None
    trainer = steps(make(name), STEPS)
    alone, joined = trainer.model.state_dict(), two[0][name]
    # rounding may rank a few weights otherwise, most of all among new ones, whose gradients are next to nothing
    assert (alone["method.mask"] != joined["method.mask"]).float().mean() < 0.01
    assert (alone["theta"] - joined["theta"]).abs().quantile(0.98) < 1e-3


def test_images_in_two_processes_as_in_one(two, folder):
    assert difference(two[0]["epoch"], two[1]["epoch"]) is None
    alone, joined = lasting(steps(of_images(folder), PAUSE - 1)), two[0]["epoch"]
    for name, value in alone["model"].items():
        assert torch.allclose(value.double(), joined["model"][name].double(), rtol=1e-4, atol=1e-5), name
    for one, other in zip(alone["progress"]["curves"], joined["progress"]["curves"]):
        assert one == pytest.approx(other, rel=1e-3, nan_ok=True)


def test_resumed_within_an_epoch(two, folder):
    for result in two:
        assert difference(result["images"], result["resumed"]) is None
    paused = steps(of_images(folder), PAUSE)
    assert (paused.progress.epoch, paused.progress.index) == (1, 1)
    resumed = of_images(folder)
    resumed.load_state_dict(read(saved(paused)))
    assert difference(lasting(resumed.run()), lasting(of_images(folder).run())) is None


def test_run_of_two_processes_is_stopped_and_goes_on(tmp_path, monkeypatch):
    spec, store, asked = Spec("digits", "static", 0.9, 0, epochs=2), Store(tmp_path / "two"), []
    one = runner.run(spec, Store(tmp_path / "one"))
    monkeypatch.setattr(team, "wanted", lambda task, device: 2)
    with pytest.raises(Stopped):
        runner.run(spec, store, stop=lambda: asked.append(1) or len(asked) > 25)
    assert store.checkpoint(spec.key).exists() and not store.rows("digits")
    two = runner.run(spec, store)
    assert {name for name, value in timeless(one).items() if two[name] != value} <= {"loss", "top1", "top1_best_val", "val_top1"}
    assert two["loss"] == pytest.approx(one["loss"], rel=0.01) and abs(two["top1"] - one["top1"]) < 3


FAILING = '''
import torch.distributed as dist
from methods import Sparsifier


class Failing(Sparsifier):
    def after_step(self, run):
        if dist.get_rank() == 1:
            raise RuntimeError("broken in the second process")
'''


def test_failure_in_another_process_ends_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FAILING)
    monkeypatch.setattr(team, "wanted", lambda task, device: 2)
    row = runner.run(Spec("digits", "mine.py:Failing", 0.0, 0, epochs=1), Store("results"))
    assert row["status"] == "failed" and "broken in the second process" in capfd.readouterr().err


@pytest.mark.parametrize("options, text", [({"batch_size": 63}, "batch of 63"), ({"storage": "sparse"}, "storage=sparse")])
def test_what_processes_cannot_share_is_refused(tmp_path, monkeypatch, options, text):
    monkeypatch.setattr(team, "wanted", lambda task, device: 2)
    with pytest.raises(ValueError, match=text):
        runner.run(Spec("digits", "static", 0.9, 0, epochs=1, options=options), Store(tmp_path))


def test_run_on_images(folder, tmp_path, capsys):
    """At the full 224 pixels, from the command line to the row."""
    words = ["run", "--task", "imagenet-mobilenetv1", "--method", "st3", "--sparsity", "0.9", "--epochs", "1", "--set", "batch_size=13"]
    assert main([*words, "--data", str(folder), "--results", str(tmp_path)]) == 0
    row, = Store(tmp_path).rows("imagenet").values()
    assert [row[name] for name in ("dataset", "model", "epochs", "precision")] == ["imagenet", "mobilenetv1", 1, "bf16"]
    assert row["nnz"] == row["prunable"] - math.floor((row["prunable"] - 1) * 0.9) - 1 and 0 <= row["top1"] <= 100
    assert math.isnan(row["top1_best_val"])  # nothing is selected
    assert main([*words, "--data", str(tmp_path), "--results", str(tmp_path / "none")]) == 2
    assert "imagenet cannot be read" in capsys.readouterr().err
