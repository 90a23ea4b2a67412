"""`variants`: the options of a method by their accuracy on the validation images. Rows here are made up, in tmp_path only."""
import pytest
from made_up import row

from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.records import NUMBERS, RUN_COLUMNS, write_table
from benchmarks.results import Store

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
    assert [line.split() for line in lines] == [["drop_fraction=0.1", "92.00", "2.83", "2"], ["(defaults)", "81.00", "1.41", "2"],
                                                ["drop_fraction=0.5", "40.00", "42.43", "2"]]
    assert second.startswith("digits, sparsity 0.98: ") and second.split()[-3:] == ["(defaults)", "50.00", "1"]
    assert variants("rigl", "--epochs", "60", "--sparsity", "0.9") == 0 and capsys.readouterr().out.split()[-2:] == ["97.00", "1"]
    assert variants("rigl", "--tasks", "digits", "digits-mlp", "--sparsity", "0.98") == 0 and capsys.readouterr().out.split()[-2:] == ["50.00", "1"]
    assert variants("mine.py:Mine") == 2 and "mine.py" in capsys.readouterr().err  # its file is not there


@pytest.mark.parametrize("words, said", [
    (["rgil"], "unknown method 'rgil'; nearest: rigl, srigl, str_original (`python -m benchmarks options` lists all)"), (["set"], "no such runs of set; make them with: python -m benchmarks launch digits --results "),
    (["rigl", "--sparsity", "0.5"], "no such runs of rigl;"), (["rigl", "--sparsity", "0.5"], " (the 9 rows of it are of another length, sparsity, task or "),
    (["rigl", "--tasks", "digits-mlp"], " --tasks digits-mlp --methods rigl (the 9 rows of it are"),
    (["rigl", "--tasks", "cifar10-vgg16"], "cifar10-vgg16 is no task of suite digits; its tasks: digits"),
    (["rigl", "--epochs", "7"], "make them with: python -m benchmarks launch digits --epochs 7 --results ")])
def test_what_is_not_there(variants, words, said, capsys):
    assert variants(*words) == 2
    error, = capsys.readouterr().err.splitlines()
    assert said in error


def test_how_to_make_what_is_not_there_can_be_pasted(tmp_path, capsys):
    folder = tmp_path / "my rows"
    write_table(folder / "digits" / "runs.csv", RUN_COLUMNS, [made(80.0, "st3", 0.9, 0)])
    assert main(["variants", "digits", "gmp", "--results", str(folder)]) == 2
    assert f"--results '{folder}' --methods gmp" in capsys.readouterr().err


def test_a_seed_of_which_one_row_is_not_collected_yet_counts_once(tmp_path, capsys):
    """In the CSV seeds are texts, in the rows that were not collected numbers."""
    collected, new = (made(80.0, "st3", 0.9, 0, options=options) | {"finished_at": "2026-11-01T00:00:00+00:00", "code_version": "1"}
                      for options in ((), (("count_switches", True),)))
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, [collected])
    Store(tmp_path).write({column: None if value == "" and column in NUMBERS["runs"] else value for column, value in new.items()})
    assert main(["variants", "digits", "st3", "--results", str(tmp_path)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[2:3]] == [["(defaults)", "80.00", "1"]]


def test_counting_switches_is_no_variant(tmp_path, capsys):
    """It records more of the same training, whose seed counts once."""
    rows = [made(value, "st3", 0.9, seed, options=options) for options, values in {
        (): [80.0, 82.0], (("count_switches", True),): [80.0], (("count_switches", True), ("ramp_power", 0.0)): [70.0]}.items()
        for seed, value in enumerate(values)]
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    assert main(["variants", "digits", "st3", "--results", str(tmp_path)]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()[2:4]] == [["(defaults)", "81.00", "1.41", "2"], ["ramp_power=0.0", "70.00", "1"]]


def test_lines_of_another_content_of_the_file_are_told_apart(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from methods import get\n\n\nclass Mine(get('gmp')):\n    pass\n")
    old, new = ("1" * 10, "mine.py " + "a" * 10), ("1" * 10, "mine.py " + "b" * 10)

    def rows(*codes):
        found = [made(value, "mine.py:Mine", 0.9, seed, options=(("ramp_power", power),)) for power, values in ((1.0, [80.0, 82.0]), (2.0, [70.0]))
                 for seed, value in enumerate(values)]
        write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, [{**one, "code_version": ", ".join(code)} for one, code in zip(found, codes)])
        assert main(["variants", "digits", "mine.py:Mine", "--results", str(tmp_path)]) == 0
        said = capsys.readouterr()
        assert said.err.startswith("rows made with another content of mine.py: 3; ")  # than what the file has now
        return said.out.splitlines()[1:4]
    head, *lines = rows(old, new, new)
    assert head.split() == ["mean", "std", "seeds", "made", "by"]
    assert [line.partition("mine.py ")[2] for line in lines] == ["a" * 10 + " and mine.py " + "b" * 10, "b" * 10]
    assert rows(new, new, new)[0].split() == ["mean", "std", "seeds"]


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
    assert [line.split() for line in capsys.readouterr().out.strip().splitlines()[2:]] == [["validation=True", "88.00", "1"], ["(defaults)", "0"]]
