"""CIFAR's files: read, damaged, missing, downloaded. The small files made here have the format of the originals."""
import hashlib
import io
import os
import pickle
import socket
import tarfile
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import utils

from benchmarks import batches as B
from benchmarks import data as D


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """(name, folder with the small files, their images (n, 3, 32, 32), their labels); torchvision is told their MD5 sums."""
    name = request.param
    kind, label = D.cifar(name), "labels" if name == "cifar10" else "fine_labels"
    home = tmp_path / kind.base_folder
    home.mkdir()
    rng = np.random.default_rng(0)
    classes = 10 if name == "cifar10" else 100
    images, labels, lists = [], [], {}

    def write(file, content):
        (home / file).write_bytes(pickle.dumps(content))
        return hashlib.md5((home / file).read_bytes()).hexdigest()

    for part in ("train_list", "test_list"):
        lists[part] = []
        for file, _ in getattr(kind, part):
            pixels, targets = rng.integers(0, 256, (20, 3072), dtype=np.uint8), rng.integers(0, classes, 20).tolist()
            lists[part].append([file, write(file, {"data": pixels, label: targets})])
            images.append(pixels.reshape(20, 3, 32, 32))
            labels += targets
    md5 = write(kind.meta["filename"], {kind.meta["key"]: [f"class {i}" for i in range(classes)]})
    monkeypatch.setattr(kind, "train_list", lists["train_list"])
    monkeypatch.setattr(kind, "test_list", lists["test_list"])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5})
    monkeypatch.setitem(D.DATASETS, name, replace(D.DATASETS[name], held_out=5, test_images=20))
    monkeypatch.setattr(utils, "download_and_extract_archive", offline)
    yield name, home, np.concatenate(images), labels
    D._read.cache_clear()


def offline(*_, **__):
    raise URLError("Temporary failure\nin name resolution")


def test_cifar_keeps_file_order(cifar):
    name, home, images, labels = cifar
    data = D.load(name, home.parent)
    images = torch.from_numpy(images.transpose(0, 2, 3, 1).copy())
    n = len(labels) - 20
    for split, where in ((data.train, slice(0, n - 5)), (data.val, slice(n - 5, n)), (data.test, slice(n, None))):
        assert torch.equal(split.images, images[where]) and split.labels.tolist() == labels[where]
        assert split.images.is_contiguous() and split.labels.dtype == torch.int64
    whole = D.load(name, str(home.parent), validation=False, normalisation="gse")
    assert torch.equal(whole.train.images, images[:n]) and whole.val is None
    assert whole.test.images.data_ptr() == data.test.images.data_ptr()  # read once
    assert data.classes == (10 if name == "cifar10" else 100) and data.shape == (3, 32, 32)
    assert torch.equal(D.load(name, home).train.images, data.train.images)  # the folder of the files themselves


def test_recipes_have_their_own_constants(cifar):
    name, home, _, _ = cifar
    st3, gse = (D.load(name, home.parent, normalisation=recipe) for recipe in ("st3", "gse"))
    assert (st3.mean, st3.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert (gse.mean, gse.std) == {"cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
                                   "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))}[name]


def one_line(error, *parts):
    message = str(error.value)
    return "\n" not in message and all(part in message for part in ("--data DIR", "DATA_DIR", *parts))


def test_damaged_file_is_named_and_kept(cifar):
    name, home, _, _ = cifar
    file = home / D.cifar(name).test_list[0][0]
    damaged = file.read_bytes()[:-7]
    file.write_bytes(damaged)
    with pytest.raises(B.DataError) as error:
        D.load(name, home.parent)
    assert one_line(error, str(file), "damaged") and file.read_bytes() == damaged


def test_missing_file_is_named(cifar):
    name, home, _, _ = cifar
    file = home / D.cifar(name).meta["filename"]
    file.unlink()
    with pytest.raises(B.DataError) as error:
        D.load(name, home.parent)
    assert one_line(error, str(file), "missing")


def test_no_data_and_no_network(cifar, tmp_path):
    folder = tmp_path / "new"
    for _ in range(2):  # nothing is left that changes the next start
        with pytest.raises(B.DataError) as error:
            D.load(cifar[0], folder)
        assert one_line(error, str(folder), "Temporary failure in name resolution", D.cifar(cifar[0]).url)
        assert list(folder.iterdir()) == []
    assert socket.getdefaulttimeout() is None


def packed(home):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(home, home.name)
    return buffer.getvalue()


def test_interrupted_download_leaves_nothing(cifar, tmp_path, monkeypatch):
    name, home, images, _ = cifar
    folder, content = tmp_path / "new", packed(home)

    def download(url, root, filename, md5):
        assert socket.getdefaulttimeout() == 30  # a connection that nobody answers fails
        Path(root, filename).write_bytes(content[:100])
        raise ConnectionResetError("connection reset")
    monkeypatch.setattr(utils, "download_and_extract_archive", download)
    with pytest.raises(B.DataError, match="connection reset"):
        D.load(name, folder)
    assert list(folder.iterdir()) == []

    def download(url, root, filename, md5):
        Path(root, filename).write_bytes(content)
        utils.extract_archive(str(Path(root, filename)), root)
    monkeypatch.setattr(utils, "download_and_extract_archive", download)
    assert len(D.load(name, folder).test) == 20
    assert [path.name for path in folder.iterdir()] == [home.name]


def test_archive_in_the_folder_is_unpacked_or_called_damaged(cifar, tmp_path, monkeypatch):
    name, home, _, _ = cifar
    folder = tmp_path / "new"
    folder.mkdir()
    archive = folder / D.cifar(name).filename
    archive.write_bytes(packed(home))
    with pytest.raises(B.DataError) as error:
        D.load(name, folder)
    assert one_line(error, str(archive), "damaged") and archive.exists()
    monkeypatch.setattr(D.cifar(name), "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(D.load(name, folder).test) == 20


def test_the_real_cifar10():
    folder = os.environ.get("DATA_DIR")
    if not folder or not Path(folder, D.cifar("cifar10").base_folder).exists():
        pytest.skip("DATA_DIR names no folder with CIFAR-10")
    data = D.load("cifar10", folder)
    assert [len(split) for split in (data.train, data.val, data.test)] == [45_000, 5_000, 10_000]
    assert data.train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]  # the first is a frog
    assert data.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert torch.bincount(torch.cat([data.train.labels, data.val.labels])).tolist() == [5_000] * 10
    whole = D.load("cifar10", folder, validation=False, normalisation="gse")
    pixels = whole.train.images.view(-1, 3).float() / 255
    assert torch.allclose(pixels.mean(0), torch.tensor(whole.mean), atol=2e-3)
    assert torch.allclose(pixels.std(0), torch.tensor(whole.std), atol=2e-3)
    x, y = next(B.epoch_batches(data.train, data, 128, 0, 0, **B.AUGMENTATION["st3"]))
    assert x.shape == (128, 3, 32, 32) and 0 <= y.min() and y.max() < 10
