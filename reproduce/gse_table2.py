"""GSE, Table 2: test accuracy of always-sparse training on ImageNet, ResNet-50, beside what its predecessors published.

Only the dense network and GSE are runs of ours (100 epochs), GSE with an assumed recipe (recipe=original: the paper's text was not available).
The others are their papers' values, in brackets, each in its authors' setting; without runs of ours they are drawn alone. The numbers that GSE's
paper gives were not available.
"""
from dataclasses import replace

from drawing import main
from gse import text_table
from published import beside_published, published, settings, title
from rows import runs_of, summary

from benchmarks.grid import union
from benchmarks.suites import suite_grid

METHODS = {"dense": "Dense", "static": "Static (ERK)", "dsr": "DSR", "snfs": "SNFS", "set": "SET (uniform)", "rigl": "RigL (ERK)",
           "topkast": "Top-KAST", "gse_uniform recipe=original": "GSE (uniform)"}
# {(paper, method): how the name of the variant that is shown starts}
LITERATURE = {("rigl", "dense"): "", ("rigl", "static"): "ERK", ("dsr", "dsr"): "", ("snfs", "snfs"): "as reported", ("rigl", "set"): "uniform",
              ("rigl", "rigl"): "ERK", ("topkast", "topkast"): ""}
SPARSITIES = (0.8, 0.9, 0.95)
CAVEATS = "; Top-KAST's as SRigL's authors quote it, perhaps at another pair of sparsities; of GSE no numbers are at hand."


def grid(suite, profile):
    """The runs of our own that the table shows."""
    if suite != "imagenet":
        return ()
    dense, own = (replace(suite_grid(suite, profile, (method,)), sparsities=SPARSITIES) for method in ("dense", "gse_uniform"))
    return union(dense, replace(own, options={"recipe": "original"}))


def literature():
    """The published values."""
    rows = published(beyond=True)
    rows = settings(rows[(rows.task == "imagenet-resnet50") & (rows.options == "")], LITERATURE).drop_duplicates(["method", "sparsity"])
    return rows[rows.sparsity.isin((0, *SPARSITIES))].drop(columns=["variant", "macs", "macs_fraction", "train_flops"])


source = beside_published(CAVEATS)(runs_of)  # the published values are shown even without runs of ours


def draw(runs, figure):
    """Draws the table into the empty figure and returns it."""
    import pandas as pd

    table = pd.concat([part for part in (summary(runs), literature()) if len(part)], ignore_index=True)
    columns = [(f"{100 * s:g} %", lambda t, s=s: (t.sparsity == s) | (t.method == "dense")) for s in SPARSITIES]
    return text_table(figure, table, METHODS, [columns], f"{title('imagenet-resnet50')}\nTest accuracy (%)")


draw.lead = ("Mean ± s.d. over {seeds}; test accuracy at the last epoch. Dense by the suite's recipe, GSE by an assumed one: of its own "
             "γ = 2, 100 epochs, warm-up and label smoothing are known.")


if __name__ == "__main__":
    raise SystemExit(main("gse_table2", grid, draw, source=source))
