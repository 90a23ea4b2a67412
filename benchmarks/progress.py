"""What users read of runs: their names, numbers and times in words, and their progress, a bar on a terminal, otherwise a line now and then."""
import contextlib
import re
import sys
import threading
import time
from datetime import timedelta

EVERY = 300  # seconds between the lines
UNITS = ("days", 86400, 3), ("hours", 3600, 2), ("minutes", 60, 2)  # (name, its seconds, the number from which on it is used)


def title(spec):
    """A short title of a run."""
    options = f" {spec.option_text}" * bool(spec.options)
    return f"{spec.task} {spec.method}{options} sparsity {spec.sparsity:g} seed {spec.seed}"


def duration(seconds):
    """Seconds as people read them: 0:05:00, or 1 day, 6:00:00."""
    return str(timedelta(seconds=round(seconds)))


def spoken(seconds):
    """Seconds with three digits, in the unit that people would use."""
    unit, size = next(((unit, size) for unit, size, least in UNITS if seconds >= least * size), ("s", 1))
    number = float(f"{seconds / size:.3g}") if seconds < 1000 * size else seconds / size
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2}f} {unit}"


def plain(text):
    """A text from a file, safe to print on a terminal: control characters, which may change its lines and colours, become "?"."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "?", text)


def several(number, noun):
    """A number with a noun in singular or plural."""
    return f"{number} {noun}{('es' if noun.endswith('s') else 's') * (number != 1)}"


@contextlib.contextmanager
def waiting(text, seconds=10):
    """A context that prints `text` on stderr if it takes longer than `seconds`."""
    timer = threading.Timer(seconds, print, [text], {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def counted(done):
    """How many runs are done, in words. Failed runs are included: they have rows and are not made again by themselves."""
    failed = sum(row["status"] == "failed" for row in done)
    return f"{several(len(done), 'run')} done" + f" ({failed} of them failed)" * bool(failed)


def name_bad(rows, store):
    """Says on stderr which of the rows did not end well, and why; returns how many of them failed."""
    for row in rows:
        options = f" {row['options']}" if row.get("options") else ""
        print(plain(f"{row['status']}: {row['task']} {row['method']}{options} sparsity {row['sparsity']} seed {row['seed']}: {row['error']}"
                    f"{store.log_note(row['key'])}"), file=sys.stderr)
    return sum(row["status"] == "failed" for row in rows)


class Bar:
    """Progress of runs with an estimate of the end: a bar on a terminal, else `report(line)` for every run and every 5 minutes.

    costs: {Spec: amount of work, in any unit}. given: {Spec: the share of the run that another run makes for it}.
    """

    def __init__(self, costs, report, given=()):
        from tqdm import tqdm
        self.costs, self.report, self.given, self.finished = costs, report, dict(given), 0
        self.total = sum(costs.values())
        self.shares, self.resumed = {}, {}  # shares done; shares that were done before the run began here, which took no time
        self.began = self.told = time.monotonic()
        self.bar = tqdm(total=self.total, mininterval=1, disable=not sys.stderr.isatty(), **self._words(),
                        bar_format="{percentage:3.0f} % |{bar}| {desc}{elapsed} gone{postfix}")

    def tick(self, spec, share):
        """Notes that this share of a run is done."""
        given = self.given.get(spec, 0.0)
        self.shares[spec] = max(share - given, 0.0) / (1 - given)
        self.resumed.setdefault(spec, self.shares[spec])
        self._show()
        if self.bar.disable and time.monotonic() > self.told + EVERY:
            self._tell(f"{100 * self._ended() / self.total:.0f} %")

    def done(self, spec, row):
        """Notes that a run has ended with this row."""
        self.shares[spec] = 1.0
        self.finished += 1
        self._show()
        result = f"{row['top1']:.2f} % of the test images in the last epoch" if row["status"] == "ok" else plain(f"{row['status']}: {row['error']}")
        if self.bar.disable:
            self._tell(f"{self.finished}/{len(self.costs)}", f" {title(spec)}: {result}")
        elif row["status"] != "ok":
            self.bar.write(f"{title(spec)}: {result}")

    def _ended(self):
        """The work that is done."""
        return sum(self.costs[spec] * share for spec, share in self.shares.items())

    def _left(self):
        """The time to go, in words; "" until enough is done here to estimate it."""
        ended = self._ended()
        made = ended - sum(self.costs[spec] * share for spec, share in self.resumed.items())
        worth = len(self.costs) * made > 1e-3 * self.total
        return f", {duration((time.monotonic() - self.began) * (self.total - ended) / made)} to go" if worth else ""

    def _tell(self, where, what=""):
        self.told = time.monotonic()
        self.report(f"[{where}{self._left()}]{what}")

    def _words(self):
        """The texts beside the bar."""
        runs = f"{sum(self.shares.values()):.1f} of {len(self.costs)} runs, " if len(self.costs) > 1 else ""
        return {"desc": runs, "postfix": self._left().removeprefix(", ") or "? to go"}

    def _show(self):
        vars(self.bar).update(self._words())
        self.bar.update(self._ended() - self.bar.n)

    def close(self):
        self.bar.close()
