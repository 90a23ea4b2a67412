"""ImageNet's path on a small folder of real JPEG files: reading, the recipe, a run."""
import gc
import math
import os
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from jpegs import SIZE, TRAIN, VAL, make_folder, small
from PIL import Image
from test_every_method import make
from torch.utils.data import default_collate
from torchvision.transforms.functional import pil_to_tensor

from benchmarks import imagenet
from benchmarks.__main__ import main
from benchmarks.batches import DataError, epoch_batches, eval_batches
from benchmarks.data import load
from benchmarks.gpu import team
from benchmarks.grid import Spec
from benchmarks.launch import load_data
from benchmarks.machine import slow_bf16
from benchmarks.results import Store
from benchmarks.tasks import get_task, settle
from methods import SparseModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"))


# ---- reading

def test_load(folder):
    data = load("imagenet", folder, validation=False)
    assert (len(data.train), data.val, len(data.test), data.classes, data.shape) == (TRAIN, None, VAL, 3, (3, 224, 224))
    held = load("imagenet", folder)
    assert (len(held.val), len(held.train)) == (1, TRAIN - 1)
    assert {path for path, _ in held.val.samples + held.train.samples} == {path for path, _ in data.train.samples}


def test_what_cannot_be_read_is_named(folder, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="imagenet cannot be read .*train.* --data DIR"):
        load("imagenet", tmp_path)
    for name in ("train/a", "train/b", "val/a"):
        (tmp_path / "imagenet" / name).mkdir(parents=True)
        (tmp_path / "imagenet" / name / "0.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match="other classes: b in one alone"):
        load("imagenet", tmp_path)
    (tmp_path / "imagenet" / "val" / "b").mkdir()
    (tmp_path / "imagenet" / "val" / "b" / "0.JPEG").write_bytes(b"no image")
    data = imagenet.load(tmp_path)
    for of in (OSError, SyntaxError("not a TIFF file")):  # Pillow's, of a damaged file
        if of is not OSError:
            monkeypatch.setattr(imagenet, "default_loader", Mock(side_effect=of))
        with pytest.raises(DataError, match=r"\A\S*train/./0.JPEG cannot be read [^\n]*\Z"):
            next(epoch_batches(data.train, data, 2, 0, 0))


def test_a_part_of_its_images_is_said_once(folder, capsys):
    specs = [Spec("imagenet-mobilenetv1", "static", sparsity, 0, options={"batch_size": "2"}) for sparsity in (0.9, 0.95)]
    for _ in range(2):
        load_data(specs, folder)
    assert capsys.readouterr().err == (f"{folder} has 3 classes and {VAL} test images of ImageNet's 1000 and 50000: its rows count as ImageNet's all "
                                       "the same\n")


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
    assert same(listed(epoch_batches(data.train, data, 10, 0, 3, stop=2)), whole[:2])
    assert same(listed(epoch_batches(data.train, data, 10, 0, 3, start=1, stop=2)), whole[1:2])
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
        monkeypatch.setattr(team, "world_size", lambda: 2)
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


@pytest.mark.parametrize("name, ramp", {"st3_sigma": (0.05, 0.5), "gmp": (0.05, 0.5), "fisher_diag": (0.05, 0.5), "probmask": (0.16, 0.6),
                                        "spartan": (None, 0.2), "dpf": (0, 0.75), "movement": (0.1, 0.8), "feather": (0, 0.5)}.items())
def test_who_has_a_ramp_of_its_own_keeps_it(name, ramp):
    _, options = settle(Spec("imagenet-resnet50", name, 0.9, 0))
    method = SparseModel(torch.nn.Linear(30, 20), name, 0.5, **options).method
    assert (getattr(method, "ramp_start", None), method.ramp_end) == ramp


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


def test_run_on_images(folder, tmp_path, capsys):
    """At the full 224 pixels, from the command line to the row; in the task's own precision where the processor has it."""
    precision = "fp32" if slow_bf16() else "bf16"
    words = ["run", "--task", "imagenet-mobilenetv1", "--method", "st3", "--sparsity", "0.9", "--epochs", "1", "--set", "batch_size=13",
             *["--precision", precision] * (precision != "bf16")]
    assert main([*words, "--data", str(folder), "--results", str(tmp_path)]) == 0
    row, = Store(tmp_path).rows("imagenet").values()
    assert [row[name] for name in ("dataset", "model", "epochs", "precision")] == ["imagenet", "mobilenetv1", 1, precision]
    assert row["nnz"] == row["prunable"] - math.floor((row["prunable"] - 1) * 0.9) - 1 and 0 <= row["top1"] <= 100
    assert math.isnan(row["top1_best_val"])  # nothing is selected
    assert main([*words, "--data", str(tmp_path), "--results", str(tmp_path / "none")]) == 2
    assert "imagenet cannot be read" in capsys.readouterr().err
