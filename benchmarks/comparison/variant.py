"""Variants of methods, each in one text: "rigl", "rigl drop_fraction=0.1", "mine.py:Mine leak=0.5". Torch is imported only where it is needed."""
import re
from contextlib import suppress
from dataclasses import dataclass, replace

from benchmarks.grid import NEXT, Spec
from benchmarks.tasks import TASKS, canonical, suite_of


@dataclass(frozen=True)
class Variant:
    """A method with options of its own or of the task, pairs of text as they were given. `str` gives its text."""

    method: str
    options: tuple = ()

    @classmethod
    def read(cls, text, task):
        """The Variant that a text names. Raises ValueError for an unknown method, and for options that it cannot have on this task."""
        method, *pairs = (part.strip() for part in re.split(NEXT, text.strip()))
        if "=" in method and ":" not in method:
            raise ValueError(f'{method} comes after its method, both in quotes: "rigl {method}"')
        options = tuple(sorted(tuple(pair.split("=", 1)) for pair in pairs))
        for name in {"epochs", "precision"}.intersection(name for name, _ in options):
            raise ValueError(f"{name} is the same for all that are compared: --{name}")
        return replace(cls(method, options), method=canonical(Spec(task, method, 0.0, 0, options=options)).method)

    def __str__(self):
        return " ".join([self.method, *map("=".join, self.options)])

    def names(self, suite):
        """{(task, method, options)} on each of a suite's tasks, in the form that rows have: equal options have one text, and options equal to the
        recipe's are left out. Tasks that cannot have this Variant are left out."""
        found = set()
        for task in (task for task in TASKS if suite_of(task) == suite):
            with suppress(ValueError):
                spec = canonical(Spec(task, self.method, 0.0, 0, options=self.options))
                found.add((task, spec.method, spec.option_text))
        return found


def named(rows):
    """(task, method, options) of each row of a DataFrame, to be looked for in `Variant.names`."""
    return [*zip(rows.task, rows.method, rows.options)] if len(rows) else []
