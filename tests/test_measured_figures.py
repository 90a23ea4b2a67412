"""Figures of what was measured or counted: speed, packs, training FLOPs, sparse storage, growth."""
import pytest
from test_figures import SCRIPTS, draw, drawn, no_files  # noqa: F401
from test_marks import pages  # noqa: F401


def test_the_speed_of_growth_is_that_of_the_machine_whose_steps_are_drawn(tmp_path, capsys, no_files):  # noqa: F811
    """Another has measured more of it."""
    from benchmarks import overhead, scaling
    from benchmarks.measurements import store
    folder, at = tmp_path / "performance", {"measured_at": "2026-01-01"}
    store([dict.fromkeys(overhead.COLUMNS, 1) | at | {"task": "cifar10-resnet20", "method": "dense", "device": "a"}], folder / "overhead.csv",
          overhead.COLUMNS, overhead.IDENTITY)
    store([dict.fromkeys(scaling.COLUMNS, 1) | at | {"part": part, "device": device, "x": x}
           for device, part, x in (("a", "cores", 1), ("a", "width", 1), ("b", "cores", 1), ("b", "width", 1), ("b", "width", 2), ("b", "host", 43))],
          folder / "scaling.csv", scaling.COLUMNS, scaling.IDENTITY)
    assert draw("speed", "--results", tmp_path, "--out", tmp_path / "out") == 0
    assert "Cores: dense training" in capsys.readouterr().out
    lines = drawn(tmp_path / "out/performance/speed.csv")
    assert {line["device"] for line in lines} == {"a"} and [line["part"] for line in lines] == ["", "cores", "width"]


def test_packs_are_those_of_a_gpu_in_seconds_of_the_recipes_length(tmp_path, capsys, no_files):  # noqa: F811
    from benchmarks import throughput
    from benchmarks.measurements import store

    def row(task, loop, runs, rate, device="a GPU", precision="bf16"):
        return dict.fromkeys(throughput.COLUMNS, 1) | dict(task=task, loop=loop, runs=runs, images_per_second=rate, device=device,
                                                           precision=precision, peak_memory_mb=100 + 100 * runs, measured_at="2026-01-01")

    def kept(*rows):
        store(list(rows), tmp_path / "performance/throughput.csv", throughput.COLUMNS, throughput.IDENTITY)
    kept(*(row("cifar10-resnet20", "suite", runs, 50, "a processor (1 thread)") for runs in range(1, 9)))
    assert draw("packs", "--results", tmp_path, "--out", tmp_path / "out") == 2
    assert "no GPU has measured the packs" in capsys.readouterr().err
    kept(row("cifar10-resnet20", "plain", 1, 10, precision="tf32"), row("cifar10-resnet20", "suite", 1, 1000),
         row("cifar10-resnet20", "suite", 8, 2000), row("cifar10-resnet20", "suite", 8, 3, precision="fp32"), row("cifar10-vgg16", "suite", 1, 1000))
    assert draw("packs", "--results", tmp_path, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "CIFAR-10, 100 % sparsity." in said and "(quartiles of the ratio to a plain loop: up to 0.0 % from its median)" in said
    lines = [(line["task"], line["runs"], float(line["seconds"]), float(line["memory_mb"])) for line in drawn(tmp_path / "out/performance/packs.csv")]
    # GSE's VGG-16 trains on all 50,000 images, ST-3's network on 45,000
    assert lines == [("cifar10-resnet20", "1", 160 * 45, 200), ("cifar10-vgg16", "1", 200 * 50, 200), ("cifar10-resnet20", "8", 160 * 22.5, 112.5)]


def test_over_the_width_the_speed_of_st3_is_a_ratio_to_dense():
    from matplotlib.figure import Figure
    from pandas import DataFrame

    axes, times = Figure().subplots(), {("dense", 1): 100, ("st3", 1): 102, ("dense", 4): 1000, ("st3", 4): 1060}
    SCRIPTS["speed"].over_width(axes, DataFrame([(*key, time) for key, time in times.items()], columns=["method", "x", "value"]), ["b", "k"])
    x, y = axes.lines[0].get_data()
    assert list(x) == [1, 4] and list(y) == pytest.approx([1.02, 1.06]) and axes.get_ylim()[0] == 0.95
    SCRIPTS["speed"].over_width(axes, DataFrame(columns=["method", "x", "value"]), ["b", "k"])  # not measured


def test_cores_are_drawn_as_whole_runs_per_hour():
    from pandas import DataFrame

    hours = SCRIPTS["speed"].runs_per_hour(DataFrame({"x": [1, 2], "value": [1000, 2000]}))
    assert list(hours.value) == [0.5, 1.0]  # 160 epochs of 45,000 images


def test_training_flops_stand_by_sparsity_and_both_panels_have_one_percent():
    from matplotlib.figure import Figure
    from pandas import DataFrame

    figure, sparsities = Figure(), (0.5, 0.9, 0.99, 0.9999, 0.99999)
    SCRIPTS["gse_figure4"].draw(DataFrame([dict(sparsity=s, rigl_flops=3e9 * (1 - s) + 1e6, gse_flops=3e9 * (1 - s)) for s in sparsities]), figure)
    left, right = figure.axes
    assert [len(axes.lines[0].get_xdata()) for axes in (left, right)] == [3, 3]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["50", "80", "90", "95", "98", "99"]
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["99", "99.99", "99.9999"] and right.get_xlabel() == "Sparsity (%)"
    assert [[text.get_text() for text in axes.texts] for axes in (left, right)] == [["1.03×"], ["1.03×", "4.33×", "34.3×"]]
    products = DataFrame([dict(units=16, format=form, sparsity=s, seconds=0.1, device="a", threads=1)
                          for form, s in (("dense", 0.0), ("csr", 0.8), ("csr", 0.99))])
    SCRIPTS["gse_figure8"].draw(products, figure := Figure())
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["80", "90", "95", "98", "99"]


def test_sparse_storage_names_its_lines_and_gives_each_network_an_axis():
    from matplotlib.figure import Figure
    from pandas import DataFrame

    networks = (("cifar10-mlp", 1.0, 20.0), ("cifar10-mlp", 16.0, 400.0), ("cifar10-vgg16", 1.0, 2.0), ("cifar10-vit", 1.0, 7.0))
    lines = [dict(method="gse_uniform", task=task, width=width, batch_size=128, sparsity=s, precision="fp32", device="a", storage=storage,
                  torch_version="2" if width > 1 else "3", ratio=ratio if storage != "masked" else 1.0, state_mb=1.0)
             for task, width, ratio in networks
             for s in (0.9, 0.99) for storage in ("masked", "sparse", "auto")]
    script, figure = SCRIPTS["sparse_figure1"], Figure()
    script.draw(DataFrame(lines), figure)
    above = figure.axes[:3]
    assert above[0].get_legend_handles_labels()[1] == ["width × 1", "width × 16", "sparse, fp32", "auto, fp32"]
    assert [axes.get_ylim()[1] > 100 for axes in above] == [True, False, False] and figure.get_figwidth() < 7.01
    assert "torch 3 (width × 16: 2)" in script.text(DataFrame(lines))
    both = DataFrame([*lines, *({**line, "batch_size": 32, "ratio": 99.0} for line in lines)])
    assert set(script.compared(both).batch_size) == {128}  # no line joins batches of two sizes


def test_growth_has_a_slope_where_constant_costs_do_not_hide_it():
    from matplotlib.figure import Figure
    from pandas import DataFrame

    lines = [dict(method=method, width=width, nnz=nnz, batch_size=128, update_ms=width * nnz, peak_mb=10 * width + nnz, device="a", torch_version="3")
             for method in ("gse_uniform", "rigl") for width, nnz in ((1, 8), (7, 8), (8, 8), (8, 32), (8, 64)) if method != "rigl" or nnz == 8]
    script, figure = SCRIPTS["sparse_figure2"], Figure()
    table = script.draw(DataFrame(lines), figure)
    assert [len(axes.texts) for axes in figure.axes] == [2, 2, 1, 0] and table.peak_mb_slope_nnz.isna().all()
    assert {axes.get_ylabel() for axes in figure.axes[1::2]} == {"Peak memory of an update (MB)"}
    assert "RigL was measured against the width alone." in script.text(DataFrame(lines))
