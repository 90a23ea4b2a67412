"""README.md shows what is stored, and its tables are made from rows."""
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "reproduce"))
readme = importlib.import_module("readme")


def test_readme_shows_the_stored_rows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- digits -->" in text
    assert readme.filled(text, ROOT / "results") == text, "make them anew: python reproduce/readme.py"


def test_a_table_is_made_from_its_rows(tmp_path):
    (tmp_path / "digits").mkdir()
    columns = "key suite dataset task method options sparsity seed epochs cycles precision status top1 top1_best_val achieved_sparsity macs dense_macs train_flops_fraction seconds"
    runs = [f"k{seed}{method},digits,digits,digits,{method},,{sparsity},{seed},30,{cycles},fp32,ok,{top1},,{got},1,1,1,1"
            for method, sparsity, got, cycles in (("dense", 0.0, 0.0, 1), ("st3", 0.9, 0.9, 1), ("str_original", 0.9, 0.8, 1), ("lrr", 0.9, 0.9, 6))
            for seed, top1 in enumerate((90, 92, 94))]
    (tmp_path / "digits" / "runs.csv").write_text("\n".join([columns.replace(" ", ","), *runs]) + "\n")
    text = readme.filled("a\n<!-- digits -->\nold\n<!-- /digits -->\nb", tmp_path)
    assert "| `st3` |  | 92.00 ± 2.00 |" in text and "| `dense` | 92.00 ± 2.00 |  |" in text and "old" not in text and text.startswith("a\n") and text.endswith("\nb")
    assert "| `str_original` ¹ |  | 92.00 ± 2.00 |" in text and "3 seeds, 30 epochs a cycle (of several: `lrr` 6)." in text


def test_times_are_those_of_the_machine_that_measured_most_and_of_two_such_the_last(tmp_path):
    import pandas as pd

    stored = readme.of_one_machine(pd.read_csv(ROOT / "results" / "performance" / "sparse_speed.csv"))
    (tmp_path / "performance").mkdir()
    for at, share, others in (("2000", 1, True), ("2100", 1, False), ("2100", 0.5, True)):
        another = stored.assign(device="another", ratio=7.0, measured_at=at).head(int(share * len(stored)))
        pd.concat([stored, another]).to_csv(tmp_path / "performance" / "sparse_speed.csv", index=False)
        assert (readme.sparse(tmp_path) == readme.sparse(ROOT / "results")) is others


@pytest.mark.parametrize("text", ["<!-- digits -->", "<!-- nothing -->\n<!-- /nothing -->"])
def test_a_wrong_mark_is_said(text, tmp_path):
    with pytest.raises(ValueError, match="<!--"):
        readme.filled(text, tmp_path)


@pytest.mark.parametrize("words, said", [(["--nope"], "unrecognized arguments"), (["--results", "/nowhere"], "/nowhere")])
def test_bad_arguments_are_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        readme.main(words)
    assert end.value.code == 2 and said in (line := capsys.readouterr().err) and line.count("\n") == 1
