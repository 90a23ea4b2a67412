"""What is refused or warned of before jobs are sent to SLURM, and what of sbatch's own words is shown (fake_slurm.py)."""
import pytest
from fake_slurm import slurm, store  # noqa: F401
from test_queue import launch  # noqa: F401

from benchmarks.__main__ import main, parser
from benchmarks.slurm import sbatch


@pytest.mark.parametrize("text, said", [
    ("sbatch: error: ****\nsbatch: error: No account was given.\nsbatch: error:   See https://docs\nsbatch: error: ----\n"
     "sbatch: error: Batch job submission failed: Unspecified error",
     "No account was given. See https://docs Batch job submission failed: Unspecified error"),
    ("sbatch: error: Batch job submission failed: Invalid job array specification",
     "Batch job submission failed: Invalid job array specification (--runs-per-task K makes fewer tasks)"),
    ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
     "Batch job submission failed: Socket timed out on send/recv operation "
     "(if it has taken them all the same, these jobs find nothing to do and end)"),
    ("sbatch: warning: can't honor it\nsbatch: error: invalid partition", "invalid partition"),
    ("it went\nwrong", "it went wrong")])
def test_all_that_sbatch_says_is_one_line(text, said):
    assert sbatch.objection(text) == said


def test_more_runs_at_a_time_than_cores_are_warned_of(store, slurm, launch, capsys):  # noqa: F811
    for words, warned in (("--jobs 4", True), ("--jobs 4 --cpus-per-task 4", False), ("--jobs 4 --gpus-per-task 1", False), ("", False)):
        assert launch(*words.split()) == 0
        assert ("--jobs 4 is more than --cpus-per-task 1" in capsys.readouterr().err) == warned


def test_a_time_limit_in_which_a_job_may_get_nowhere_is_warned_of(store, slurm, launch, capsys):  # noqa: F811
    for words, warned in (("--time 2 --signal-delay 1", True), ("--time 3 --signal-delay 60", False), ("--time 3 --signal-delay 61", True), ("", False)):
        assert launch(*words.split()) == 0
        assert ("it may go back into the queue without having trained" in capsys.readouterr().err) == warned


@pytest.mark.parametrize("name", ["100%", "a\\b"])
def test_a_folder_whose_name_slurm_would_read_otherwise_is_refused(tmp_path, name, slurm, capsys):  # noqa: F811
    words = ["launch", "digits", "--methods", "static", "--seeds", "1", "--sparsity", "0.9", "--launcher", "slurm", "--results"]
    assert main([*words, str(tmp_path / name)]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and f"{tmp_path / name} has a % or a backslash" in err


@pytest.mark.parametrize("name", ["partition", "qos", "account", "constraint"])
def test_no_option_becomes_a_line_of_the_job_s_script(launch, name):  # noqa: F811
    with pytest.raises(ValueError, match=rf"^--{name} 'gpu\\n#SBATCH --begin=now' has a line break or another control character: leave it out$"):
        launch(f"--{name}", "gpu\n#SBATCH --begin=now")


def test_help_says_what_slurm_makes_of_the_numbers(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        parser().parse_args(["launch", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "tasks at a time of each array of 1000 (default: 256)" in said and "in a task of SLURM's --cpus-per-task)" in said
