"""Runs of several levels of sparsity (LRR, IMP, …): each gives rows for the lower levels, too, and some runs share cycles."""
from dataclasses import replace
from numbers import Real

from benchmarks.method_files import ask
from benchmarks.tasks import settle


def levels_of(spec):
    """The Specs for which a run of `spec` gives rows, `spec` itself last: more than one for methods that pass through levels of sparsity."""
    from methods import get
    _, options = settle(spec)
    levels = ask(spec.method, get(spec.method).levels, spec.sparsity, options)
    numbers = isinstance(levels, (list, tuple)) and all(isinstance(level, Real) for level in levels)
    if not numbers or not levels or round(levels[-1], 6) != round(spec.sparsity, 6):
        raise ValueError(f"levels() of {spec.method} must return the sparsities that a run passes, {spec.sparsity:g} the last, not {levels!r}")
    return [replace(spec, sparsity=round(level, 6)) for level in levels[:-1]] + [spec]


def uncovered(specs):
    """The Specs without those that are a level of another one's run."""
    covered = {level.key for spec in specs for level in levels_of(spec)[:-1]}
    return [spec for spec in specs if spec.key not in covered]


def branches(specs):
    """{branch: trunk}, both Specs: the branch shares all its cycles but the last with the trunk, and can start from where they part.

    The trunk is the longest run that passes these levels; it is not a branch itself.
    """
    longest = {}
    for spec in sorted(specs, key=lambda spec: (len(levels_of(spec)), spec.sparsity)):
        longest |= {level.key: spec for level in levels_of(spec)[:-1]}
    trunks = {spec: longest[levels_of(spec)[-2].key] for spec in specs if len(levels_of(spec)) > 1}
    return {spec: trunk for spec, trunk in trunks.items() if trunk != spec}
