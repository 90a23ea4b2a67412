"""GSE's figures and tables: widths at a constant number of connections, longer training, what a cell and a layer show."""
import csv

import pytest
import torch
from made_up import accuracy, fill
from test_figures import NEEDS_NO_RUNS, SCRIPTS, draw, no_files  # noqa: F401

from benchmarks.models import build
from benchmarks.records import TABLES, write_table
from benchmarks.tasks import TASKS
from methods.allocation import count
from reproduce.published import title


@pytest.mark.parametrize("task, profile, widths", [
    ("cifar100-resnet56", "paper", {1, 2, 3, 4}), ("cifar100-vgg16", "paper", {1, 2, 3, 4}), ("cifar100-vit", "paper", {1, 2, 3, 4}),
    ("digits", "paper", {1, 2, 4}), ("cifar10-resnet20w8", "quick", {1, 2})])
def test_widths_hold_the_number_of_active_connections(task, profile, widths):
    from gse import WEIGHTS, same_active, width_of
    from rows import words

    for width in (1, 2, 3, 4):
        with torch.device("meta"):
            net = build(TASKS[task].model, 100 if "100" in task else 10, width=TASKS[task].width * width)
        size = sum(m.weight.numel() for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)))
        assert size == WEIGHTS[task][width - 1]
        assert count(size, same_active(task, width, 0.98)) == count(WEIGHTS[task][0], 0.98)
    specs = [spec for spec in SCRIPTS["gse_figure3"].grid(task.partition("-")[0], profile) if spec.task == task and spec.seed == 0]
    assert {width_of(task, words(spec, profile)): spec.sparsity for spec in specs} == {
        width: same_active(task, width, 0.98) for width in widths}
    assert same_active("cifar10-resnet20w8", 2, 0.98) == 0.99498  # no more decimals than it takes


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith("gse_") and not NEEDS_NO_RUNS & {name} and name != "gse_table2"])
def test_what_gse_shows_of_cifar_is_drawn_in_small_too(name, tmp_path, capsys, no_files):  # noqa: F811
    """Profile quick of suite cifar10: on its own network, whatever the data of the paper, which the note names."""
    grid = SCRIPTS[name].grid
    fill(tmp_path, "cifar10", grid("cifar10", "quick"))
    draw(name, "--results", tmp_path, "--out", tmp_path)
    with open(tmp_path / f"cifar10/{name}.csv") as file:
        assert {line.get("source", "measured") for line in csv.DictReader(file)} == {"measured"}
    assert not list(grid("cifar100", "quick"))
    said = capsys.readouterr().out
    assert "In miniature; the paper: " in said and ("GSE (uniform): mean" in said) == (name in ("gse_figure3", "gse_figure7", "gse_table3"))
    assert ("at every epoch of the last cycle" in said) == (name == "gse_figure6")


def test_only_networks_with_runs_have_panels(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    fill(tmp_path, "cifar10", [spec for spec in SCRIPTS["gse_figure2"].grid("cifar10", "paper") if spec.task == "cifar10-vgg16"])
    fill(tmp_path, "digits", list(SCRIPTS["gse_figure2"].grid("digits", "paper")))
    for suite in ("cifar10", "digits"):
        draw("gse_figure2", "--suite", suite, "--results", tmp_path, "--out", tmp_path)
    assert [[axes.get_title() for axes in page.axes] for page in pages[::2]] == [["VGG-16, CIFAR-10"], ["ResNet-8, digits"]]
    assert [page.legends[0]._ncols for page in pages[::2]] == [2, 4]  # as many names as there is room for; "published (hollow, thin)" is long
    hollow = {(line.get_marker(), line.get_ydata()[0]) for line in pages[0].axes[0].lines if line.get_markerfacecolor() == "white"}
    assert hollow == {("P", 85.11), ("o", 83.65)}  # GSE's and RigL's


def test_longer_training_beside_the_published_table(tmp_path, capsys, no_files):  # noqa: F811
    specs = list(SCRIPTS["gse_table3"].grid("cifar100", "paper"))
    assert {spec.epochs for spec in specs} == {None, 300, 400} and {spec.sparsity for spec in specs} == {0.98}
    fill(tmp_path, "cifar100", specs)
    draw("gse_table3", "--results", tmp_path, "--out", tmp_path)
    said = capsys.readouterr().out
    own = accuracy(specs[0]) + 1 + 1 / 3
    for task, published in (("resnet56", 54.3), ("resnet56", 56.4), ("vgg16", 45.9), ("vit", 47.8)):
        lines = [line.split() for line in said.splitlines() if f"cifar100-{task}" in line and f"{published:.2f}" in line]
        assert [float(line[-1]) for line in lines] == [pytest.approx(own - published, abs=0.01)]
    with open(tmp_path / "cifar100/gse_table3.csv") as file:
        lines = list(csv.DictReader(file))
    assert sum(line["source"] == "measured" for line in lines) == 9
    assert {(line["options"], line["mean"]) for line in lines if line["source"] == "gse" and "vit" in line["task"]} == {
        ("", "40.7"), ("epochs=300", "45.3"), ("epochs=400", "47.8")}
    longer = tmp_path / "longer"  # without a run of the usual length
    fill(longer, "cifar100", [spec for spec in specs if spec.epochs])
    draw("gse_table3", "--suite", "cifar100", "--results", longer, "--out", longer)
    assert "| usual length |" in (longer / "cifar100/gse_table3.md").read_text()


def test_what_is_stored_of_more_connections_and_of_longer_training_is_drawn_and_not_planned(tmp_path, capsys, no_files):  # noqa: F811
    from dataclasses import replace

    figure3, table3 = SCRIPTS["gse_figure3"], SCRIPTS["gse_table3"]
    planned = [*figure3.grid("cifar10", "quick"), *table3.grid("cifar10", "quick")]
    narrow = next(spec for spec in planned if not spec.options)
    denser = [replace(narrow, sparsity=0.92015), replace(narrow, sparsity=0.99498, options={"width": 2.0})]  # of width 0.5
    assert not {spec.key for spec in denser} & {spec.key for spec in planned}
    fill(tmp_path, "cifar10", [*dict.fromkeys(planned), *denser, replace(narrow, epochs=24)])
    for name, column, shown in (("gse_figure3", "at_width_1", ["0.98", "0.98", "0.92", "0.92"]), ("gse_table3", "epochs", ["6", "9", "12", "24"])):
        assert draw(name, "--results", tmp_path, "--out", tmp_path) == 0
        assert "Missing" not in capsys.readouterr().out
        with open(tmp_path / f"cifar10/{name}.csv") as file:
            assert [line[column] for line in csv.DictReader(file)] == shown


def test_curves_begin_with_the_first_epoch(tmp_path, no_files):  # noqa: F811
    fill(tmp_path, "digits", SCRIPTS["gse_figure6"].grid("digits", "paper"))
    draw("gse_figure6", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    with open(tmp_path / "digits/gse_figure6.csv") as file:
        assert {(float(line["epoch"]), float(line["mean"])) for line in csv.DictReader(file)} == {(1, 40), (2, 41), (3, 42)}


@pytest.mark.parametrize("name", ["gse_figure6", "gse_figure7"])
def test_a_curve_is_of_test_accuracies_only_where_every_epoch_has_one(tmp_path, no_files, name):  # noqa: F811
    """The test images are looked at where validation has improved, and at the end: these few epochs are no curve."""
    fill(tmp_path, "digits", SCRIPTS[name].grid("digits", "paper"))
    path = tmp_path / "digits" / "curves.csv"
    with open(path, newline="") as file:
        lines = [line | {"test_top1": line["test_top1"] if line["epoch"] == "2" else ""} for line in csv.DictReader(file)]
    write_table(path, TABLES["curves"], lines)
    draw(name, "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    with open(tmp_path / f"digits/{name}.csv") as file:
        drawn = {(line["column"], float(line["epoch"]), float(line["mean"])) for line in csv.DictReader(file) if line["column"] != "train_top1"}
    assert drawn == {("val_top1", epoch, 49 + epoch) for epoch in (1, 2, 3)}


def test_a_method_that_learns_nothing_does_not_hide_how_the_others_differ():
    from matplotlib.figure import Figure

    above_chance, others = SCRIPTS["gse_figure6"].above_chance, {"A": 77.0, "B": 85.0, "C": 81.0, "D": 80.0}
    axes = Figure().subplots()
    axes.plot([10, 90])
    whole = axes.get_ylim()
    above_chance(axes, "VGG-16", others | {"E": 55.0})
    above_chance(axes, "VGG-16", others)
    above_chance(axes, "VGG-16", {})
    assert axes.get_ylim() == whole and not hasattr(axes.figure, "remarks")
    above_chance(axes, "VGG-16", others | {"SNIP": 10.0})
    assert axes.get_ylim()[0] == 77 - 3 * 8
    assert axes.figure.remarks == ["VGG-16: below the axis are first epochs and all of SNIP (10.0 at the end)."]


def test_bars_of_figure_2_hold_95_percent_of_the_seeds(tmp_path, no_files):  # noqa: F811
    fill(tmp_path, "digits", SCRIPTS["gse_figure2"].grid("digits", "paper"))
    draw("gse_figure2", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    with open(tmp_path / "digits/gse_figure2.csv") as file:
        line, = (line for line in csv.DictReader(file) if (line["method"], float(line["gamma"])) == ("gse_uniform", 1))
    # seeds at -1, 0 and 2 about a mean of 1 / 3
    assert float(line["low"]) - float(line["mean"]) == pytest.approx(-0.95 - 1 / 3, abs=1e-3)
    assert float(line["high"]) - float(line["mean"]) == pytest.approx(1.9 - 1 / 3, abs=1e-3)


def test_cells_keep_measured_and_published_apart(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    specs = [spec for spec in SCRIPTS["gse_table1"].grid("cifar10", "paper") if spec.method == "set"]
    fill(tmp_path, "cifar10", specs)
    draw("gse_table1", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    cells = {key: cell.get_text().get_text() for key, cell in pages[0].axes[0].tables[0].get_celld().items()}
    row = next(key[0] for key, text in cells.items() if text == "SET")
    mean = accuracy(specs[0]) + 1 + 1 / 3
    assert cells[row, 0] == f"{mean:.1f} ± 1.5\n[90.2]"
    assert cells[row + 1, 0] == "[90.6]" and cells[row + 2, 0] == "–"


def test_layers_are_compressed_by_their_weights_over_their_active_ones(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    fill(tmp_path, "digits", SCRIPTS["gse_figure9"].grid("digits", "paper"))
    draw("gse_figure9", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    with open(tmp_path / "digits/gse_figure9.csv") as file:
        lines = list(csv.DictReader(file))
    assert {(line["index"], float(line["compression"])) for line in lines} == {("1", 18.0), ("2", 64.0)} and len(lines) == 11 * 3 * 2
    panels = [axes for axes in pages[0].axes if axes.axison]
    assert [axes.get_xlabel() for axes in panels] == [""] * 9 + ["Layer"] * 2
    assert [axes.get_title() for axes in panels] == ["ResNet-8"] * 2 + [""] * 9  # both columns are of it
    assert "all data sets" not in pages[0]._supxlabel.get_text()


def test_a_table_pastes_as_it_is_drawn(tmp_path, capsys):
    fill(tmp_path, "cifar10", [spec for spec in SCRIPTS["gse_table1"].grid("cifar10", "paper") if spec.method in ("set", "rigl")])
    draw("gse_table1", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    stem = tmp_path / "cifar10/gse_table1"
    assert f"wrote {stem}.pdf .png .csv .md .tex\n" in capsys.readouterr().out
    page, paper = ((stem.parent / f"gse_table1.{ending}").read_text() for ending in ("md", "tex"))
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * (2 + len(SCRIPTS["gse_table1"].METHODS)) and {len(line) for line in lines} == {1 + 3 * 3}  # by data set
    cells = {(line[0], column): cell for block in (lines[:13], lines[13:]) for line in block[2:] for column, cell in zip(block[0][1:], line[1:])}
    with open(f"{stem}.csv") as file:
        own = [line for line in csv.DictReader(file) if line["source"] == "measured"]
    for line in own:
        column = f"{title(line['task'])}, {100 * float(line['sparsity']):g} %"
        assert cells[{"set": "SET", "rigl": "RigL"}[line["method"]], column].startswith(f"{float(line['mean']):.1f} ± 1.5")
    assert len(own) == 2 * 3 * 3 and cells["SET", "ResNet-56, CIFAR-10, 90 %"].endswith("[90.2]")
    for line in lines[:1] + lines[2:14] + lines[15:]:
        assert " & ".join(line).replace("±", r"$\pm$").replace("%", r"\%").replace("–", "--") + r" \\" in paper
    assert paper.count(r"\begin{table*}") == paper.count(r"\setlength{\belowcaptionskip}{4pt}") == 2


def test_table_2_has_gse_by_its_assumed_recipe(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    specs = list(SCRIPTS["gse_table2"].grid("imagenet", "paper"))
    assert {(spec.method, spec.options) for spec in specs} == {("dense", ()), ("gse_uniform", (("recipe", "original"),))}
    assert len(specs) == 12
    fill(tmp_path, "imagenet", specs)
    draw("gse_table2", "--results", tmp_path, "--out", tmp_path)
    cells = {key: cell.get_text().get_text() for key, cell in pages[0].axes[0].tables[0].get_celld().items()}
    row = next(key[0] for key, text in cells.items() if text == "GSE (uniform)")
    own = next(spec for spec in specs if spec.method == "gse_uniform")
    assert cells[row, 0] == f"{accuracy(own) + 1 + 1 / 3:.1f} ± 1.5" and "assumed" in pages[0]._supxlabel.get_text()
    assert pages[0].axes[0].get_title().endswith("accuracy (%): measured [published]")
    (tmp_path / "none").mkdir()
    draw("gse_table2", "--results", tmp_path / "none", "--out", tmp_path)
    assert pages[-1].axes[0].get_title().endswith("accuracy (%): [published]") and "of GSE no numbers" in " ".join(pages[-1]._supxlabel.get_text().split())


def test_text_in_a_number_s_cell_is_one_line(tmp_path, capsys):
    fill(tmp_path, "digits", SCRIPTS["gse_figure6"].grid("digits", "paper"))
    curves = tmp_path / "digits/curves.csv"
    with open(curves, newline="") as file:
        lines = list(csv.DictReader(file))
    lines[3]["val_top1"] = lines[3]["test_top1"] = "much"
    with open(curves, "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader(), writer.writerows(lines)
    assert draw("gse_figure6", "--suite", "digits", "--results", tmp_path, "--out", tmp_path) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{curves}, row 5: val_top1 is 'much', not a number" in said


def test_runs_with_sparse_storage_stand_where_there_are_none_with_masks(tmp_path, capsys, no_files):  # noqa: F811
    from dataclasses import replace

    def sparse(spec):
        return replace(spec, options=(*spec.options, ("storage", "sparse")))

    vgg = {name: [spec for spec in SCRIPTS[name].grid("cifar10", "paper") if spec.task == "cifar10-vgg16" and spec.sparsity == 0.98]
           for name in ("gse_figure2", "gse_figure6")}
    gse, rigl, grasp = ([spec for spec in vgg["gse_figure6"] if spec.method == method] for method in ("gse_uniform", "rigl", "grasp"))
    double, = (spec for spec in vgg["gse_figure2"] if spec.method == "gse_uniform" and spec.seed == 0 and dict(spec.options) == {"gamma": "2.0"})
    fill(tmp_path, "cifar10", [*gse, rigl[0], *map(sparse, rigl), sparse(grasp[1]), sparse(double)])
    arguments = "--profile", "paper", "--results", tmp_path, "--out", tmp_path
    assert draw("gse_figure6", *arguments) == 0
    said = capsys.readouterr().out
    # RigL has one run with masks, so that its three others are not drawn; GraSP's seeds 0 and 2 are missing in any storage
    assert "With sparse storage: GraSP." in said and "Missing: 22 of 27 runs (all of SynFlow, SNIP, Static, SET, Lottery, Gradual)." in said
    own = next(line.split() for line in said.splitlines() if " grasp " in line)
    assert own[2:4] == ["storage=sparse", "0.98"] and "82.02" in own  # beside the published point of GraSP
    assert not any("rigl storage" in " ".join(line.split()) for line in said.splitlines())
    with open(tmp_path / "cifar10/gse_figure6.csv") as file:
        lines = [line for line in csv.DictReader(file) if line["source"] == "measured"]
    assert {(line["method"], line["seeds"]) for line in lines} == {("gse_uniform", "3.0"), ("rigl", "1.0"), ("grasp", "1.0")}
    assert draw("gse_figure2", *arguments) == 0
    assert "With sparse storage: Uniform (gamma=2.0)." in capsys.readouterr().out
    fill(tmp_path / "line", "cifar10", [*gse, *map(sparse, gse[:2]), sparse(double), rigl[0]])  # one line has one storage
    assert draw("gse_figure2", "--profile", "paper", "--results", tmp_path / "line", "--out", tmp_path) == 0
    assert "With sparse storage: Uniform, Uniform (gamma=2.0)." in capsys.readouterr().out
    with open(tmp_path / "cifar10/gse_figure2.csv") as file:
        lines = [line for line in csv.DictReader(file) if line["source"] == "measured"]
    assert {(line["method"], line["gamma"], "sparse" in line["options"], line["seeds"]) for line in lines} == {
        ("gse_uniform", "1.0", True, "2"), ("gse_uniform", "2.0", True, "1"), ("rigl", "1.0", False, "1")}
    fill(tmp_path / "rigl", "cifar10", map(sparse, rigl))
    assert draw("gse_figure2", "--profile", "paper", "--results", tmp_path / "rigl", "--out", tmp_path) == 0
    assert "With sparse storage: RigL." in capsys.readouterr().out
    assert draw("gse_table1", *arguments) == 0
    assert "| GraSP | – | – | [84.6] | – | – | " in (text := (tmp_path / "cifar10/gse_table1.md").read_text())
    assert next(line for line in text.splitlines() if "GraSP" in line).count("[82.0]") == 1
    assert draw("gse_figure9", *arguments) == 0
    assert "With sparse storage: GraSP." in capsys.readouterr().out
    with open(tmp_path / "cifar10/gse_figure9.csv") as file:
        assert {line["series"] for line in csv.DictReader(file)} == {"gse_uniform", "rigl", "grasp"}
    small = [*SCRIPTS["gse_figure6"].grid("cifar10", "quick")]
    fill(tmp_path / "both", "cifar10", [*small, *vgg["gse_figure6"][1:], *map(sparse, vgg["gse_figure6"])])  # a run in two storages is one
    assert draw("gse_figure6", "--suite", "cifar10", "--results", tmp_path / "both", "--out", tmp_path) == 0
    assert "profile quick" in capsys.readouterr().out
    fill(tmp_path / "masks", "cifar10", [*vgg["gse_figure6"], *map(sparse, vgg["gse_figure6"])])
    assert draw("gse_figure6", "--profile", "paper", "--results", tmp_path / "masks", "--out", tmp_path) == 0
    assert "storage=sparse" not in (said := capsys.readouterr().out) and "With sparse storage" not in said
