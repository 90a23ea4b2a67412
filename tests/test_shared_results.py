"""A results folder of several users, or with links that somebody put there."""
import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.files import StoreError, locked, write_whole
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.workers.run_claims import Claim, Taken, age

WORDS = "launch digits --methods static --sparsities 0.9 --seeds 1 --epochs 1 --jobs 1 --set allocation=erk --results".split()
SPEC = Spec("digits", "static", 0.9, 0, epochs=1)


def mode(path):
    return os.stat(path).st_mode & 0o777


def holds(path):
    """Whether it is locked, as another process would find it."""
    with open(path) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A folder that its group may write, as the working folder; the umask of most systems."""
    monkeypatch.chdir(tmp_path)  # another user cannot reach it by its whole path
    tmp_path.chmod(0o2775)
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


@pytest.fixture
def another_user():
    """A function that makes this process another user's, of the same group, where it may; elsewhere only what one's own modes refuse is seen."""
    before = os.geteuid()
    yield lambda: before or os.seteuid(65534)
    os.seteuid(before)


def test_a_lock_is_for_whoever_may_write_into_its_folder(shared, another_user):
    """One of older code, which only its owner may write, is one all the same."""
    with locked("new"):
        assert holds("new") and mode("new") == 0o664
    Path("old").touch(0o444)
    another_user()
    for name in ("new", "old"):
        with locked(name):
            assert holds(name)
    assert (mode("new"), mode("old")) == (0o664, 0o444)


def test_a_claim_that_was_copied_from_another_machine_has_a_way_out(tmp_path):
    store = Store(tmp_path)
    with Claim(store, SPEC.key) as claim:
        path, content = claim.path, claim.content
    path.write_text(json.dumps(content | {"host": "another", "pid": 7}))
    with pytest.raises(Taken) as taken:
        Claim(store, SPEC.key).__enter__()
    assert str(taken.value) == f"process 7 on another (if it is no more: remove {path}, or wait until it is 15 minutes old)"


def test_a_claim_grows_old_where_nothing_may_be_written(tmp_path, monkeypatch):
    path = tmp_path / "a.claim"
    path.write_text("")
    os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert age(path) > 1e7


def test_a_folder_that_was_moved_while_it_is_written_is_named(tmp_path):
    with pytest.raises(StoreError, match="its folder is gone; if it was moved, name it with --results"):
        write_whole(tmp_path / "gone" / "row.json", "")
    with pytest.raises(StoreError) as error:
        write_whole(tmp_path, "")
    assert "gone" not in str(error.value)


def test_a_lock_in_a_folder_of_ones_own_is_ones_own(shared):
    shared.chmod(0o755)
    with locked("new"):
        assert mode("new") == 0o644


def test_a_lock_that_may_not_even_be_read_is_one_line(shared, another_user):
    Path("closed").touch(0o000)
    another_user()
    with pytest.raises(StoreError, match=r"^closed cannot be written \(Permission denied\)$"), locked("closed"):
        pass


@pytest.mark.parametrize("there", [True, False])
def test_no_link_is_taken_for_a_lock(there, tmp_path, capsys):
    outside, lock = tmp_path / "outside", Store(tmp_path / "results").runs / ".claims.lock"
    if there:
        outside.write_text("precious")
    lock.symlink_to(outside)
    assert main([*WORDS, str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err == f"error: {lock} cannot be written (it is a link, and a lock is none: remove it)\n"
    assert outside.read_text() == "precious" if there else not outside.exists()


def test_a_log_is_not_written_through_a_link(tmp_path):
    store, outside = Store(tmp_path / "results"), tmp_path / "outside"
    outside.write_text("precious")
    store.log(SPEC.key).symlink_to(outside)
    assert main([*WORDS, str(tmp_path / "results")]) == 0 and store.row(SPEC.key)["status"] == "ok"
    assert outside.read_text() == "precious"


def test_a_lock_that_may_only_be_read_where_that_locks_nothing_is_refused(tmp_path, monkeypatch):
    """As on NFS; a file system without any locks goes on without."""
    for number, message in ((errno.EBADF, "may not be locked here"), (errno.ENOLCK, None)):
        def refuse(*_, number=number):
            raise OSError(number, os.strerror(number))
        monkeypatch.setattr(fcntl, "flock", refuse)
        with pytest.raises(StoreError, match=message) if message else contextlib.nullcontext(), locked(tmp_path / "lock"):
            pass
