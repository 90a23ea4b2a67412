"""What the note under a figure says of its runs. Rows here are made up, in tmp_path only."""
import pandas as pd
from test_reproduce import figure, note_of, row, run, store

from benchmarks import suites
from benchmarks.grid import Spec


def test_note_says_what_is_missing_or_failed(tmp_path):
    specs = list(figure("figure1").grid("cifar10", "paper"))
    rows = [row(spec) for spec in specs if (spec.method, spec.sparsity) != ("ste_soft", 0.95) or spec.seed == 0]  # without two
    rows[0].update(status="failed", top1="", top1_best_val="")
    store(tmp_path, "cifar10", rows)
    text, _ = note_of("figure1", "cifar10", tmp_path)
    assert "Missing: 3 of 33 runs (1 failed)." in text and "Fewer than 3 seeds: 2 of 11 points." in text and "Reduced" not in text


def test_a_figure_that_leaves_out_diverged_runs_says_so(tmp_path):
    specs = list(figure("figure6").grid("digits", "paper"))
    store(tmp_path, "digits", [row(specs[0], status="diverged", top1="", top1_best_val=""), *map(row, specs[1:])])
    from notes import noted
    from rows import runs_of

    assert "Diverged runs left out: 1." in noted(runs_of(figure("figure6").grid, "digits", tmp_path)[0], figure("figure6").draw)


def test_the_note_says_at_which_sparsities_a_method_has_no_run():
    from notes import absent

    there = {("st3", 0.9): 90, ("st3", 0.98): None, ("gmp", 0.9): None, ("gmp", 0.98): 80, ("str", 0.9): 90, ("str", 0.98): None,
             ("dnw", 0.9): None, ("dnw", 0.98): None, ("set", 0.9): 90, ("set", 0.98): 80}
    runs = pd.DataFrame([dict(method=method, options="", sparsity=s, accuracy=mean) for (method, s), mean in there.items()])
    runs = runs.astype({"accuracy": float})
    seed = runs.assign(accuracy=float("nan"))  # a second one, which has no run
    assert absent(pd.concat([runs, seed]), {"st3": "ST-3", "dnw": "DNW, all"}) == [
        "all of ST-3, str at 98 %", "all of gmp at 90 %", 'all of "DNW, all"']
    assert absent(runs[runs.method == "set"], {}) == []
    own = runs[runs.method == "set"].assign(options="allocation=uniform storage=sparse", accuracy=[90.0, float("nan")])  # a series that a figure names
    assert absent(pd.concat([runs, own]), {"set": "SET", "set allocation=uniform": "SET, uniform"})[0] == 'all of st3, str, "SET, uniform" at 98 %'
    assert absent(pd.concat([runs, own]), {"set": "SET"})[0] == 'all of st3, str, SET (allocation=uniform) at 98 %'
    many = pd.DataFrame(dict(method=[*"abcdefgh"], options="", sparsity=0.9, accuracy=float("nan")))
    assert absent(many, {}) == ["all of a, b, c, d, e, f and 2 more"]


def test_the_note_names_the_task_on_which_a_series_misses_its_sparsity():
    from notes import missed

    runs = pd.DataFrame([dict(task=task, method="set", options="allocation=uniform", sparsity=0.9, achieved_sparsity=ends, status="ok")
                         for task, ends in (("cifar10-vit", 0.902), ("cifar10-vgg16", 0.9))])
    labels = {"set allocation=uniform": "SET, uniform"}
    assert missed(runs, labels) == " Not at the sparsity asked for: SET, uniform on ViT, CIFAR-10 at 90 % (ends at 90.2 %)."
    assert missed(runs[:1], labels) == " Not at the sparsity asked for: SET, uniform at 90 % (ends at 90.2 %)."


def test_no_line_of_a_note_is_wider_than_the_figure(tmp_path):
    """However many capitals it has; lines of few are as long as ever."""
    from drawing import styled, write_figure
    from matplotlib.figure import Figure

    for word in ("WWWW MMMM", "a few words of a note that is long enough for lines", "$x$ MMMM $y$"):
        with styled():
            figure = Figure(figsize=(3.4, 2.8), layout="constrained", dpi=300)
            write_figure(figure, tmp_path / "note", " ".join([word] * 20))
            lines = figure._supxlabel.get_text().splitlines()
            assert figure._supxlabel.get_window_extent().x1 <= figure.bbox.x1 and max(map(len, lines)) <= 81
            assert max(map(len, lines)) > 70 or word[0] != "a"


def test_what_all_runs_have_in_common_is_said():
    figure("figure1")  # whose folder is on the path then
    from notes import in_common
    from pandas import DataFrame

    def said(*points):
        return in_common(DataFrame(points, columns=["sparsity", "options"]))
    assert said((0.0, ""), (0.98, ""), (0.98, "gamma=2")) == " 98 % sparsity." and said((0.9, ""), (0.98, "")) == ""
    assert said((0.98, ""), (0.995, "width=2.0")) == " 98 % sparsity at width 1."
    assert said((0.9, "count_switches=True ramp_power=0.0"), (0.9, "count_switches=True")) == " 90 % sparsity."
    assert said((0.9, "lr=1 gamma=2"), (0.8, "lr=1")) == " With lr=1."


def test_the_note_is_on_the_figure(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    script = figure("figure1")  # whose folder is on the path then
    from drawing import save
    from rows import runs_of

    store(tmp_path, "digits", [row(spec) for spec in suites.grid("digits", "quick") if spec.method != "dense"])
    runs, _ = runs_of(script.grid, "digits", tmp_path)
    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: pages.append(self))
    save("figure1", script.draw, runs, "digits", tmp_path)
    text = " ".join(text.get_text() for text in pages[0].texts).replace("\n", " ")
    assert "Missing: 3 of 21 runs (all of Dense)." in text and "Reduced runs: 10 of 30 epochs." in text and "Miniature" in text


def test_the_note_says_which_runs_have_no_curve_to_the_end(tmp_path):
    specs = [Spec("digits", "st3", 0.98, seed) for seed in range(3)]
    store(tmp_path, "digits", [row(spec, status=status) for spec, status in zip(specs, ("ok", "ok", "diverged"))])
    figure("figure1")  # whose folder is on the path then
    from notes import note
    from rows import lines_of, runs_of

    from benchmarks.records import TABLES, write_table
    write_table(tmp_path / "digits" / "curves.csv", TABLES["curves"], [
        dict.fromkeys(TABLES["curves"], 1) | dict(key=specs[seed].key, epoch=epoch) for seed, epochs in ((0, 3), (2, 1)) for epoch in range(epochs)])
    runs, _ = runs_of(lambda suite, profile: specs if profile == "paper" else (), "digits", tmp_path)
    assert len(lines_of(runs, "curves")) == 4
    assert note(runs).endswith(" curves.csv lacks 1 of these runs. A run that diverged is in the means until it did.")


def test_a_note_names_methods_as_the_legend_does():
    from notes import note

    runs = pd.DataFrame([dict(task="digits", method=method, options="", sparsity=0.9, seed=0, accuracy=90.0 if method != "str" else None, epochs=30,
                           cycles=cycles, precision="fp32", status="ok", last=False) for method, cycles in (("imp", 19), ("gmp", 1), ("str", 1))])
    text = note(runs, labels={"imp": "Lottery", "str": "STR"})
    assert "In up to 19 cycles: Lottery." in text and "(all of STR)" in text.replace("1 ok; ", "") and text.startswith("Mean over one seed;")


def test_a_note_names_runs_that_end_at_another_sparsity(tmp_path):
    dense = {("gradual", 0.98): 0.0, ("set", 0.9): 0.9 + 0.0014}  # within 1.5 % of the density
    store(tmp_path, "cifar10", [row(spec, achieved_sparsity=dense.get((spec.method, spec.sparsity), spec.sparsity))
                                for spec in figure("gse_table1").grid("cifar10", "paper")])
    done = run("reproduce/gse_table1.py", "--results", tmp_path, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    said = "Not at the sparsity asked for: Gradual at 98 % (ends at 0 %)."
    assert said in done.stdout and said in (tmp_path / "cifar10/gse_table1.md").read_text()
