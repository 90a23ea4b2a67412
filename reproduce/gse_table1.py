"""GSE, Table 1: test accuracy of dense, pruned and always-sparse training at 90, 95 and 98 %.

CIFAR-10 and CIFAR-100, three networks, 200 epochs. Published, where the supplement's figures 5 and 6 give it: in brackets. Dense
training starts like all others (the paper's program for it starts from PyTorch's weights, with 5 epochs of warm-up). Suite digits, and
cifar10 in profile quick: the same in miniature.
"""
from drawing import main
from gse import SPARSITIES, gse_grid, not_the_papers, sparse_too, text_table
from published import hollow, title
from rows import summary

from benchmarks.tasks import suite_of

METHODS = {"dense": "Dense", "gradual": "Gradual", "imp": "Lottery", "static": "Static", "snip": "SNIP", "grasp": "GraSP",
           "synflow": "SynFlow", "set": "SET", "rigl": "RigL", "topkast": "Top-KAST", "gse_uniform": "GSE (uniform)"}


def grid(suite, profile):
    """The runs that the table needs."""
    return gse_grid(suite, profile, METHODS)


source = sparse_too(METHODS)


def draw(runs, figure):
    """Draws the table into the empty figure and returns it."""
    import pandas as pd

    not_the_papers(runs)
    table = pd.concat([summary(runs), hollow(runs, METHODS)], ignore_index=True)
    blocks, tasks, head = {}, runs.task.unique(), "Test accuracy (%)"
    for task in tasks:
        name = title(task).replace(", ", "\n") + "\n" if len(tasks) > 1 else ""
        blocks.setdefault(suite_of(task), []).extend(
            (f"{name}{100 * s:g} %", lambda t, task=task, s=s: (t.task == task) & ((t.sparsity == s) | (t.method == "dense")))
            for s in SPARSITIES)
    return text_table(figure, table, METHODS, list(blocks.values()), head if len(tasks) > 1 else f"{title(tasks[0])}\n{head}")


draw.labels = METHODS

if __name__ == "__main__":
    raise SystemExit(main("gse_table1", grid, draw, source=source))
