"""The options that a method declares, and the message for an unknown name."""
import difflib
import math


class Option:
    """A declared option of a method: `option(first, *others)` allows these values, the first is the default; `option(number)` numbers from `least`
    to `most`, whole ones if the default is whole; `option(True)` true or false; `option("")` any text.

    help: what it means, and its unit; a redeclaration without help keeps that of the base class. Raises ValueError for a default of another type;
    `parse` for a value that is not allowed.
    """

    def __init__(self, default, *others, help="", least=0, most=math.inf):
        if type(default) not in (bool, int, float, str):  # exactly: NumPy's numbers and enumerations of texts are read otherwise
            raise ValueError(f"an option's default is True or False, a plain number or a text, not {default!r} ({type(default).__name__})")
        self.default, self.choices, self.help = default, (default, *others) if others else (), help
        self.least, self.most = least, most

    def __set_name__(self, owner, name):
        self.name, self.help = name, self.help or getattr(getattr(super(owner, owner), name, None), "help", "")  # redeclared: the base's

    def __get__(self, instance, owner):
        return self if instance is None else instance.chosen.get(self.name, self.default)

    def parse(self, value):
        """`value` (perhaps text) in this option's type; ValueError in one line if it is not one of its values."""
        kind = type(self.default)
        try:
            if kind is bool:
                parsed = {"true": True, "false": False}[str(value).lower()]
            elif kind is str:
                parsed = value if isinstance(value, str) else None
            else:
                number = float(value)
                fits = math.isfinite(number) and kind(number) == number and self.least <= number <= self.most
                parsed = kind(number) if fits and not isinstance(value, bool) else None
        except (KeyError, TypeError, ValueError):
            parsed = None
        if parsed is None or (self.choices and parsed not in self.choices):
            allowed = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
            if kind in (int, float):
                allowed += f" of at least {self.least:g}" * (self.least > -math.inf) + f" and at most {self.most:g}" * (self.most < math.inf)
            raise ValueError(f"option {self.name} takes {' or '.join(map(str, self.choices)) or allowed}, not {value!r}")
        return parsed


option = Option


def nearest(name, names, what):
    """The one-line message that `name` is unknown, with the nearest of `names`."""
    names = sorted(names)
    written = {known.lower(): known for known in names}  # papers write RigL, SNIP
    close = [written[known] for known in difflib.get_close_matches(name.lower(), written, n=3, cutoff=0.4)]
    return (f"unknown {what} {name!r}; " + (f"nearest: {', '.join(close)}" if close else f"known: {', '.join(names) or 'none'}")
            + " (several are separated by spaces)" * ("," in name))
