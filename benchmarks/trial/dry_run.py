"""A few training steps of a method, on its task's data and network, to find its mistakes before any long run starts."""
import contextlib
import io
import math
import numbers
import traceback
import warnings
from dataclasses import replace
from pathlib import Path

import torch

import methods
from benchmarks import data as datasets
from benchmarks.batches import AUGMENTATION, epoch_batches
from benchmarks.gpu import team
from benchmarks.gpu.capture import ANEW, WARM, recorder
from benchmarks.gpu.pack import Lane
from benchmarks.machine import one_core, usable_device
from benchmarks.method_files import file_of
from benchmarks.progress import several
from benchmarks.run import BESIDES, OUTSIDE
from benchmarks.tasks import settle
from benchmarks.train import Trainer
from benchmarks.trial.checks import computes_more, doubtful, forgotten, longer, misses, stale, uneven, unlogged, wrong
from benchmarks.trial.unsaved import plain, same, unheld, watch

REPLAYED = 3  # replayed steps, in addition to the WARM ones and the one in which both parts are recorded
STOPPED = "a training that was stopped cannot go on, for what the method keeps must be buffers, made in __init__: "
RATES = ("its hooks write the optimiser's \"lr\", which the training sets: where steps are recorded (on a GPU) only when it changes, so that what is "
         "written stays or is lost. Declare it, by Cycle(epochs, lr=…) or lr_scale in groups(), or multiply the gradient in before_step")
METHODS = Path(methods.__file__).resolve().parent


def dry_run(spec, folder, device=None, often=True):
    """Trains what `spec` names for one epoch of two steps (of its first cycle), in which its schedules reach their end. If steps are recorded (on a
    GPU), the epoch has as many steps as it takes to record both parts of a step and to replay some; it is then repeated twice with nothing recorded.
    Finally, it is repeated with a stop in the middle, to continue from the saved state. `often`: if the method has an `interval` that nobody chose,
    the interval becomes 1 (2 if steps are recorded, so that there are ordinary steps between), to try what it does rarely; the steps are doubled.

    folder: of the data sets. device: as for `machine.usable_device`. Raises ValueError, in one line, with the first mistake: an exception and
    where the method raised it, a step that cannot be recorded, a `forward` of another shape, NaN or infinity, no gradient, gradients that
    cost more than it says, a learning rate that it wrote, weights outside the mask, an invalid mask, a replayed step that differs from an
    unrecorded one, or a resumed training that differs from one that was not stopped. Returns two values. First, the names of the method's
    attributes that its steps set or change and that no checkpoint holds (two steps cannot show whether later ones need them). Second, in words,
    how its mask misses the budget, what may be meant but seldom is, or what goes wrong in the first steps of a second cycle, or None; it need not be
    a mistake, because a schedule counted in epochs or steps does not end in so few.
    """
    one_core()
    task, options = settle(spec)
    data = datasets.load_for(task, folder)
    device = usable_device(device)
    processes = team.wanted(task, device)
    task = replace(task, batch_size=max(task.batch_size // processes, 1))  # the part of a batch that one process has
    record = recorder(task, device) if processes == 1 else None
    steps = WARM + 2 + REPLAYED if record else 2
    often = brief(spec, 2 if record else 1) if often else {}
    steps, options = steps * (1 + bool(often)), {**options, **often}
    data = replace(data, train=data.train.first(steps * task.batch_size))
    arguments = replace(task, epochs=1), spec.method, spec.sparsity, spec.seed, options
    ways = [(record, False), (ANEW, False), (ANEW, False), (ANEW, True)] if record else [(None, False), (None, True)]
    trained, found, stopped, missed = [], set(), False, None
    try:
        for recording, stopped in ways:
            with Lane(None, device).alone():
                data = data.to(device)

                def make():
                    return Trainer(*arguments, data, device, recording)
                trainer = make()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # warnings about so few steps mean nothing
                    trainer.training.start()
                model, start = trainer.model, trainer.model.theta.detach().clone()
                # sparse storage makes another tensor of connections at each update
                places = {name: buffer.data_ptr() for name, buffer in model.method.named_buffers() if task.storage == "masked"}
                watch(model.method, found)
                before, contents = unheld(model), plain(model.method)
                trainer, mistake = some_steps(trainer, steps // 2 if stopped else None, make)
                found |= {name for name, values in unheld(model).items() if not same(values, before.get(name, values))}
                found |= {name for name, content in plain(model.method).items() if content != contents.get(name, content)}
                trained.append(trainer.model.theta.detach())
            if mistake:
                break
            missed = missed or misses(trainer.model.method, steps)
            if not stopped:  # else another Trainer went on
                missed = missed or doubtful(trainer.model, start, places)
        else:
            *recorded, anew, again, resumed = trained if record else [trained[0], *trained]
            mistake = stale(start, *recorded, anew, again) if recorded else None
            method = trainer.model.method
            mistake = mistake or forgotten(start, resumed, anew, again) or longer(method, task.epochs) or uneven(method, spec)
            if not mistake and not missed:
                with Lane(None, device).alone():
                    missed = in_second(trainer, spec.method)
    except (Exception, SystemExit) as error:  # a user's method may raise anything
        mistake = STOPPED * stopped + told(error, spec.method)
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the runs follow in other processes
    named = f"{spec.method} on {spec.task} at sparsity {spec.sparsity:g}{''.join(f', {name}={value}' for name, value in often.items())}: "
    if mistake:
        raise ValueError(named + " ".join(mistake.split()))
    return sorted(found), missed and named + " ".join(missed.split())


def brief(spec, interval):
    """{"interval": interval} for a trial of a Spec's method, if the method has such an option (a whole number of steps), accepts this value, and
    nobody chose one; else {}."""
    method, chosen = methods.get(spec.method), dict(spec.options)
    option = method.options().get("interval")
    if option is None or type(option.default) is not int or option.choices or not option.least <= interval <= option.most or "interval" in chosen:
        return {}
    try:
        method(methods.layout.Layout(torch.nn.Linear(8, 8)), 0.5, interval=interval)
    except ValueError:
        return {}
    except (Exception, SystemExit):  # not because of the interval: the trial will report it
        pass
    return {"interval": interval}


def gone_on(trainer, make):
    """A new Trainer with the state of this one, saved and loaded as in a checkpoint."""
    file, other = io.BytesIO(), make()
    torch.save(trainer.state_dict(), file)
    file.seek(0)
    try:
        other.load_state_dict(torch.load(file, map_location=trainer.device, weights_only=True))
    except Exception as error:
        raise ValueError(f"its state cannot be loaded ({error}): buffers must keep their shapes, and what is part of it, such as a network, must be "
                         "made in __init__") from error
    return other


def some_steps(trainer, stop=None, make=None):
    """Trains the first epoch of a cycle that has been started. Returns (the Trainer that ended it, the first mistake in words or None).

    stop: the step after which the training is stopped, and continued by another Trainer of `make()`.
    """
    task, data = trainer.task, trainer.data
    for step, (x, y) in enumerate(epoch_batches(data.train, data, task.batch_size, 0, 0, **AUGMENTATION[task.augmentation]), 1):
        mistake = wrong(trainer.model, step)
        if mistake:
            return trainer, mistake
        with besides(trainer) as made:
            trainer.step(x, y)
        if not trainer.model.training:
            return trainer, "its hooks leave the network in evaluation mode: run.model.train() ends it"
        if made["steps"] > 1:
            return trainer, f"its hooks take {several(made['steps'] - 1, 'step')} of the optimiser besides the one of update"
        if step > 1 and made["passes"] and not made["counted"]:
            return trainer, (f"its hooks pass {several(made['passes'], 'batch')} through the network, which nothing counts: by run.loss or "
                             "run.gradient they are, or say run.count_passes(number), or the training FLOPs miss them")
        if any(not math.isclose(group["lr"], trainer.rate * group.get("lr_scale", 1), rel_tol=1e-6) for group in trainer.optimizer.param_groups):
            return trainer, RATES
        if not all(p.isfinite().all() for p in trainer.training.parameters) or not trainer.loss_sum.isfinite():
            return trainer, f"the loss or the weights are NaN or infinity after step {step}"
        trainer = gone_on(trainer, make) if step == stop else trainer
    method = trainer.model.method
    outside = trainer.model.outside()
    if outside:
        return trainer, OUTSIDE.format(outside)
    if computes_more(trainer, x):
        return trainer, BESIDES.format("computes something else than", "")
    cost = method.training_cost(int(method.mask.sum()) / method.layout.size, 1.0)
    if not (isinstance(cost, numbers.Real) and 0 < cost < math.inf):
        return trainer, f"training_cost is {cost!r}, not a number of dense forward passes"
    return trainer, unlogged(method.logged())


@contextlib.contextmanager
def besides(trainer):
    """Counts what one update does, as a dictionary: "steps" of the optimiser, "passes" of a batch for gradients, and calls of `count_passes`
    ("counted"). Replayed parts are not counted."""
    training, made = trainer.training, {"steps": 0, "passes": 0, "counted": 0}

    def step(*_):
        made["steps"] += 1

    def one(*_):
        made["passes"] += training.updating and torch.is_grad_enabled()

    def count(number):
        made["counted"] += 1
        type(training).count_passes(training, number)
    hooks = [trainer.optimizer.register_step_pre_hook(step), trainer.model.net.register_forward_pre_hook(one)]
    training.count_passes = count
    try:
        yield made
    finally:
        del training.count_passes
        for hook in hooks:
            hook.remove()


def in_second(trainer, method):
    """In words, what goes wrong in as many steps of the second cycle, if there is one (perhaps only because the first one was so short); or None."""
    training = trainer.training
    if not any(cycle.first < cycle.epochs for cycle in training.cycles[1:2]):
        return None
    try:
        if trainer.model.method.keeps_best:
            training.snapshot("best")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            training.start(1)
        mistake = some_steps(trainer)[1]
    except (Exception, SystemExit) as error:
        mistake = told(error, method)
    return mistake and f"in the second cycle of a trial of a few steps: {mistake}; where that is so in a run, it fails"


def told(error, method):
    """An error and where the method raised it, in words."""
    hint = " (a network that contains the method, such as run.model, cannot be an attribute of it)" * isinstance(error, RecursionError)
    return f"{type(error).__name__}{place(error, method) or place(error.__cause__ or error, method) or place(error)}: {error}{hint}"


def place(error, method=None):
    """" in start (mine.py, line 12)": the last line in the method's own file that an error passed (without a method: in methods/); "" if none."""
    path = METHODS if method is None else Path(file_of(method) or ".").resolve()
    files = [(frame, Path(frame.filename).resolve()) for frame in traceback.extract_tb(error.__traceback__)]
    own = [f" in {frame.name} ({file.name}, line {frame.lineno})" for frame, file in files if path in (file, *file.parents)]
    return own[-1] if own else ""
