"""The data sets and their batches."""
import dataclasses
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import batches as B
from benchmarks import data as D
from benchmarks.tasks import DATASETS

seeds_file = Path(D.__file__).parents[1] / "methods" / "seeds.py"
spec = importlib.util.spec_from_file_location("seeds", seeds_file)
seeds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(seeds)


def coloured(n=40, size=6, seed=0):
    """Random images, for the unit tests of the batches; the label is the position, so a batch says which images it has."""
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size + 1, 3), dtype=np.uint8)  # not square: no axis mixed up
    split = B.Split(torch.from_numpy(images), torch.arange(n))
    return split, B.Data(split, None, split, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), n, (3, size, size + 1))


# Seeds

def test_seed_is_fixed_and_depends_on_every_part():
    assert seeds.stable_seed(0, "data", 1) == 4097194418432052463  # the same in every process: resumed runs rely on it
    assert seeds.stable_seed(1, 12) != seeds.stable_seed(11, 2)
    values = [seeds.stable_seed(seed, "data", epoch) for seed in range(20) for epoch in range(20)]
    assert len(set(values)) == 400 and all(0 <= value < 2**63 for value in values)


# Digits

def test_digits_splits_are_disjoint_stratified_and_fixed():
    from sklearn.datasets import load_digits
    data = D.load("digits", None)
    splits = (data.train, data.val, data.test)
    assert [len(split) for split in splits] == [1197, 300, 300]
    # together they are the original images, each as often as there
    rows = [row.numpy().tobytes() for split in splits for row in (split.images // 15).flatten(1)]
    assert sorted(rows) == sorted(row.tobytes() for row in load_digits().data.astype(np.uint8))
    for split in splits:
        share = torch.bincount(split.labels, minlength=10) / len(split)
        assert (share - torch.bincount(torch.from_numpy(load_digits().target)) / 1797).abs().max() < 0.005
    content = b"".join(split.images.numpy().tobytes() + split.labels.numpy().tobytes() for split in splits)
    assert hashlib.sha256(content).hexdigest()[:16] == "835d7a36c075a189"


def test_digits_are_the_original_images_with_their_labels():
    from sklearn.datasets import load_digits
    known = {image.astype(np.uint8).tobytes(): label for image, label in zip(*load_digits(return_X_y=True))}
    for split in dataclasses.astuple(D.load("digits", None))[:3]:
        images, labels = split
        assert all(known[image.numpy().tobytes()] == label for image, label in zip((images // 15).flatten(1), labels.tolist()))


def test_digits_are_standardised_by_their_own_constants():
    data = D.load("digits", None)
    x = torch.cat([x for x, _ in B.eval_batches(data.train, data, 256)])
    assert x.shape == (1197, 1, 8, 8)
    assert x.mean().abs() < 1e-5 and (x.std(correction=0) - 1).abs() < 1e-5


def test_statistics_are_those_of_all_pixels():
    assert D._statistics(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)) == ((0.5,), (0.5,))


def test_without_validation_all_but_test_is_trained_on():
    data, whole = D.load("digits", None), D.load("digits", None, validation=False)
    assert whole.val is None
    assert torch.equal(whole.train.images, torch.cat([data.train.images, data.val.images]))
    assert torch.equal(whole.test.images, data.test.images)
    assert whole.to("cpu").val is None


def test_every_split_moves_to_the_device():
    moved = D.load("digits", "data").to("meta")
    assert {tensor.device.type for split in (moved.train, moved.val, moved.test) for tensor in (split.images, split.labels)} == {"meta"}


# Batches

def slow(image, data, padding, pad, top, left, mirrored):
    """One augmented image (C, H, W), the plain way: pad, crop, flip, normalise."""
    mode = {"edge": "edge", "zero": "constant", "reflect": "reflect"}[padding]
    height, width, _ = image.shape
    crop = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)[top:top + height, left:left + width]
    crop = crop[:, ::-1] if mirrored else crop
    mean, std = np.array(data.mean), np.array(data.std)
    x = crop.astype(np.float32) * (1 / (255 * std)).astype(np.float32) + (-mean / std).astype(np.float32)
    return x.transpose(2, 0, 1)


@pytest.mark.parametrize("padding, pad", [("edge", 4), ("zero", 4), ("reflect", 4), ("edge", 1), ("zero", 7)])
def test_every_image_is_one_padded_crop_and_places_are_drawn_per_image(padding, pad):
    split, data = coloured()
    places = []
    for x, y in B.epoch_batches(split, data, 16, seed=3, epoch=2, padding=padding, pad=pad):
        for image, label in zip(x.numpy(), y.tolist()):
            original = split.images[label].numpy()
            fits = [(top, left, mirrored) for top in range(2 * pad + 1) for left in range(2 * pad + 1) for mirrored in (0, 1)
                    if np.array_equal(image, slow(original, data, padding, pad, top, left, mirrored))]
            assert fits, "no crop of the padded image is bit for bit this one"
            places.append(fits[0])
    assert len(places) == len(split)
    tops, lefts, mirrored = map(set, zip(*places[:16]))
    assert len(tops) > 1 and len(lefts) > 1 and mirrored == {0, 1}  # within the first batch


def test_places_and_flips_are_uniform():
    ramp = torch.arange(100, dtype=torch.uint8).view(1, 10, 10, 1).expand(20_000, -1, -1, -1).contiguous()
    split = B.Split(ramp, torch.zeros(20_000, dtype=torch.int64))
    _, data = coloured()
    data = dataclasses.replace(data, mean=(0.0,), std=(1 / 255,))
    x = torch.cat([x for x, _ in B.epoch_batches(split, data, 1000, 0, 0, padding="zero", pad=2)]).round().long()
    mirrored = x[:, 0, 5, 5] < x[:, 0, 5, 4]
    centre = torch.where(mirrored, x[:, 0, 4, 5], x[:, 0, 4, 4])  # pixel (4, 4) of the crop shows (2..6, 2..6) of the image
    for drawn, choices in ((centre // 10 - 2, 5), (centre % 10 - 2, 5), (mirrored.long(), 2)):
        count = torch.bincount(drawn, minlength=choices)
        assert len(count) == choices and (count / 20_000 * choices - 1).abs().max() < 0.06


@pytest.mark.parametrize("name, padding, pad, flip", [("st3", "edge", 4, True), ("gse", "zero", 4, True), ("granet", "reflect", 4, True),
                                                      ("zero", "zero", 4, True),
                                                      ("digits", "edge", 1, False)])
def test_augmentation_of_each_recipe(name, padding, pad, flip):
    assert B.AUGMENTATION[name] == dict(padding=padding, pad=pad, flip=flip)


def test_zero_padding_is_black_before_normalisation():
    _, data = coloured()
    white = B.Split(torch.full((64, 6, 6, 3), 255, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64))
    x, _ = next(B.epoch_batches(white, data, 64, 0, 0, padding="zero", pad=4))
    for channel, (mean, std) in enumerate(zip(data.mean, data.std)):
        black, full = torch.tensor(-mean / std), torch.tensor((1 - mean) / std)
        values = x[:, channel].unique()
        assert len(values) == 2
        torch.testing.assert_close(values, torch.stack([black, full]))


def test_normalisation_is_that_of_torchvision():
    from torchvision.transforms import v2
    split, data = coloured()
    x, _ = next(B.eval_batches(split, data, 40))
    expected = v2.Normalize(data.mean, data.std)(v2.ToDtype(torch.float32, scale=True)(split.images.permute(0, 3, 1, 2)))
    torch.testing.assert_close(x, expected, atol=1e-6, rtol=1e-6)


def test_seed_and_epoch_alone_decide_the_batches():
    split, data = coloured()

    def first(seed, epoch):
        return next(B.epoch_batches(split, data, 16, seed, epoch))
    torch.manual_seed(1)
    x, y = first(0, 5)
    torch.manual_seed(2)
    again = first(0, 5)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    for other in (first(0, 6), first(1, 5)):
        assert not torch.equal(y, other[1])


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_made_ahead_are_the_same(drop_last, monkeypatch):
    data = D.load("digits", None)
    one = list(B.epoch_batches(data.train, data, 100, 0, 0, drop_last=drop_last))
    monkeypatch.setitem(B.AHEAD, "cpu", 5)
    more = list(B.epoch_batches(data.train, data, 100, 0, 0, drop_last=drop_last))
    assert len(one) == len(more) == 11 + (not drop_last)
    assert all(torch.equal(x, other) and torch.equal(y, labels) and x.stride() == other.stride()
               for (x, y), (other, labels) in zip(one, more))


def test_an_epoch_can_be_resumed_in_the_middle():
    split, data = coloured()
    whole = list(B.epoch_batches(split, data, 16, 0, 0))
    rest = list(B.epoch_batches(split, data, 16, 0, 0, start=1))
    for stop in (1, 2, len(whole), len(whole) + 1):
        first = list(B.epoch_batches(split, data, 16, 0, 0, stop=stop))
        assert len(first) == min(stop, len(whole)) and all(torch.equal(a, b) for one, two in zip(first, whole) for a, b in zip(one, two))
    assert len(whole) == 3 and len(rest) == 2
    for (x, y), (x_rest, y_rest) in zip(whole[1:], rest):
        assert torch.equal(x, x_rest) and torch.equal(y, y_rest)


@pytest.mark.parametrize("n, drop_last, batches, last",
                         [(45_000, False, 352, 72), (50_000, True, 390, 128), (256, False, 2, 128)])
def test_last_batch_is_kept_or_dropped(n, drop_last, batches, last):
    split = B.Split(torch.zeros(n, 1, 1, 3, dtype=torch.uint8), torch.arange(n))
    labels = [y for _, y in B.epoch_batches(split, coloured()[1], 128, 0, 0, pad=0, drop_last=drop_last)]
    assert len(labels) == batches == B.steps_per_epoch(split, 128, drop_last)
    assert len(labels[-1]) == last
    seen = torch.cat(labels).unique()
    assert len(seen) == (batches * 128 if drop_last else n)  # no image twice


def test_no_padding_and_no_flip_leave_the_images_alone():
    split, data = coloured()
    plain, _ = next(B.eval_batches(split, data, 40))
    x, y = next(B.epoch_batches(split, data, 40, 0, 0, pad=0, flip=False))
    assert torch.equal(x, plain[y]) and not torch.equal(y, split.labels)


def test_batches_are_channels_last():
    split, data = coloured()
    for x, y in (next(B.epoch_batches(split, data, 16, 0, 0)), next(B.eval_batches(split, data, 16))):
        assert x.shape == (16, 3, 6, 7) and x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_evaluation_sees_every_image_in_order():
    split, data = coloured()
    assert torch.equal(torch.cat([y for _, y in B.eval_batches(split, data, 16)]), split.labels)


def test_unknown_names_are_refused():
    split, data = coloured()
    with pytest.raises(ValueError, match="edge, zero, reflect"):
        next(B.epoch_batches(split, data, 16, 0, 0, padding="mirror"))
    with pytest.raises(ValueError, match=", ".join(DATASETS)):
        D.load("mnist", None)
    with pytest.raises(ValueError, match="st3, gse"):
        D.load("cifar10", None, normalisation="rigl")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_has_the_same_batches_and_never_waits():
    split, data = coloured()
    for padding in B.PADDINGS:
        expected = list(B.epoch_batches(split, data, 16, 0, 0, padding=padding))
        batches = B.epoch_batches(split.to("cuda"), data, 16, 0, 0, padding=padding)
        found = [next(batches)]  # the draws of the epoch are copied here
        torch.cuda.set_sync_debug_mode("error")
        try:
            found += batches
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(x, a.cpu()) and torch.equal(y, b.cpu()) for (x, y), (a, b) in zip(expected, found, strict=True))
