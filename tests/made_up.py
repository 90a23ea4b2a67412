"""Rows that are made up, for tests of figures; they are written into temporary folders only."""
import errno

from benchmarks.grid import Spec
from benchmarks.records import RUN_COLUMNS, TABLES, write_table
from benchmarks.suites import suite_grid
from benchmarks.tasks import TASKS

SHIFT = {0: -1.0, 1: 0.0, 2: 2.0}  # of seeds 0, 1, 2


def accuracy(spec):
    return 80 - 10 * spec.sparsity + len(spec.method) / 10 + SHIFT[spec.seed]


def row(spec, **changes):
    """A finished row; on GSE's tasks, which have no validation, with the last epoch's accuracy alone."""
    suite = spec.task.partition("-")[0]
    validated = TASKS[spec.task].validation if spec.task in TASKS else True
    epochs = spec.epochs or suite_grid(suite, "paper", ()).epochs or (TASKS[spec.task].epochs if spec.task in TASKS else 100)
    return dict.fromkeys(RUN_COLUMNS, "") | dict(
        key=spec.key, suite=suite, dataset=suite, task=spec.task, method=spec.method, options=spec.option_text, sparsity=spec.sparsity, seed=spec.seed, epochs=epochs,
        status="ok",
        top1=accuracy(spec) - 5 * validated, top1_best_val=accuracy(spec) if validated else "", macs=1e9 * (1 - spec.sparsity)) | changes


def keyed(row):
    """A row (dict) with the key of the run that it names."""
    options = [pair.split("=") for pair in str(row["options"] or "").split()]
    asked = float(row["sparsity"]), int(row["seed"]), int(row["epochs"]), row["precision"] or None
    return row | {"key": Spec(row["task"], row["method"], *asked, options).key}


def write_runs(path, columns, lines):
    """A table of runs with these columns and lines, texts, and their keys; what it lacks of a table's columns is empty."""
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines]
    write_table(path, RUN_COLUMNS, [keyed(dict.fromkeys(RUN_COLUMNS, "") | row) for row in rows])


def full(*_):
    """Instead of os.fsync: a disk that is full."""
    raise OSError(errno.ENOSPC, "No space left on device")


def contents(folder):
    """{file: bytes} of a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(folder, suite, specs, **changes):
    """Writes RESULTS/SUITE/*.csv with a finished row for each Spec, three epochs, two layers, and switches where they are counted."""
    specs = list(specs)
    lines = {"runs": [row(spec, **changes) for spec in specs]}
    lines["curves"] = [dict(key=spec.key, epoch=epoch, train_loss=1, train_top1=60 + epoch, val_top1=50 + epoch, test_top1=40 + epoch,
                            sparsity=spec.sparsity, lr=0.1) for spec in specs for epoch in range(3)]
    lines["layers"] = [dict(key=spec.key, layer=name, shape=shape, nnz=10, macs=1) for spec in specs
                       for name, shape in (("conv", "4x5x3x3"), ("fc", "10x64"))]
    lines["switches"] = [dict(key=spec.key, schedule="fixed" if "ramp_power" in dict(spec.options) else "cubic", group=group,
                              final_state=state, switches=switches, weights=100 // (switches + 1))
                         for spec in specs if "count_switches" in dict(spec.options) for group in range(4) for state in ("active", "zero") for switches in range(30)]
    for table, rows in lines.items():
        write_table(folder / suite / f"{table}.csv", TABLES[table], rows)
