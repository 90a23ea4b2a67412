"""README.md and the pages that it leads to show what is stored; their tables are made from rows."""
import importlib
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from made_up import write_runs

import methods
from benchmarks.records import TABLES

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "reproduce"))
measured, readme = map(importlib.import_module, ("measured", "readme"))


@pytest.mark.parametrize("page", readme.PAGES)
def test_the_pages_show_the_stored_rows(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert readme.filled(text, ROOT / "results") == text, "make them anew: python reproduce/readme.py"


def test_each_table_is_on_a_page():
    shown = [name for page in readme.PAGES for name in re.findall(r"<!-- (\w+) -->", (ROOT / page).read_text(encoding="utf-8"))]
    assert sorted(shown) == sorted(readme.TABLES)


def test_each_method_is_explained():
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("methods/README.md", "methods/beyond/README.md"))
    named = set(re.findall(r"^\| (`.*?) \|", text, re.M))
    absent = set(methods.available()) - {name for cell in named for name in re.findall(r"`(\w+)`", cell)}
    assert f" {len(methods.available())} of them" in (ROOT / "README.md").read_text(encoding="utf-8"), f"README.md: {len(methods.available())} methods"
    assert not absent, f"methods/README.md or methods/beyond/README.md needs a line on {', '.join(sorted(absent))}"


def test_links_lead_somewhere():
    for page in (*readme.PAGES, "methods/README.md", "results/README.md", "benchmarks/README.md", "examples/README.md"):
        for target, anchor in re.findall(r"\]\(((?!https:)[^)#\s]*)(?:#([^)\s]+))?\)", (ROOT / page).read_text(encoding="utf-8")):
            file = (ROOT / page).parent / target if target else ROOT / page
            assert file.exists(), (page, target)
            heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], (page, target, anchor)


@pytest.mark.parametrize("name, options, rates, best", [
    ("lrr", {}, [0.1, 0.05] * 5, [0, 2, 4, 6]),
    ("probmask", {"trials": 2, "trial_batches": 1}, [0.1, 0.05, 0.001], []),
    ("st3", {"ft_epochs": 2, "rewind_finetune": True, "ramp_end": 0.5}, [0.1, 0.05, 0.001, 0.001, 0.1, 0.05], [2]),
    ("rigl", {}, [0.1, 0.05], [])])
def test_the_loop_of_several_cycles(name, options, rates, best):
    code, = re.findall(r"```python\n(for cycle .*?)```", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"), re.S)
    torch.manual_seed(0)
    loader = [(torch.randn(8, 12), torch.arange(8) % 4) for _ in range(3)]
    model, passes, seen, rewound = methods.SparseModel(torch.nn.Linear(12, 4), name, 0.5, **options), [], [], []
    model.register_forward_hook(lambda *_: passes.append(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=7.0)
    training = methods.Training(model, optimizer, epochs=2, steps_per_epoch=3, batches=lambda n: loader[:n])
    rewind = training.rewind
    training.rewind = lambda name: rewound.append(training.snapshots[name]["theta"]) or rewind(name)

    def validate(model):
        seen.append((optimizer.param_groups[0]["lr"], training.theta.detach().clone()))
        return 1 / len(seen)  # the first epoch of each cycle is the best
    exec(code, {"torch": torch, "model": model, "training": training, "optimizer": optimizer, "loader": loader, "validate": validate,
                "schedule": lambda share: 1 - share})
    assert [rate for rate, _ in seen] == pytest.approx(rates) and len(passes) == 3 * (len(rates) + 2 * (name == "probmask"))
    assert len(rewound) == len(best) and all(torch.equal(theta, seen[epoch][1]) for theta, epoch in zip(rewound, best))
    assert int(model.method.mask.sum()) == model.method.budget and training.step == training.total_steps


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name, options", [("lrr", {}), ("st3", {"ft_epochs": 2, "rewind_finetune": True, "ramp_end": 0.5})])
def test_the_loop_of_several_cycles_goes_on_where_it_was_stopped(name, options):
    """Saved where it says so, after each epoch, and gone on in a new training: the same weights, bit for bit."""
    code, = re.findall(r"```python\n(for cycle .*?)```", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"), re.S)
    assert code.count("# the place to save") == 1
    code = code.replace("# the place to save", "save(best)  #")
    loader = [(torch.randn(8, 12), torch.arange(8) % 4) for _ in range(3)]

    def train(stop=None, state=None):
        torch.manual_seed(0)
        model = methods.SparseModel(torch.nn.Linear(12, 4), name, 0.5, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=7.0, momentum=0.9)
        training = methods.Training(model, optimizer, epochs=2, steps_per_epoch=3, batches=lambda n: loader[:n])
        names = {"torch": torch, "model": model, "training": training, "optimizer": optimizer, "loader": loader,
                 "validate": lambda model: float(model.theta.detach().sum()), "schedule": lambda share: 1 - share}
        parts, saved = (model, optimizer, training), []
        if state:
            names["best"] = state[-1]
            for part, own in zip(parts, state):
                part.load_state_dict(own)

        def save(best):
            saved.append(best)
            if len(saved) == stop:
                raise Stopped(*deepcopy([part.state_dict() for part in parts]), best)
        exec(code, {**names, "save": save})
        return model.theta.detach(), len(saved)

    expected, epochs = train()
    for stop in range(1, epochs):
        with pytest.raises(Stopped) as stopped:
            train(stop)
        found, rest = train(state=stopped.value.args)
        assert torch.equal(found, expected) and stop + rest == epochs


def test_a_table_is_made_from_its_rows(tmp_path):
    columns = "key suite dataset task method options sparsity seed epochs cycles precision status top1 top1_best_val achieved_sparsity macs dense_macs train_flops_fraction seconds finished_at"
    runs = [f"k{seed}{method},digits,digits,digits,{method},,{sparsity},{seed},30,{cycles},fp32,ok,{top1},,{got},1,1,1,1,2026-01-01"
            for method, sparsity, got, cycles in (("dense", 0.0, 0.0, 1), ("st3", 0.9, 0.9, 1), ("str_original", 0.9, 0.8, 1), ("lrr", 0.9, 0.9, 6))
            for seed, top1 in enumerate((90, 92, 94))]
    write_runs(tmp_path / "digits" / "runs.csv", columns.split(), runs)
    text = readme.filled("a\n<!-- digits -->\nold\n<!-- /digits -->\nb", tmp_path)
    assert "| `st3` |  | 92.00 ± 2.00 |" in text and "| `dense` | 92.00 ± 2.00 |  |" in text and "old" not in text and text.startswith("a\n") and text.endswith("\nb")
    assert "| `str_original` ¹ |  | 92.00 ± 2.00 |" in text and "3 seeds, 30 epochs a cycle (cycles up to the highest sparsity: `lrr` 6)." in text
    lines = readme.accuracy(tmp_path, "digits", "paper", costs=[0.9]).splitlines()
    assert lines[0] == "| Method | 0 % | 90 % | Training FLOPs / dense, 90 % |" and "| `st3` |  | 92.00 ± 2.00 | 1.00 |" in lines
    assert "| `dense` | 92.00 ± 2.00 |  | 1.00 |" in lines
    other = [run.replace("k", "m", 1).replace(",digits,digits,digits,", ",digits,digits,digits-mlp,").replace(",92,", ",12,") for run in runs]
    write_runs(tmp_path / "digits" / "runs.csv", columns.split(), runs + other)
    assert readme.accuracy(tmp_path, "digits", "paper", costs=[0.9]).splitlines() == lines  # another network's are no seeds of these


def test_a_diverged_run_counts_with_its_accuracy_and_has_no_costs(tmp_path):
    """Nor a sparsity that could be another one than was asked for: it ended early, with a mask on its way."""
    columns = ("key suite dataset task method options sparsity seed epochs cycles precision status top1 top1_best_val achieved_sparsity macs "
               "dense_macs train_flops_fraction seconds finished_at")
    runs = [f"k{seed}{method},digits,digits,digits,{method},,{sparsity},{seed},30,1,fp32,{status},{top1},,{got},1,1,{flops},1,2026-01-01"
            for method, sparsity in (("dense", 0.0), ("st3", 0.9)) for seed, (status, top1, got, flops) in enumerate((
                ("ok", 90, sparsity, 0.5), ("ok", 92, sparsity, 0.7), ("diverged", "", 0.3, 0.01) if method == "st3" else ("ok", 94, 0.0, 0.6)))]
    write_runs(tmp_path / "digits" / "runs.csv", columns.split(), runs)
    lines = readme.accuracy(tmp_path, "digits", "paper", costs=[0.9]).splitlines()
    assert "| `st3` |  | 64.00 ± 46.78 | 0.60 |" in lines and "3 seeds" in lines[-1]  # chance, of ten classes, is 10


def test_runs_of_a_papers_length_stand_beside_it(tmp_path):
    columns = "key suite dataset task method options sparsity seed epochs cycles precision status top1 top1_best_val achieved_sparsity macs dense_macs train_flops_fraction seconds finished_at"
    runs = [f"{number},cifar10,cifar10,{task},{method},{options},{sparsity},{seed},{epochs},1,{precision},{status},{top1},{best},{sparsity},1,1,1,1,2026-01-01"
            for number, (task, method, options, sparsity, seed, epochs, precision, status, top1, best) in enumerate((
                ("cifar10-vgg16", "gse_uniform", "", 0.98, 0, 200, "bf16", "ok", 84, ""), ("cifar10-vgg16", "gse_uniform", "", 0.98, 1, 200, "bf16", "ok", 86, ""),
                ("cifar10-vgg16", "gse_uniform", "", 0.98, 2, 200, "bf16", "failed", "", ""),
                ("cifar10-vgg16", "rigl", "", 0.98, 0, 200, "bf16", "ok", 82, ""),
                ("cifar10-vgg16", "rigl", "", 0.98, 1, 200, "bf16", "diverged", "", ""),
                ("cifar10-resnet20", "st3", "", 0.985, 0, 160, "bf16", "ok", 80, 81),
                ("cifar10-resnet20", "st3", "", 0.985, 1, 160, "bf16", "diverged", "", ""),
                ("cifar10-vgg16", "gse_uniform", "", 0.98, 0, 200, "fp32", "ok", 80, ""),
                ("cifar10-vgg16", "gse_uniform", "", 0.98, 0, 160, "bf16", "ok", 70, ""), ("cifar10-resnet20", "st3", "bn_momentum=0.99", 0.9, 0, 160, "bf16", "ok", 88, 89),
                ("cifar10-resnet20w8", "st3", "", 0.9, 0, 160, "bf16", "ok", 60, 60)))]
    write_runs(tmp_path / "cifar10" / "runs.csv", columns.split(), runs)
    found = readme.papers(tmp_path).splitlines()[2:]
    rigl = found[-1].split(" | ")[-1].removesuffix(" |")
    assert rigl.endswith("(GSE, Fig 5)") and found == [
        "| ResNet-20, CIFAR-10 | `st3` | 98.5 % | 160 | bf16 | 2 | 45.00 ± 49.50 | 45.50 ± 50.20 |  |",
        "| ResNet-20, CIFAR-10 | `st3 bn_momentum=0.99` | 90 % | 160 | bf16 | 1 | 88.00 | 89.00 |  |",
        "| VGG-16, CIFAR-10 | `gse_uniform` | 98 % | 200 | bf16 | 2 | 85.00 ± 1.41 |  | 85.11 (GSE, Fig 5) |",
        "| VGG-16, CIFAR-10 | `gse_uniform` | 98 % | 200 | fp32 | 1 | 80.00 |  | 85.11 (GSE, Fig 5) |",
        f"| VGG-16, CIFAR-10 | `rigl` | 98 % | 200 | bf16 | 2 | 46.00 ± 50.91 |  | {rigl} |"]


def made(folder, name, columns, *lines):
    """Rows of one machine in a table of `performance`."""
    (folder / "performance").mkdir(exist_ok=True)
    whole = [f"{columns},device,threads,torch_version,measured_at", *(f"{line},a core,1,2.12,2000" for line in lines)]
    (folder / "performance" / name).write_text("\n".join(whole) + "\n")


def test_storages_are_compared_with_the_masked_run(tmp_path):
    made(tmp_path, "sparse_speed.csv", "method,task,width,batch_size,sparsity,precision,storage,ratio,state_mb",
         "set,mlp,1,128,0.98,fp32,masked,1,30", "set,mlp,1,128,0.98,fp32,sparse,4,1.5", "set,mlp,1,128,0.99,fp32,masked,1,30",
         "set,mlp,1,128,0.99,fp32,auto,2.5,20", "set,mlp,1,128,0.98,bf16,masked,1,30", "set,mlp,1,128,0.98,bf16,sparse,3,1.5",
         "set,mlp,1,128,0.9,fp32,sparse,9,1", "set,vit,1,128,0.9,fp32,sparse,9,1",
         "set,mlp,32,128,0.98,fp32,sparse,,1")  # alone: the masked one does not fit
    assert readme.sparse(tmp_path).splitlines()[2:] == ["| `set` | mlp | 1 × | 128 | bf16 | 3.00 × |  | 20 × |  |  |  |",
                                                        "| `set` | mlp | 1 × | 128 | fp32 | 4.00 × |  | 20 × |  | 2.50 × |  |"]


def test_a_few_networks_show_what_sparse_storage_gives(tmp_path):
    made(tmp_path, "sparse_speed.csv", "method,task,width,batch_size,sparsity,precision,storage,ratio,state_mb",
         *(f"{method},cifar10-vit,{width},128,{sparsity},{precision},{storage},{ratio},1" for method, width, sparsity, precision, storage, ratio in (
             ("gse_uniform", 1.0, 0.98, "fp32", "sparse", 6.46), ("gse_uniform", 1.0, 0.99, "fp32", "auto", 7), ("set", 1.0, 0.99, "fp32", "sparse", 8),
             ("gse_uniform", 2.0, 0.98, "bf16", "sparse", 9), ("gse_uniform", 1.0, 0.99, "bf16", "sparse", 12.5))))
    assert "| ViT | 6.5 |  |  | 12 |" in readme.faster(tmp_path).splitlines()


def test_every_width_and_sparsity_of_sparse_steps_and_updates(tmp_path):
    made(tmp_path, "sparse_speed.csv", "method,task,width,batch_size,sparsity,precision,storage,ratio,update_ratio",
         *(f"{method},cifar10-mlp,{width},128,{sparsity},{precision},{storage},{ratio}" for method, width, sparsity, precision, storage, ratio in (
             ("gse_uniform", 1, 0.98, "fp32", "masked", "1,1"), ("gse_uniform", 1, 0.98, "fp32", "sparse", "12.3,4.56"),
             ("gse_uniform", 16, 0.8, "fp32", "sparse", "2.04,"), ("gse_uniform", 32, 0.8, "fp32", "sparse", ","),
             ("gse_uniform", 1, 0.8, "bf16", "sparse", "3,3"), ("gse_uniform", 1, 0.8, "fp32", "auto", "3,3"), ("set", 1, 0.8, "fp32", "sparse", "3,3"))))
    with open(tmp_path / "performance/sparse_speed.csv", "a") as table:  # of network 1, b has nothing that the other lacks
        for device, width, sparsity, ratio in (("b", 1, 0.98, "3,"), ("b", 16, 0.98, "7,5"), ("c", 16, 0.98, "7,"), ("c", 16, 0.9, "2,")):
            table.write(f"gse_uniform,cifar10-mlp,{width},128,{sparsity},fp32,sparse,{ratio},{device},1,2.12,1999\n")
    assert readme.widths(tmp_path).splitlines()[2:] == [
        "| MLP, CIFAR-10 | 1 × | 128 | a core |  |  | 12 / 4.6 |", "| MLP, CIFAR-10 | 16 × | 128 | c |  | 2.0 / – | 7.0 / – |",
        "| MLP, CIFAR-10 | 16 × | 128 | a core | 2.0 / – |  |  |", "| MLP, CIFAR-10 | 16 × | 128 | b |  |  | 7.0 / 5.0 |"]


def test_a_gpus_speed_is_shown_where_one_was_measured(tmp_path):
    columns = "task,loop,method,sparsity,precision,runs,images_per_second,ratio,peak_memory_mb"
    lines = ("cifar10-vgg16,plain,static,0.9,tf32,1,10000,1,400", "cifar10-vgg16,suite,gse_uniform,0.9,bf16,1,100000,10,480",
             "cifar10-vgg16,suite,gse_uniform,0.9,bf16,8,400000,40.04,2400", "cifar10-vgg16,suite,gse_uniform,0.9,fp32,8,1,1,1",
             "cifar10-vgg16,suite,st3,0.9,bf16,8,300000,30,2400")
    made(tmp_path, "throughput.csv", columns + ",device", *(f"{line},a core (1 thread)" for line in lines))
    path = tmp_path / "performance" / "throughput.csv"
    path.write_text(path.read_text().replace(",device,device,", ",device,second,"))
    assert readme.gpu(tmp_path) == "No rows yet."
    path.write_text(path.read_text().replace("a core (1 thread)", "a GPU"))
    lines = readme.gpu(tmp_path).splitlines()
    assert lines[2] == "| VGG-16, CIFAR-10, `gse_uniform` | 200 | 10,000 | 100,000 | 400,000 | 40.0 × | 100 | 25 | 300 |" and len(lines) == 5
    assert lines[-1].startswith("Measured: a GPU,")


def test_trainings_are_shown_where_both_storages_have_them(tmp_path):
    made(tmp_path, "sparse_training.csv", "method,task,width,sparsity,precision,storage,seed,epochs,top1,seconds,peak_memory_mb,prunable,nnz",
         "gse_uniform,digits-mlp,2.0,0.98,fp32,masked,0,30,90,10,900,5000,100", "gse_uniform,digits-mlp,2.0,0.98,fp32,masked,1,30,92,12,950,5000,100",
         "gse_uniform,digits-mlp,2.0,0.98,fp32,sparse,0,30,91,2,800,5000,100", "gse_uniform,digits-mlp,2.0,0.98,fp32,sparse,1,30,91,4,850,5000,100",
         "gse_uniform,digits-mlp,2.0,0.98,bf16,masked,0,30,80,7,900,5000,100",  # not of the same comparison
         "gse_uniform,digits-mlp,8.0,0.98,fp32,sparse,0,30,91,4,850,5000,100")
    assert readme.training(tmp_path).splitlines()[2:] == [
        "| MLP, digits, width × 2 | 5,000, 2 % | fp32 | 30 | 2 | 91.00 ± 1.41 | 91.00 ± 0.00 | 11.0 | 3.0 | 900 | 800 |"]


def test_check_changes_nothing_and_names_the_pages(tmp_path, monkeypatch, capsys):
    for page in readme.PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text((ROOT / page).read_text(encoding="utf-8"))
    (tmp_path / "README.md").write_text("<!-- digits -->\nold\n<!-- /digits -->\n")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    words = ["--results", str(ROOT / "results")]
    assert readme.main([*words, "--check"]) == 1 and capsys.readouterr().out.startswith("README.md differs")
    assert "old" in (tmp_path / "README.md").read_text()
    assert readme.main(words) == 0 and readme.main([*words, "--check"]) == 0 and "| `st3` |" in (tmp_path / "README.md").read_text()


def test_step_times_are_those_of_runs_that_are_alone_on_the_papers_network(tmp_path):
    (tmp_path / "performance").mkdir()
    lines = ["cifar10-resnet20,dense,1,1.0,0.0", "cifar10-resnet20,st3,1,1.024,0.95", "cifar10-resnet20,st3,8,1.5,0.95", "cifar10-vgg11,st3,1,1.3,0.95"]
    (tmp_path / "performance" / "overhead.csv").write_text(
        "\n".join(["task,method,runs,ratio,sparsity,precision,device,measured_at", *(f"{line},bf16,core,2026" for line in lines)]))
    assert measured.step_times(tmp_path) == {"dense": "1.00", "st3": "1.02"}


def test_times_are_those_of_the_machine_that_measured_most_and_of_two_such_the_last(tmp_path):
    import pandas as pd

    stored = measured.of_its_machine(pd.read_csv(ROOT / "results" / "performance" / "sparse_speed.csv"))
    (tmp_path / "performance").mkdir()
    for at, share, others in (("2000", 1, True), ("2100", 1, False), ("2100", 0.5, True)):
        another = stored.assign(device="another", ratio=7.0, measured_at=at).head(int(share * len(stored)))
        pd.concat([stored, another]).to_csv(tmp_path / "performance" / "sparse_speed.csv", index=False)
        assert (readme.sparse(tmp_path) == readme.sparse(ROOT / "results")) is others


def test_what_another_machine_measured_as_well_or_of_other_methods_moves_no_table(tmp_path):
    import pandas as pd

    stored = pd.read_csv(ROOT / "results" / "performance" / "sparse_speed.csv")
    (tmp_path / "performance").mkdir()
    others = [stored.assign(device="another", ratio=7.0, method=method) for method in ("snip", "mest")]
    own = measured.of_its_machine(stored)
    as_much = own[(own.method == "gse_uniform") & (own.task == "cifar10-vgg16")].assign(device="another", ratio=7.0, measured_at="2100")
    pd.concat([stored, as_much, *others]).to_csv(tmp_path / "performance" / "sparse_speed.csv", index=False)
    figure = importlib.import_module("sparse_figure1")
    assert set(figure.source(figure.grid, "digits", tmp_path)[0].device) == set(figure.source(figure.grid, "digits", ROOT / "results")[0].device)
    for table in (measured.sparse, measured.faster, measured.widths):
        assert table(tmp_path) == table(ROOT / "results")


@pytest.mark.parametrize("text", ["<!-- digits -->", "<!-- nothing -->\n<!-- /nothing -->"])
def test_a_wrong_mark_is_said(text, tmp_path):
    with pytest.raises(ValueError, match="<!--"):
        readme.filled(text, tmp_path)


@pytest.mark.parametrize("words, said", [(["--nope"], "unrecognized arguments"), (["--results", "/nowhere"], "/nowhere")])
def test_bad_arguments_are_one_line(words, said, capsys):
    assert readme.main(words) == 2 and said in (line := capsys.readouterr().err) and line.count("\n") == 1


def test_every_column_is_explained():
    """In the tables of results/README.md, and none that there is not; its example runs."""
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for name, columns in TABLES.items():
        table = page.partition(f"| `{name}.csv` |")[2].partition("\n\n")[0]
        explained = [column for line in table.splitlines()[2:] for column in re.findall(r"`(\w+)`", line.split("|")[1])]
        assert sorted(explained) == sorted(set(columns) - ({"key"} if name != "runs" else set()))
    code, = re.findall(r"```python\n(.*?)```", page, re.S)
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^st3 +NaN .* 9\d\.\d+ ", shown, re.M)
