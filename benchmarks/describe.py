"""The contents of a run's row: what was run, where and when, and for a trained network its result and costs."""
from functools import cache

import torch

from benchmarks.cost import layer_macs, layout_of, shapes_of, training_cost
from benchmarks.machine import code_version, peak_memory
from benchmarks.method_files import mark
from benchmarks.records import RUN_COLUMNS, moment
from benchmarks.tasks import mark_of_suite, suite_of


def describe(spec, task, trainer, cycles, status, error, alone=True):
    """(row, lines of layers.csv) of a trained run. alone: no other run has shared its device. Otherwise its memory and step time on a
    GPU are unknown, and only the sum of the seconds of all runs that shared the GPU is meaningful."""
    model, progress, layout = trainer.model, trainer.progress, trainer.model.layout
    macs = macs_of(task, trainer.data)
    nnz, of = [int(n) for n in model.layer_nnz()], [sum(macs[name] for name in e.names) for e in layout.entries]
    layers = [{"layer": e.name, "shape": "x".join(map(str, e.shape)), "nnz": n, "macs": round(dense * n / e.size)}
              for e, n, dense in zip(layout.entries, nnz, of)]
    left_dense = sum(macs.values()) - sum(of)
    last = progress.curves[-1] if progress.curves else {}
    done, known = status == "ok", alone or trainer.device.type != "cuda"
    memory = peak_memory(trainer.device) if known else None
    row = identity(spec, task)
    row.update(
        cycles=cycles, status=status, error=error, top1=last.get("test_top1") if done else None,
        top1_best_val=progress.test_at_best if done else None, val_top1=progress.best_val if done and progress.best_val >= 0 else None,
        loss=last.get("train_loss"), nnz=sum(nnz), prunable=layout.size, achieved_sparsity=1 - sum(nnz) / layout.size,
        zeros=model.zeros() if done else None, parameters=layout.size + layout.others,
        macs=sum(line["macs"] for line in layers) + left_dense, dense_macs=sum(macs.values()), train_flops_fraction=training_cost(trainer, macs),
        seconds=round(progress.seconds, 2), step_ms=round(1e3 * progress.step_seconds / max(progress.steps, 1), 3) if known else None,
        peak_memory_mb=None if memory is None else round(memory),
        **{column: "; ".join(values) for column, values in progress.origins.items()})
    return row, layers


@cache
def _macs(model, classes, width, shape):
    net = shapes_of(model, classes, width)
    try:
        modules = dict(net.named_modules())  # in_proj of nn.MultiheadAttention is none, but the weight in_proj_weight
        macs = {f"{name}.weight".lstrip(".") if name in modules else f"{name}_weight": count for name, count in layer_macs(net, shape).items()}
        with torch.no_grad():
            output = net.eval()(torch.empty(1, *shape, device="meta"))
    except Exception as error:
        what = f"{type(error).__name__}: " * (not isinstance(error, RuntimeError)) + f"{error}".partition("\n")[0]
        raise ValueError(f"{model} takes no images of {'×'.join(map(str, shape))}: {what}") from None
    if not torch.is_tensor(output) or output.shape != (1, classes):
        given = f"a tensor {tuple(output.shape)}" if torch.is_tensor(output) else type(output).__name__
        raise ValueError(f"{model} gives for one image {given}, not a tensor (1, {classes}): a number for each class")
    return macs


def macs_of(task, data):
    """Dense multiply-accumulates for one image, {weight name: count}. Raises ValueError for a network that takes no such images, or a pruned weight
    whose products are not counted."""
    macs = _macs(task.model, data.classes, task.width, data.shape)
    if unknown := [name for entry in layout_of(task, data.classes).entries for name in entry.names if name not in macs]:
        raise ValueError(f"include: the products of {unknown[0]} cannot be counted, only those of linear and convolutional layers and "
                         f"in_proj_weight; skip=({unknown[0]!r},) leaves it dense")
    return macs


def code_of(spec):
    """What a row says about the code: its version and, for a method or a suite from a user's file, the file's name and a hash of its content."""
    return ", ".join(filter(None, (code_version(), mark(spec.method), mark_of_suite(spec.task))))


def identity(spec, task):
    """The columns that say what was run, where and when; with the measured ones empty."""
    return dict.fromkeys(RUN_COLUMNS) | dict(
        key=spec.key, suite=suite_of(spec.task), task=spec.task, dataset=task.dataset, model=task.model, method=spec.method,
        options=spec.option_text, sparsity=spec.sparsity, seed=spec.seed, epochs=task.epochs, precision=task.precision, status="ok", error="",
        torch_version=torch.__version__, code_version=code_of(spec), finished_at=moment())
