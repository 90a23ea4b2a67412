"""Each operation on a file of the results fails once, as on a file server that does not answer: what a command says, and that nothing is lost."""
import builtins
import errno
import fcntl
import io
import os
import shutil
import sys

import pytest
from made_up import row
from stored import SPEC, WORDS

from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.results import Store

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="whose pathlib does not look up os's functions when it calls them")
WITH_A_PATH = "link listdir lstat mkdir open remove rename replace rmdir scandir stat unlink utime".split()


class Failing:
    """Operations on the files of a folder, of which one fails.

    count: how many there were. at: which one fails, None for none.
    """

    def __init__(self, monkeypatch, folder, at):
        self.folder, self.count, self.at, self.files = str(folder), 0, at, set()
        for module, names in ((os, WITH_A_PATH), (builtins, ["open"])):
            for name in names:
                monkeypatch.setattr(module, name, self.counted(getattr(module, name)))
        monkeypatch.setattr(io, "open", builtins.open)  # pathlib's
        for module, name in ((os, "fsync"), (os, "fchmod"), (fcntl, "flock")):
            monkeypatch.setattr(module, name, self.counted(getattr(module, name)))

    def counted(self, function):
        def called(first, *rest, **options):
            inside = first in self.files if isinstance(first, int) else str(first).startswith(self.folder)
            if inside:
                self.count += 1
                if self.count - 1 == self.at:
                    raise OSError(errno.EIO, os.strerror(errno.EIO), str(first))
            found = function(first, *rest, **options)
            if inside and not isinstance(first, int):
                self.files.add(found if isinstance(found, int) else found.fileno() if hasattr(found, "fileno") else None)
            return found
        return called


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder with a collected row and one that is not yet, and what `collect` makes of it."""
    before, wanted = tmp_path / "before", tmp_path / "wanted"
    store = Store(before)
    store.write(row(SPEC), [dict(epoch=0, train_loss=1.0)])
    assert main(["collect", "digits", "--results", str(before)]) == 0
    store.write(row(Spec("digits", "set", 0.9, 0, epochs=2)), layers=[dict(layer="conv", shape="4x5x3x3", nnz=10, macs=1)])
    (before / "digits" / ".runs.csv.host-1-2.part").touch()  # of a process that was killed
    shutil.copytree(before, wanted)
    assert main(["collect", "digits", "--results", str(wanted)]) == 0
    return before, {path.name: path.read_bytes() for path in (wanted / "digits").iterdir()}


def test_collecting(results, tmp_path, monkeypatch, capsys):
    before, wanted = results
    assert wanted["runs.csv"].count(b"\n") == 3 and {name.partition(".")[2] for name in wanted} == {"csv"}
    now = tmp_path / "now"
    words = ["collect", "digits", "--results", str(now)]

    def collected(at):
        """How many operations there were until the command ended, its status, and what it said."""
        shutil.copytree(before, now)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            disk = Failing(patch, now, at)
            status = main(words)
        return disk.count, status, capsys.readouterr().err.splitlines()
    count, status, said = collected(None)
    assert (status, said) == (0, []) and count > 40
    stopped = 0
    for at in range(count):
        shutil.rmtree(now)
        _, status, said = collected(at)
        stopped += status == 2
        assert status == 0 or status == 2 and said[-1].startswith("error: ") and said[-1].count("Input/output error") == 1, (at, said)
        assert main(words) == 0
        assert {path.name: path.read_bytes() for path in (now / "digits").iterdir()} == wanted, at
    assert stopped > count / 2


@pytest.mark.parametrize("name, said", [
    (f"runs/{SPEC.key}.json", "cannot be read (Input/output error); if it stays so, move it away, and its run is made again"),
    (f"runs/{SPEC.key}.pt", "cannot be read (Input/output error): make it readable, or move it away and the run starts anew"),
    ("digits/runs.csv", "cannot be used (Input/output error)")])
def test_what_cannot_be_looked_at_may_be_whole(tmp_path, monkeypatch, capsys, name, said):
    """Neither is the run made again nor begun anew."""
    path, stat = tmp_path / name, os.stat
    path.parent.mkdir()
    path.write_text("whole")

    def fails(place, *rest, **options):
        if str(place) == str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return stat(place, *rest, **options)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fails)
        assert main([*WORDS, "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"{path} {said}") and path.read_text() == "whole"
    assert not Store(tmp_path).row(SPEC.key)
