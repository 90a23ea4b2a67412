"""The measurement of what storing costs, in miniature. No time is tested."""
import csv

from benchmarks import store_speed


def no_slurm(store):
    raise ValueError("no SLURM here")


def test_a_line_of_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store_speed, "ROWS", 40)
    monkeypatch.setattr(store_speed, "ROUNDS", 1)
    monkeypatch.setattr(store_speed.jobs, "queue", no_slurm)
    (tmp_path / "data").mkdir()
    assert store_speed.main(["--results", str(tmp_path), "--data", str(tmp_path / "data")]) == 0
    with open(tmp_path / "performance" / "store.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows] == ["checkpoint digits", "collect", "collect again", "status"]
    assert all(float(row["seconds"]) > 0 for row in rows) and int(rows[0]["bytes"]) > 0
    assert [row["count"] for row in rows] == ["1", "40", "40", "40"] and "no submission: no SLURM here" in capsys.readouterr().err


def test_a_missing_folder_is_refused(tmp_path, capsys):
    assert store_speed.main(["--results", str(tmp_path), "--data", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
