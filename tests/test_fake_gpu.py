"""Every method and every network with the tensors of a GPU, as far as that goes without one (fake_gpu.py)."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fake_gpu import UNABLE
from test_every_method import VARIANTS

from benchmarks.tasks import TASKS
from methods import available

MORE = ("st3 rescale=paper", "st3 threshold=topk_exact rescale=off", "st3_sigma norm=fan_in", "str straight_through=true", "feather p=1",
        "gmp ramp_granularity=epoch", "movement scope=layer", "probmask form=st3code", "dnw count_switches=true", "rigl augmentation=gse")
NAMES = [*available(), *VARIANTS, *MORE, *{task.model: f"{task.model} {task.dataset}" for task in TASKS.values()}.values()]
TESTS = Path(__file__).parent
WAITS = '''
import torch
from methods import get


class Looks(get("st3")):
    def after_step(self, run):
        super().after_step(run)
        if self.mask.sum() < 3:
            self.mask.fill_(True)


class Copies(get("st3")):
    def before_step(self, run):
        run.theta.grad.mul_(torch.tensor([0.5], device=run.theta.device))


class Fetches(get("st3")):
    def before_step(self, run):
        run.theta.grad[:3].cpu()


class Recorded(get("st3")):
    def rank(self, theta, kept, share):
        super().rank(theta, int(kept), share)


class Elsewhere(get("st3")):
    def start(self, run, cycle):
        super().start(run, cycle)
        self.factor = torch.rand(len(run.theta))

    def forward(self, theta):
        return super().forward(theta) * self.factor
'''

WRONG = {  # what is wrong with each of these
    "Looks": "an ordinary step waits for the device", "Copies": "an ordinary step waits for the device: ['a copy",
    "Fetches": "an ordinary step waits for the device: ['a copy", "Recorded": "a recorded part waits for the device: ['capture.py",
    "Elsewhere": "cpu"}


def problems(*names):
    done = subprocess.run([sys.executable, TESTS / "fake_gpu.py", *names], capture_output=True, text=True, timeout=3600,
                          env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"})
    if done.returncode == UNABLE and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12):  # which is known to be able
        pytest.skip(f"torch {torch.__version__} makes no tensors of a GPU that is not there")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{name: what is wrong}, of all in one process."""
    path = tmp_path_factory.mktemp("methods") / "mine.py"
    path.write_text(WAITS)
    return problems(*NAMES, *(f"{path}:{name}" for name in WRONG))


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_to_its_device_and_waits_for_it_between_steps_alone(name, found):
    assert found[name] == ""


@pytest.mark.parametrize("name", WRONG)
def test_what_waits_and_what_mixes_devices_is_found(name, found):
    text, = (text for known, text in found.items() if known.endswith(f"mine.py:{name}"))
    assert WRONG[name] in text
