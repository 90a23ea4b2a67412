"""What runs will cost: times a few steps of each kind of run on this machine (on a GPU with several runs in turns, as `launch` makes them)."""
import gc
import time
from dataclasses import replace

from benchmarks import data as datasets
from benchmarks.batches import DataError
from benchmarks.gpu.capture import WARM, recorder
from benchmarks.gpu.compiled import worthwhile
from benchmarks.gpu.pack import lanes_of
from benchmarks.levels import branches, levels_of, uncovered
from benchmarks.machine import lacks_memory, now, numerics, one_core, usable_device
from benchmarks.progress import duration, several, spoken
from benchmarks.tasks import settle
from benchmarks.train import evaluated_together
from benchmarks.trial.dry_run import told

LEAST, MOST, SECONDS = 3, 30, 1.0  # times LEAST to MOST steps: as many as fit in SECONDS


def estimate(specs, folder, pack=1, report=print, begun=()):
    """Seconds that the Specs take one after another on this device; reports a line for each kind of run, with the time that the estimate still takes.

    pack: number of runs that take turns on the device; their time is divided by it. begun: {a Spec's key: the share of its run that is done}.
    """
    one_core()
    specs, kinds, begun = uncovered(specs), {}, dict(begun)
    trunks = branches(specs)
    for spec in specs:
        if spec not in trunks:
            kinds.setdefault((replace(spec, seed=0, sparsity=0.0), len(levels_of(spec))), []).append(spec)
    total, began = 0.0, time.monotonic()
    gc.freeze()  # imports need not be searched for garbage after each kind
    for number, alike in enumerate(kinds.values(), 1):
        longest = max(alike, key=lambda spec: spec.sparsity)
        epochs = f"epochs={longest.epochs}" if longest.epochs else ""
        what = " ".join(filter(None, [longest.task, longest.method, longest.option_text, epochs]))
        try:
            seconds, together = as_many_as_fit(longest, folder, pack)
        except DataError:
            raise
        except (Exception, SystemExit) as error:  # a user's method may raise anything
            raise ValueError(f"{what} cannot be timed: {told(error, longest.method)}") from None
        gc.collect()  # frees runs that a method's reference cycles keep alive, on a GPU with their recordings
        parting = sum(trunk in alike for trunk in trunks.values())  # each of these makes only its last cycle itself
        last = seconds / len(levels_of(longest))
        spared = seconds * sum(begun.get(spec.key, 0.0) for spec in alike)
        total += seconds * len(alike) - spared + last * parting
        also = f", {parting} that part from them, of {spoken(last)}" * (parting > 0) + f"; {spoken(spared)} of them are done" * (spared > 0)
        also += f"; no memory for {pack} at a time, but for {together}" * (together < pack)
        to_go = duration((time.monotonic() - began) * (len(kinds) - number) / number)
        report(f"[{number}/{len(kinds)}, {to_go} to go] {what}: {several(len(alike), 'run')} of {spoken(seconds)}{also}")
    return total


def as_many_as_fit(spec, folder, pack):
    """Returns (`seconds_of` a run, how many take turns): `pack` of them, or half as many, and so on, if the device's memory is too small."""
    try:
        return seconds_of(spec, folder, usable_device(), pack), pack
    except Exception as error:
        if pack == 1 or not lacks_memory(error):
            raise
    gc.collect()
    return as_many_as_fit(spec, folder, pack // 2)


def seconds_of(spec, folder, device, pack=1):
    """Estimates the seconds of one run from its start, a few of its steps and an evaluation."""
    task, _ = settle(spec)
    numerics(task.precision, device)
    data = datasets.load_for(task, folder).to(device)
    record = recorder(task, device)

    def turns(number):
        """Seconds of so many turns of all runs."""
        began = time.perf_counter()
        for _ in range(number):
            for lane in lanes:
                lane.turn()
        return now(device) - began

    some = data.test.first(evaluated_together(data, device))
    if record and worthwhile(task, device):  # compiles first: once for all runs of a network, so it does not count
        (first,), trainers = lanes_of(spec, 1, data, device, record)
        first.turn()
        with first.alone():
            trainers.pop().evaluate(some)
        del first
    lanes, trainers = lanes_of(spec, pack, data, device, record)
    start = turns(1)
    for trainer in trainers:  # to the middle, where methods do what they do at most steps: they begin to rank only when sparsity rises
        total = trainer.training.total_steps
        trainer.training.step += max(0, min(total // 2, total - WARM - MOST - 2))
    turns(WARM + 1 if record else 1)
    times = [turns(1) for _ in range(LEAST)]
    while sum(times) < SECONDS and len(times) < MOST and not any(lane.ended for lane in lanes):
        times.append(turns(1))
    trainer, step = trainers[0], sorted(times)[len(times) // 2]
    began = time.monotonic()
    trainer.evaluate(some)
    images = (len(data.val) + len(data.test) / 2) if data.val else len(data.test)  # the test set only after an improvement
    evaluation = (time.monotonic() - began) * images / len(some)
    training = trainer.training
    epochs = training.all_epochs
    return (len(training.cycles) * (start - step) + epochs * training.steps_per_epoch * step) / pack + epochs * evaluation
