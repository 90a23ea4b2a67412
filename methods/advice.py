"""What a training warns of, or refuses, before it goes wrong without a word."""
from methods.processes import differing, world_size
from methods.warn import warn

COLLAPSED = ("after {steps} steps no gradient reaches {lost} of {all} pruned layers ({names}): they do not learn, because no path of active weights "
             "leads through them from input to output; a lower sparsity or another distribution over the layers leaves one")
LOOKED = 20  # steps into a cycle; in the first ones, a network whose blocks start at zero has no gradients before these either


def warn_of_groups(training):
    """Warns if parameters of the method that need other settings than theta are in its group, if theta gets no weight decay, as if it were a bias,
    and if the optimiser wraps another one, whose state the method does not reach."""
    optimizer, method = training.optimizer, training.method
    group = next(g for g in optimizer.param_groups if any(p is training.theta for p in g["params"]))
    for own in training.model.own_groups():
        other = any({"lr_scale": 1, **group}.get(name, value) != value for name, value in own.items() if name != "params")
        if other and any(p is held for p in own["params"] for held in group["params"]):
            warn(f"{method.called} has parameters that are to be trained otherwise than the weights: build the optimiser over "
                 "model.parameter_groups(lr) instead of model.parameters()")
    learned = {id(p) for p in method.parameters()}
    decaying = [{id(p) for p in g["params"]} for g in optimizer.param_groups if g.get("weight_decay")]
    if group.get("weight_decay") == 0 and any(not held or held - learned for held in decaying):
        warn("theta, all prunable weights, is in a group without weight decay beside one with it: code that groups parameters by "
             "dimension takes it for a bias; give it its weight decay by name")
    if hasattr(optimizer, "base_optimizer"):
        warn(f"{type(optimizer).__name__} wraps another optimiser, whose momentum {method.called} does not reach: give Training the one within, "
             "base_optimizer (examples/README.md, your own loop)")


def warn_of_first_step(training):
    """Warns at a cycle's first update of a network in evaluation mode, and of a resumed model whose training was not."""
    if not training.model.net.training:
        warn("the network is in evaluation mode, as where it was when SparseModel took it: call model.train() before the loop")
    if training.model.loaded and not training.loaded:
        warn("a state was loaded into the model after start(), and the training is at its first step: to resume, load the training's state_dict, too, "
             "in place of start()")


def warn_of_collapse(training):
    """Warns if the gradients of a pruned layer, or with straight-through gradients of all of them, are zero: a training of hours may end at
    chance (layer collapse; Tanaka et al. 2020)."""
    model = training.model
    counts = zip(model.layout.entries, model.layer_nnz().tolist(), model.layer_sums(training.theta.grad != 0).tolist())
    pruned = {entry.name: hits for entry, nnz, hits in counts if nnz < entry.size}
    lost = [name for name, hits in pruned.items() if not hits]
    # where gradients reach pruned weights too, those that they reach in one layer may open the paths of the others again
    if lost and (training.method.gradient == "masked" or len(lost) == len(pruned)):
        warn(COLLAPSED.format(steps=LOOKED, lost=len(lost), all=len(pruned), names=", ".join([*lost[:3], *["…"] * (len(lost) > 3)])))


def refuse_shards(model, optimizer):
    """Raises ValueError if theta, or the optimiser's state of it, is shared out over processes: methods rank and clear all of it."""
    use, mask = "train with DistributedDataParallel and an ordinary optimiser (examples/README.md, several GPUs)", model.method.mask
    if hasattr(model.theta, "full_tensor") or mask.dim() and mask.shape != model.theta.shape:  # of FSDP's two forms
        raise ValueError(f"FSDP leaves each process a part of theta, which {model.method.called} has to rank as a whole: {use}")
    if any(base.__name__ == "ZeroRedundancyOptimizer" for base in type(optimizer).__mro__):
        raise ValueError(f"ZeroRedundancyOptimizer has a part of the momentum in each process, and {model.method.called} must reach all of it: {use}")


def refuse_processes(model, group=None):
    """Raises ValueError where several processes would train a model with sparse storage together: each would have a graph of its own, and weights of
    another number."""
    if world_size(group) > 1 and hasattr(model.method, "keys"):
        raise ValueError("sparse storage trains in one process: for several take storage='masked', or, if each trains a network of its own, give "
                         "Training group=False")


def refuse_strangers(training):
    """Raises ValueError if processes that would train one model together have other networks, methods, lengths or seeds; warns if their weights
    differ, because all go on with those of the first."""
    together = world_size(training.group)
    if together == 1:
        return
    model, method = training.model, training.method
    must = {"network": [(entry.name, entry.shape) for entry in model.layout.entries], "method": (method.called, method.sparsity, method.chosen),
            "epochs": training.all_epochs, "steps_per_epoch": training.steps_per_epoch, "seed": training.seed}
    differ = differing({**must, "weights": float(model.theta.detach().double().sum())}, model.theta.device, training.group)
    alone = "if each trains a network of its own, give Training group=False (examples/README.md, several GPUs)"
    if refused := [name for name in differ if name in must]:
        raise ValueError(f"{together} processes train one network together, but differ in {', '.join(refused)}; {alone}")
    if differ:
        warn(f"{together} processes train one network together, but differ in weights: all go on with those of the first; {alone}")


def refuse_later_weights(model):
    """Raises ValueError if a layer has been given a weight, or replaced by another layer, since the SparseModel took the network: theta would go on
    in its place, or be left out."""
    model.recover()
    for entry in model.layout.entries:
        if any(module._parameters.get(name) is not None for module, name in entry.places(model.net)):
            raise ValueError(f"{entry.name} was given after SparseModel had taken the network, whose weights are theta since: load weights and "
                             "replace layers before")


def why_not(model, more=True):
    """Why a model has more (or, if not `more`, fewer) weights than were asked for, in words."""
    training, method = model.trained_by and model.trained_by(), model.method
    if model.cycles_left:
        return (f"of the cycles that {method.called} trains, {model.cycles_left} were not begun: training.start(cycle) begins the next "
                "(examples/README.md, methods of several cycles)")
    if training and training.step < training.total_steps:
        return ("its training has not come to the end of its schedule: "
                f"{training.step} of {training.total_steps} updates were made; steps_per_epoch counts calls of update()")
    if not method.exact:
        return f"where {method.called} ends depends on its options, too"
    if not more:
        return "its mask is that of another sparsity"
    if training and model.loaded:
        return "the state that was loaded last is of an earlier moment of the training, with the mask of that moment"
    if training:
        return f"{method.called} did not reach them in all of its schedule"
    return ("its training has not come to the end of its schedule, or it is an average of models, which has to leave out their buffers "
            "(use_buffers=False)")
