"""Counters of switches (ST-3, figure 6): exact, resumable, without any effect on the run, and drawn."""
import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch
from stored import record, table, timeless

from benchmarks import data as datasets
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.run import run
from benchmarks.switches import Switches, schedule_of
from benchmarks.tasks import settle
from benchmarks.train import Trainer
from methods import get

PLAIN = Spec("digits", "st3", 0.9, 0, epochs=4)
COUNTED = replace(PLAIN, options={"count_switches": True})


def trainer(spec):
    task, options = settle(spec)
    return Trainer(task, spec.method, spec.sparsity, spec.seed, options, datasets.load("digits", "data"))


def by_hand(spec):
    """(counts (4, N) from the masks before and after every step, the Trainer)."""
    run, masks, step = trainer(spec), [], 0
    original = run.training.update

    def watched(batch):
        nonlocal step
        before = run.model.method.mask.clone()
        original(batch)
        masks.append((4 * (step // run.training.steps_per_epoch) // spec.epochs, before != run.model.method.mask))
        step += 1

    run.training.update = watched
    run.run()
    return torch.stack([sum(changed.int() for quarter, changed in masks if quarter == q) for q in range(4)]), run


@pytest.mark.parametrize("options", [{}, {"ramp_power": 0.0}])
def test_counts_are_those_of_the_masks(options):
    counts, run = by_hand(replace(COUNTED, options={"count_switches": True, **options}))
    assert torch.equal(run.switches.counts, counts) and counts.sum() > 1000


def test_lines_hold_every_weight_once_in_each_quarter():
    switches, mask = Switches(5), torch.tensor([True, True, False, False, False])
    for changed in ([1, 0, 1, 0, 0], [1, 0, 1, 0, 1]):
        switches.add(3, mask, mask ^ torch.tensor(changed, dtype=torch.bool))
    lines = switches.lines("fixed", mask)
    assert switches.counts.dtype == torch.int32 and all(isinstance(line["switches"], int) for line in lines)
    assert all(sum(line["weights"] for line in lines if line["group"] == group) == 5 for group in range(4))
    assert Counter((line["final_state"], line["switches"], line["weights"]) for line in lines if line["group"] == 3) == Counter(
        [("active", 0, 1), ("active", 2, 1), ("zero", 0, 1), ("zero", 1, 1), ("zero", 2, 1)])


def test_groups_are_quarters_of_the_epochs():
    assert [Switches.group(epoch, 160) for epoch in (0, 39, 40, 79, 80, 159)] == [0, 0, 1, 1, 2, 3]
    assert [Switches.group(epoch, 6) for epoch in range(6)] == [0, 0, 1, 2, 2, 3]  # the quarter in which an epoch begins


def test_schedules():
    layout = trainer(PLAIN).model.layout
    assert schedule_of(get("st3")(layout, 0.9)) == "cubic"
    assert schedule_of(get("st3")(layout, 0.9, ramp_power=0.0)) == schedule_of(get("rigl")(layout, 0.9)) == "fixed"


def test_a_resumed_run_counts_the_same():
    whole = trainer(COUNTED).run()
    states = []

    def stop(run):
        states.append(copy.deepcopy(run.state_dict()))
        if len(states) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(COUNTED).run(save=stop)
    resumed = trainer(COUNTED)
    resumed.load_state_dict(states[-1])
    assert 0 < resumed.switches.counts.sum() < whole.switches.counts.sum()
    assert torch.equal(resumed.run().switches.counts, whole.switches.counts)


def test_the_row_is_the_same_with_and_without_counting(tmp_path):
    store = Store(tmp_path)
    rows = [timeless(run(spec, store)) for spec in (PLAIN, COUNTED)]
    assert rows[0]["options"] == "" and rows[1]["options"] == "count_switches=True"
    assert rows[0] == {**rows[1], "key": PLAIN.key, "options": ""}
    plain, counted = (record(store, spec) for spec in (PLAIN, COUNTED))
    for name in ("curves", "layers"):
        assert [{**line, "key": ""} for line in plain[name]] == [{**line, "key": ""} for line in counted[name]]
    assert plain["switches"] == [] and {line["schedule"] for line in counted["switches"]} == {"cubic"}
    store.collect("digits")
    lines = table(store, "switches")
    assert {line["key"] for line in lines} == {COUNTED.key}
    assert sum(int(line["weights"]) for line in lines) == 4 * 19_408
    assert sum(int(line["weights"]) for line in lines if line["final_state"] == "active") == 4 * rows[1]["nnz"]
