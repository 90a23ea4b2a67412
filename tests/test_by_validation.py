"""`variants`: the options of a method by their accuracy on the validation images. Rows here are made up, in tmp_path only."""
import pytest
from made_up import row

from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.records import RUN_COLUMNS, write_table

FOUND = {(): [80.0, 82.0], (("drop_fraction", 0.1),): [90.0, 94.0], (("drop_fraction", 0.5),): [70.0, "diverged", "failed"]}


def made(value, *spec, **options):
    status = value if isinstance(value, str) else "ok"
    return row(Spec("digits", *spec, **options), precision="fp32", status=status, val_top1=value if status == "ok" else "")


@pytest.fixture
def variants(tmp_path):
    rows = [made(value, "rigl", 0.9, seed, options=options) for options, values in FOUND.items() for seed, value in enumerate(values)]
    rows += [made(99.0, "gmp", 0.9, 0), made(50.0, "rigl", 0.98, 0), made(97.0, "rigl", 0.9, 0, epochs=60), made(96.0, "mine.py:Mine", 0.9, 0)]
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    return lambda *words: main(["variants", "digits", *words, "--results", str(tmp_path)])


def test_the_best_on_validation_images_is_first(variants, capsys):
    """A diverged seed counts as guessing, a failed one not; runs of another length are of another table."""
    assert variants("rigl") == 0
    first, second = capsys.readouterr().out.strip().split("\n\n")
    head, _, *lines = first.splitlines()
    assert head == "digits, sparsity 0.9: accuracy on the validation images (%), mean and standard deviation over seeds"
    assert [line.split() for line in lines] == [["drop_fraction=0.1", "92.00", "2.83", "2"], ["(none)", "81.00", "1.41", "2"],
                                                ["drop_fraction=0.5", "40.00", "42.43", "2"]]
    assert second.startswith("digits, sparsity 0.98: ") and second.split()[-3:] == ["(none)", "50.00", "1"]
    assert variants("rigl", "--epochs", "60", "--sparsity", "0.9") == 0 and capsys.readouterr().out.split()[-2:] == ["97.00", "1"]
    assert variants("mine.py:Mine") == 2 and "mine.py" in capsys.readouterr().err  # its file is not there


@pytest.mark.parametrize("words, said", [
    (["rgil"], "unknown method 'rgil'; nearest: rigl"), (["set"], "no such runs of set; make them with: python -m benchmarks launch digits --results "),
    (["rigl", "--sparsity", "0.5"], "no such runs of rigl;"),
    (["rigl", "--epochs", "7"], "make them with: python -m benchmarks launch digits --epochs 7 --results ")])
def test_what_is_not_there(variants, words, said, capsys):
    assert variants(*words) == 2
    error, = capsys.readouterr().err.splitlines()
    assert said in error


def test_without_validation_images_there_is_nothing_to_choose_by(tmp_path, capsys):
    rows = [row(Spec("cifar10-vgg16", "rigl", 0.98, seed), precision="bf16", epochs=200, status=status) for seed, status in enumerate(("ok", "diverged"))]
    write_table(tmp_path / "cifar10" / "runs.csv", RUN_COLUMNS, rows)
    assert main(["variants", "cifar10", "rigl", "--epochs", "200", "--results", str(tmp_path)]) == 2
    assert "hold out no validation images" in capsys.readouterr().err


def test_one_run_with_validation_images_is_enough(tmp_path, capsys):
    """Of a task that holds out none by itself."""
    rows = [row(Spec("cifar10-vgg16", "rigl", 0.98, 0, options=options), precision="bf16", epochs=200, val_top1=88.0 if options else "")
            for options in ((), (("validation", True),))]
    write_table(tmp_path / "cifar10" / "runs.csv", RUN_COLUMNS, rows)
    assert main(["variants", "cifar10", "rigl", "--epochs", "200", "--results", str(tmp_path)]) == 0
    assert [line.split() for line in capsys.readouterr().out.strip().splitlines()[2:]] == [["validation=True", "88.00", "1"], ["(none)", "0"]]
