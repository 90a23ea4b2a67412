"""Finds what a method keeps that no checkpoint holds: a trial (`dry_run`) compares it before and after its steps."""
import contextlib
import io
import pickle

import torch

from methods.networks import tensors


def watch(method, found):
    """From now on, adds the names of attributes that are set on `method` to the set `found`, except for those that its state_dict holds."""
    own = type(method)

    def note(self, name, value):
        own.__setattr__(self, name, value)
        if name != "training" and name in vars(self):
            found.add(name)

    method.__class__ = type(own.__name__, (own,), {"__setattr__": note, "__module__": own.__module__})


def unheld(model):
    """{attribute: copies of its tensors} of a model's method, only those that no state_dict holds, neither themselves nor in a buffer's
    memory."""
    held = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values() if torch.is_tensor(tensor)}

    def own(value):
        plain = (tensor for tensor in tensors(value, set()) if tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_nested))
        return [tensor.detach().clone() for tensor in plain if tensor.untyped_storage().data_ptr() not in held]
    return {name: own(value) for name, value in vars(model.method).items() if name not in vars(torch.nn.Module())}


class Plain(pickle.Pickler):
    """Pickles values without their tensors, which `unheld` looks at."""

    def persistent_id(self, value):
        return "" if isinstance(value, (torch.Tensor, torch.nn.Module)) else None


def plain(method):
    """{attribute: its content without tensors (lists, dictionaries, NumPy's arrays and generators), as bytes}, for attributes that can be pickled.
    Empty for a method with an extra state, which may hold them."""
    found, known = {}, {*vars(torch.nn.Module()), "layout"}  # the layout caches what it has computed
    for name, value in vars(method).items() if type(method).get_extra_state is torch.nn.Module.get_extra_state else ():
        if name not in known:
            with contextlib.suppress(Exception):  # functions and others that cannot be pickled
                Plain(file := io.BytesIO()).dump(value)
                found[name] = file.getvalue()
    return found


def same(one, other):
    """Whether two lists of tensors have the same bits."""
    return [(tensor.dtype, tensor.shape, bits(tensor)) for tensor in one] == [(tensor.dtype, tensor.shape, bits(tensor)) for tensor in other]


def bits(tensor):
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
