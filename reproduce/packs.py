"""What sharing a GPU brings: the seconds of one run of the recipe's length against the number of runs that take turns on the GPU.

Measured by benchmarks/throughput.py; readme.py makes a table of the same rows.
"""
from drawing import main
from marks import COLOURS, MARKERS, number_decades
from published import METHODS, network
from rows import NoRows, no_runs as grid, of_one_machine, stored

from benchmarks.tasks import DATASETS, TASKS

NETWORKS = ("cifar10-resnet20", "cifar10-resnet56", "cifar10-vgg16", "cifar10-vit")
CIFAR_IMAGES = 50_000  # training images, including those held out
NAMES = {method: name for name, method in METHODS.items()}
# bytes that 160 epochs of ResNet-20 move, as twelve passes in bf16, forward and backward, over the outputs of all convolutions; bytes/s
TRAFFIC, BANDWIDTH = 35e12, {"NVIDIA H200": 4.3e12}


def on_gpus(table):
    """The rows of the GPU that measured most, with the `epochs` of the recipe and the `seconds` of a run of that length, without evaluations."""
    rows = table[~table.device.str.contains("thread") & table.task.isin(NETWORKS)]
    if not len(rows):
        raise NoRows("no GPU has measured the packs; on one, make the rows with: python -m benchmarks.throughput")
    rows = of_one_machine(rows)
    epochs = rows.task.map(lambda task: TASKS[task].epochs)
    return rows.assign(epochs=epochs, seconds=(rows.task.map(images) / rows.images_per_second).round(3))


def images(task):
    """The number of images that a run of the recipe's length trains on, over all its epochs."""
    task = TASKS[task]
    return task.epochs * (CIFAR_IMAGES - DATASETS[task.dataset].held_out * task.validation)


def text(table):
    spread = (table[["ratio_low", "ratio_high"]].sub(table.ratio, axis=0).abs().max(axis=1) / table.ratio).max()
    lengths = "; ".join(f"{epochs} epochs: {', '.join(map(network, own.task.unique()))}" for epochs, own in table.groupby("epochs"))
    sparsities = ", ".join(f"{100 * s:g} %" for s in sorted(table.sparsity.unique()))
    return (f"CIFAR-10, {sparsities} sparsity. Measured: {', '.join(table.device.unique())}; torch "
            f"{', '.join(map(str, table.torch_version.unique()))}; bf16, batches of 128, steps without evaluations, medians of {table.rounds.min()} "
            f"or more rounds (quartiles of the ratio to a plain loop: up to {100 * spread:.1f} % from its median); {lengths}. Seconds a run: of all, "
            "divided by their number." + " Dashed: what ResNet-20 would take if the GPU did nothing but move its activations and their gradients "
            "(35 TB, twelve passes over the outputs of all convolutions)." * (table.device.iloc[0] in BANDWIDTH))


source = stored("performance/throughput.csv", "benchmarks.throughput", text, on_gpus)


def draw(table, figure):
    """Draws the table into the empty figure and returns it, with the memory of one run."""
    table = table[(table.loop == "suite") & (table.precision == "bf16")].sort_values("runs")
    table = table.assign(memory_mb=table.peak_memory_mb / table.runs)
    figure.set_size_inches(5.6, 2.9)
    times, memory = figure.subplots(1, 2)
    packs = sorted(table.runs.unique())
    lines = sorted(table.groupby(["task", "method", "sparsity"]), key=lambda line: NETWORKS.index(line[0][0]))
    for index, ((task, method, _), own) in enumerate(lines):
        look = dict(marker=MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)])
        times.plot(own.runs, own.seconds, label=f"{network(task)}, {NAMES.get(method, method)}", **look)
        memory.plot(own.runs, own.memory_mb, **look)
        if task == "cifar10-resnet20" and (bandwidth := BANDWIDTH.get(own.device.iloc[0])):
            times.axhline(TRAFFIC / bandwidth, color=COLOURS[index], linestyle=(0, (4, 2)), linewidth=0.8)
    times.set(yscale="log", ylabel="Seconds a run")
    memory.set(ylim=(0, None), ylabel="Memory a run (MB)")
    for axes in (times, memory):
        axes.set_xscale("log")
        axes.set_xticks(packs, [f"{runs:g}" for runs in packs])
        axes.minorticks_off()
        axes.set_xlabel("Runs at a time on one GPU")
    number_decades(times.yaxis, 1, 2, 5)
    return table


if __name__ == "__main__":
    raise SystemExit(main("packs", grid, draw, source=source))
