"""What `SparseModel` needs of a plain network: the layout of its weights, its tensors, and its mistakes in words."""
import linecache
import traceback
from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import nn

from methods.layout import ASKED, UNNAMED, Layout
from methods.warn import warn

UNTOLD = 0.1  # weights that stay dense cause no warning up to this share of the prunable ones


def layout_of(net, skip, include, sparse=False):
    """The Layout of a network; sparse: for sparse storage. Raises ValueError as Layout does, for anything but a plain nn.Module, and for weights
    that are NaN or infinite; warns if many weights stay dense that nobody asked to leave dense."""
    if not isinstance(net, nn.Module):
        raise ValueError(f"the network must be an nn.Module, not {type(net).__name__}")
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(f"SparseModel takes the network itself: wrap the SparseModel instead, {type(net).__name__}(SparseModel(net, …))")
    if isinstance(net, torch.jit.ScriptModule):
        raise ValueError("SparseModel takes the plain network, not a scripted or traced one: script what export() gives")
    refuse_default_device()
    layout = Layout(net, skip, include)
    sizes = {name: net.get_parameter(name).numel() for name, reason in layout.dense if reason not in ASKED}
    left, count = sorted(sizes, key=sizes.get, reverse=True), sum(sizes.values())
    if count > layout.size * UNTOLD:
        names = ", ".join(left[:2]) + ", …" * (len(left) > 2)
        ways = "skip=[names] where it is meant"
        if not sparse and (unnamed := [name for name, reason in layout.dense if reason == UNNAMED]):
            ways += f", include=[names] to prune {unnamed[0]}{' and the like' * (len(unnamed) > 1)}, too"  # recurrent layers cannot be
        warn(f"{count} weights stay dense besides the {layout.size} that are pruned, whose share alone the sparsity is: {names} "
             f"(model.layout.dense says why; {ways})")
    for name, parameter in net.named_parameters():
        if not (parameter.is_meta or torch.isfinite(parameter).all()):
            raise ValueError(f"the network's weights contain NaN or infinity: {name}")
    return layout


def refuse_default_device():
    """Raises ValueError under torch.set_default_device, or a context of a device: what a method draws is the same on every device, for it draws on
    the CPU."""
    if (device := torch.empty(0).device).type != "cpu":
        raise ValueError(f"torch's default device is {device}, and methods draw on the CPU: leave it (torch.set_default_device('cpu')) and move the "
                         "network with .to(device)")


def explained(error, net=None, layers=None):
    """`error`, or one that says what to do, if it comes from .view() of a layer's output or from a weight that is not there; layers: {module: name of
    its weight} of those in `net` that never have one."""
    if "view size is not compatible" in str(error):
        return RuntimeError("convolutions give channels_last outputs here, and sparse storage's linear layers transposed ones, which .view() cannot "
                            "flatten: in the network's forward, write x.flatten(1) or x.reshape(...) instead")
    if "is a view and" in str(error) and "modified inplace" in str(error):
        return RuntimeError(f"{error} (if it is a weight, which the network's own forward changes: skip=[its name] leaves it dense)")
    if type(error) in (AttributeError, TypeError) and "NoneType" in str(error):
        if layers and (names := [name for module, name in layers.items() if module in read_by(error, net)]):
            return type(error)(f"{error} (a module reads the weight of a layer, which sparse storage has not; it stays dense with skip={names})")
        return type(error)(f"{error} (if it is a weight: those of a SparseModel are there in its own forward alone; skip=[its name] leaves one "
                           "dense that another module reads, and export() gives a network for all else)")
    return error


def read_by(error, net):
    """The modules whose weight is read in the line of a module's forward that raised an error, in all modules of its class in `net`; those modules
    and their children if the line names none."""
    frame, line = [place for place in traceback.walk_tb(error.__traceback__) if isinstance(place[0].f_locals.get("self"), nn.Module)][-1]
    text, modules, module = linecache.getline(frame.f_code.co_filename, line), [*net.modules()], frame.f_locals["self"]
    readers = [other for other in modules if type(other) is type(module)] if module in modules else []  # another network's may be called, too
    return ({part for reader in readers for name, part in reader.named_modules() if name and f".{name}.weight" in text}
            or {part for reader in readers for part in (reader, *reader.children())})


def addresses(views):
    """Where tensors {name: tensor} lie in memory; None in compilation and under torch.func, where they lie nowhere."""
    if not torch.compiler.is_compiling():
        with suppress(RuntimeError):
            return [view.data_ptr() for view in views.values()]


def detached(net):
    """{id: detached copy} of the tensors that the network keeps from its last pass (weight_norm does): deepcopy cannot copy their history."""
    seen = set()
    last = [t for m in net.modules() for t in tensors(vars(m), seen) if t.grad_fn is not None]
    return {id(t): t.detach().clone() for t in last}


def tensors(value, seen, objects=False):
    """The tensors in nested lists, tuples and dictionaries, which may contain themselves, and with `objects` in the attributes of other objects
    (a dataclass, say), but not of objects within those; seen: ids of what has been visited."""
    if torch.is_tensor(value):
        yield value
        return
    if isinstance(value, (list, tuple)):
        parts = value
    elif isinstance(value, Mapping):
        parts = value.values()
    elif objects and hasattr(value, "__dict__"):
        parts, objects = vars(value).values(), False
    else:
        return
    if id(value) not in seen:
        seen.add(id(value))
        for part in parts:
            yield from tensors(part, seen, objects)


def put(net, entry, weight):
    """Sets `weight` in all the places of an entry; None leaves them free for the sparse weights."""
    for module, name in entry.places(net):
        setattr(module, name, weight)


def order_of(layout):
    """The names and shapes of a layout's weights, in their order, as a tensor for a checkpoint: uint8, the bytes of the text."""
    lines = "\n".join(f"{entry.name} {'x'.join(map(str, entry.shape))}" for entry in layout.entries)
    return torch.tensor(list(lines.encode()), dtype=torch.uint8)


def differs(saved, own):
    """The first difference between two tensors of `order_of`, in words; "" if there is none."""
    if torch.equal(saved.cpu(), own.cpu()):
        return ""
    saved, own = (bytes(text.tolist()).decode().split("\n") for text in (saved, own))
    place = next((i for i, (one, other) in enumerate(zip(saved, own)) if one != other), min(len(saved), len(own)))
    one, other = (lines[place] if place < len(lines) else "nothing" for lines in (saved, own))
    return f"its weight {place + 1} is {one}, here {other}"
