"""`python tests/check_device.py [--device cuda] [PART ...]`: whether a device does what the tests show of a CPU, for every method and network.

A JSON line for each name, as soon as it is known; without "wrong" and "error" all is as it should be. The parts:

- methods: on digits. Steps that are recorded against the same ones made anew; a run resumed in its middle against one that was not stopped;
  two that take turns against one alone; bit for bit.
- networks: the same for the networks of CIFAR, on random images. (On a GPU the ViT's attention adds up in any order: it may differ.)
- sparse: training losses of sparse storage, here and on the CPU, which differ by rounding alone: by less than NEAR.
- ranking: exactly the same weights as on the CPU; milliseconds for 270,000 and 25 million, of which none or 98 % are tied.
- convolutions: the kernels for few channels (gpu/narrow.py), whose outputs and gradients differ from float64's by rounding alone.

Several processes work side by side, and what ends one of them (a recording that cannot be ended, a lost device) does not end the others.
"""
import io
import json
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import torch
from test_capture import carried, recorder, state_of
from test_every_method import VARIANTS, make, small_digits

import methods
from benchmarks.batches import random_images
from benchmarks.command import Parser, at_least_one, command
from benchmarks.gpu import capture, narrow
from benchmarks.gpu.pack import Lane
from benchmarks.grid import Spec
from benchmarks.machine import numerics, one_core, usable_device
from benchmarks.tasks import TASKS, settle
from benchmarks.train import Trainer
from benchmarks.workers.places import cores
from methods.ranking import keep

STEPS, RESUMED = 28, 10  # steps of a run, and after how many it is stopped and goes on; by then its steps are recorded
NEAR = 0.05
RANKED = (7, 1000, 300_000, 5_000_000)  # numbers of scores
SPARSE = ("static init=sparse", "set", "rigl", "srigl", "mest", "gse_uniform", "gse_grabo", "gse_graest", "snip")


class Run:
    """A run on a lane of its own, made by `build(record)` in its first turn."""

    def __init__(self, build, device, record=None, saved=None):
        def steps():
            self.trainer = build(record or self.recorder(device))
            if saved:
                self.trainer.load_state_dict(torch.load(io.BytesIO(saved), map_location=device, weights_only=True))
            yield from self.trainer.steps()
        self.lane = Lane(steps(), device)

    def recorder(self, device):
        return capture.cuda_graph if device.type == "cuda" else recorder(lambda: state_of(self.trainer))

    def turns(self, number):
        for _ in range(number):
            if not self.lane.ended:
                self.lane.turn()
        return self

    def saved(self):
        with self.lane.alone():
            torch.save(self.trainer.state_dict(), buffer := io.BytesIO())
        return buffer.getvalue()

    def differs(self, other):
        """How many tensors have other bits than those of another run."""
        if self.lane.stream:
            torch.cuda.synchronize()  # each works on a stream of its own
        pairs = list(zip(carried(self.trainer), carried(other.trainer), strict=True))
        wrong = sum(not torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in pairs)
        curves, others = (json.dumps(run.trainer.progress.curves) for run in (self, other))  # with NaN, which does not equal itself
        return f"{wrong} of {len(pairs)} tensors" if wrong else "curves" * (curves != others)


def compared(build, device):
    """{what: how it differs} of runs that should be the same."""
    run = Run(build, device).turns(RESUMED)
    recorded = run.trainer.forward_backward.replay and run.trainer.training.apply.replay  # a later cycle begins anew
    saved = run.saved()
    run.turns(STEPS - RESUMED)

    def packed():
        pack = [Run(build, device) for _ in range(2)]
        for _ in range(STEPS):
            for one in pack:
                one.turns(1)
        return run.differs(pack[0]) or run.differs(pack[1])
    wrong = {"recorded": run.differs(Run(build, device, capture.ANEW).turns(STEPS)) if recorded else "not recorded",
             "resumed": run.differs(Run(build, device, saved=saved).turns(STEPS - RESUMED)), "packed": packed()}
    wrong = {what: how for what, how in wrong.items() if how}
    return {"wrong": wrong} if wrong else {}


def check_method(name, device):
    data = small_digits().to(device)
    return compared(lambda record: make(name, record=record, data=data, device=device), device)


def check_network(name, device):
    return compared(network(name, device), device)


def network(name, device):
    """What makes a run of "task method precision"."""
    words, method, precision = name.split()
    task, options = settle(Spec(words, method, 0.9, 0, epochs=2, precision=precision, options={"interval": "3"} if method == "rigl" else {}))
    numerics(task.precision, device)
    data = random_images(task.dataset, 2000, 500, 500).to(device)
    return lambda record: Trainer(task, method, 0.9, 0, options, data, device, record)


def check_sparse(name, device):
    losses = {}
    for place in ("cpu", device):
        trainer = make(name, data=small_digits().to(place), device=place, storage="sparse")
        for _ in trainer.steps():
            pass
        losses[str(place)] = [round(curve["train_loss"], 3) for curve in trainer.progress.curves]
    here, there = losses.values() if len(losses) > 1 else 2 * [*losses.values()]
    same = len(here) == len(there) and all(abs(a - b) < NEAR for a, b in zip(here, there))  # NaN is near nothing
    return losses | ({} if same else {"wrong": "losses"})


def check_ranking(name, device):
    dtype, draw, wrong, ms = getattr(torch, name), torch.Generator().manual_seed(0), [], {}
    for n in RANKED:
        normal, few = torch.randn(n, generator=draw), torch.rand(n, generator=draw) < 0.02
        forms = {"": (50 * normal).to(dtype), " mostly tied": normal.masked_fill(~few, -1).to(dtype)}
        if dtype.is_floating_point:
            forms[" with infinities"] = normal.masked_fill(few, -torch.inf).masked_fill(few.roll(1), torch.inf).to(dtype)
            forms[" with zeros of both signs"] = (normal.sign() * 0).to(dtype)
        wrong += [f"{k} of {n}{form}" for form, score in forms.items() for k in (1, n // 3, n - 1)
                  if not torch.equal(keep(score, k), keep(score.to(device), k).cpu())]
    for n in (270_000, 25_000_000) if dtype == torch.float32 else ():
        score = torch.rand(n, device=device)
        for what, scores in (("none tied", score), ("98 % tied", score.masked_fill(torch.rand(n, device=device) < 0.98, -1))):
            for _ in range(3):  # the last counts
                began = int(keep(scores, n // 50).sum()) and time.perf_counter()
                int(keep(scores, n // 50).sum())
                ms[f"{n:,}, {what}"] = round(1e3 * (time.perf_counter() - began), 3)
    return ({"wrong": wrong} if wrong else {}) | ({"ms": ms} if ms else {})


def check_convolution(name, device):
    """name: "precision inputs outputs stride kernel side images"."""
    precision, *numbers = name.split()
    inputs, outputs, stride, size, side, images = map(int, numbers)
    draw, dtype = torch.Generator().manual_seed(0), {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    x, weight = (torch.randn(*shape, generator=draw).to(dtype) for shape in ((images, inputs, side, side), (outputs, inputs, size, size)))
    gradient = torch.randn(images, outputs, -(-side // stride), -(-side // stride), generator=draw).to(dtype)

    def computed(convolution, *tensors):
        x, weight, gradient = tensors
        x, weight = x.requires_grad_(), weight.requires_grad_()
        y = convolution(x, weight, None, stride, size // 2)
        return y.detach(), *torch.autograd.grad(y, (x, weight), gradient)
    ours = computed(narrow.conv2d, *(tensor.detach().to(device) for tensor in (x, weight, gradient)))
    exact = computed(torch.conv2d, *(tensor.detach().double() for tensor in (x, weight, gradient)))
    far = [float((one.cpu().double() - two).norm() / two.norm()) for one, two in zip(ours, exact)]
    most = {"bf16": 0.005, "fp32": 1e-5}[precision]
    wrong = {what: distance for what, distance in zip(("output", "at input", "at weights"), far) if not distance < most}
    return {"wrong": wrong} if wrong else {}


CONVOLUTIONS = ["3 16 1 3 32 128", "16 16 1 3 32 128", "16 32 2 3 32 128", "16 32 2 1 32 128", "32 32 1 3 16 128", "33 40 2 3 15 7",
                "32 64 2 3 16 128", "32 64 2 1 16 128", "64 64 1 3 8 128", "64 64 1 3 32 128"]
CIFAR = [task for task, recipe in TASKS.items() if recipe.dataset.startswith("cifar")]
PARTS = {  # names, and what checks one
    "methods": ([*methods.available(), *VARIANTS], check_method),
    "networks": ([f"{task} {words}" for task in CIFAR for words in ("st3 bf16", "rigl fp32")] + ["cifar10-vgg16 probmask bf16", "cifar10-resnet20 dnw tf32"],
                 check_network),
    "sparse": (list(SPARSE), check_sparse),
    "convolutions": ([f"{precision} {numbers}" for precision in ("bf16", "fp32") for numbers in CONVOLUTIONS], check_convolution),
    "ranking": (["float32", "float64", "bfloat16", "int64", "int32"], check_ranking),
}


def child(part, device, names):
    """Prints what each name's check says. Ends after a mistake that may have left the device unusable."""
    one_core()
    numerics("fp32", device)  # as in the runs of digits
    for name in names:
        began = time.perf_counter()
        try:
            said = PARTS[part][1](name, device)
        except Exception as error:
            traceback.print_exc()
            said = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(json.dumps({"part": part, "name": name, **said, "seconds": round(time.perf_counter() - began, 1)}), flush=True)
        if "error" in said:
            os._exit(1)  # without asking the device for anything more


def parent(part, device, names):
    """Has a child check the names, and another what it leaves. Returns how many are wrong."""
    wrong = 0
    while names:
        left = len(names)
        with subprocess.Popen([sys.executable, __file__, "--device", device, part, "--names", *names], stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                wrong += not {"wrong", "error"}.isdisjoint(json.loads(line))
                names = names[1:]
        if names and (process.returncode != 1 or len(names) == left):  # 1 is what a child returns that has found something wrong
            print(json.dumps({"part": part, "name": names[0], "error": f"its process ended with status {process.returncode}"}), flush=True)
            names, wrong = names[1:], wrong + 1
    return wrong


@command
def main(words=None):
    parser = Parser(prog="check_device.py", description="Check a device with every method and network.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--processes", type=int, default=max(6, min(12, cores())), help="side by side (default: as many as cores, from 6 to 12)")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of one part, alone, in one process")
    words = parser.parse_args(words)
    at_least_one(words, "processes")
    if unknown := [part for part in words.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; parts: {', '.join(PARTS)}")
    if words.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here; try it with --device cpu")
    if words.names:
        return child(words.parts[0], usable_device(words.device), words.names)
    if not words.device.startswith("cuda"):  # opened here, a GPU would lack memory for the children
        usable_device(words.device)
    wrong = 0
    for part in words.parts or PARTS:
        names = PARTS[part][0]
        with ThreadPoolExecutor(words.processes) as pool:
            wrong += sum(pool.map(lambda first: parent(part, words.device, names[first::words.processes]), range(words.processes)))
    print(f"{wrong} wrong", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
