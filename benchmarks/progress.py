"""How far runs are, for people: a bar on a terminal, elsewhere a line now and then."""
import sys
import time
from datetime import timedelta

EVERY = 300  # seconds between the lines


def title(spec):
    """A run in a few words."""
    options = "".join(f" {name}={value}" for name, value in spec.options)
    return f"{spec.task} {spec.method}{options} sparsity {spec.sparsity:g} seed {spec.seed}"


def duration(seconds):
    """Seconds as people read them: 0:05:00, or 1 day, 6:00:00."""
    return str(timedelta(seconds=round(seconds)))


class Bar:
    """Progress of `total` runs with an estimate of the end: a bar on a terminal, else `report(line)` for every run and every 5 minutes."""

    def __init__(self, total, report):
        from tqdm import tqdm
        self.total, self.finished, self.shares, self.report = total, 0, {}, report
        self.resumed = 0.0  # what checkpoints had of the runs; it took no time here
        self.began = self.told = time.monotonic()
        runs = "{n:.1f} of {total} runs, " * (total > 1)
        self.bar = tqdm(total=total, unit="run", mininterval=1, disable=not sys.stderr.isatty(),
                        bar_format="{percentage:3.0f} % |{bar}| " + runs + "{elapsed} gone, {remaining} to go")

    def tick(self, spec, share):
        """A run has come to this share of itself."""
        self.resumed += 0.0 if spec in self.shares else share
        self.shares[spec] = share
        self._show()
        if self.bar.disable and time.monotonic() > self.told + EVERY:
            self._tell(f"{100 * self._ended() / self.total:.0f} %")

    def done(self, spec, row):
        """A run has ended with this row."""
        self.shares.pop(spec, None)
        self.finished += 1
        self._show()
        result = f"{row['top1']:.2f} % in the last epoch" if row["status"] == "ok" else f"{row['status']}: {row['error']}"
        if self.bar.disable:
            self._tell(f"{self.finished}/{self.total}", f" {title(spec)}: {result}")
        elif row["status"] != "ok":
            self.bar.write(f"{title(spec)}: {result}")

    def _ended(self):
        """Runs that have ended, with the parts of those in progress."""
        return self.finished + sum(self.shares.values())

    def _tell(self, where, what=""):
        self.told = time.monotonic()
        ended = self._ended()
        made = ended - self.resumed
        left = f", {duration((self.told - self.began) * (self.total - ended) / made)} to go" if made > 0 else ""
        self.report(f"[{where}{left}]{what}")

    def _show(self):
        self.bar.update(self._ended() - self.bar.n)

    def close(self):
        self.bar.close()
