"""What the figure scripts share: the command line and saving. The look of points and lines is in marks.py, the note under a figure in notes.py.

Needs pandas and seaborn only, and imports them only for drawing, because every `plan` loads the scripts for their grids.
"""
import contextlib
import io
import re
import textwrap
import traceback
from pathlib import Path

from marks import PUBLISHED, tell_cut
from notes import noted
from published import citation, compare, tell_absent
from rows import NoRows, Trained, make, runs_of, summary, tell_uncollected

from benchmarks.command import Parser as CommandParser
from benchmarks.command import at_least_one, command, with_options
from benchmarks.comparison import markup
from benchmarks.files import folder, write_whole
from benchmarks.suites import PROFILES, SUITES

HERE = Path(__file__).resolve().parent
WIDTH, SMALL = 3.4, 5.5  # inches, one column; points, the note's letters
STYLE = {"pdf.fonttype": 42, "font.sans-serif": ["DejaVu Sans"], "font.size": 7, "axes.labelsize": 7, "axes.titlesize": 7,
         "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 6, "legend.handlelength": 4, "lines.linewidth": 1, "lines.markersize": 4}


class Parser(CommandParser):
    """The commands' parser, with the options that all drawing commands take."""

    def standard(self):
        """Adds the options of all drawing commands."""
        self.common("results", "precision", "epochs")
        self.add_argument("--out", help="figures go to OUT/SUITE (default: figures; with --results DIR it is DIR/figures)")
        self.add_argument("--profile", choices=PROFILES, help="default: the one with more finished runs")
        return self

    def running(self):
        """Adds the options of a single script."""
        self.add_argument("--run", action="store_true", help="first make the missing runs")
        return self.common("data")

    def read(self, argv):
        """Parses the arguments. Raises ValueError, besides what the parser refuses, for an invalid number of epochs, a folder without a name, a
        results folder that does not exist, and missing libraries."""
        args = self.parse_args(argv)
        at_least_one(args, *["epochs"] * hasattr(args, "epochs"))
        find(args, "results", "data", "out")
        if getattr(args, "out", "") is None:
            usual = Path(args.results).resolve() == Path(self.get_default("results")).resolve()
            args.out = "figures" if usual else Path(args.results) / "figures"  # figures of another results folder must not overwrite the usual ones
        try:
            import pandas, seaborn  # noqa: E401, F401
        except ModuleNotFoundError as error:
            raise ValueError(f"drawing needs pandas and seaborn ({error}): pip install pandas seaborn") from None
        if not getattr(args, "run", False):  # which makes and collects them itself
            if not Path(args.results).is_dir():
                make = f"bash run_all.sh {args.suite or 'digits'}{with_options(results=args.results)}"
                raise ValueError(f"there is no results folder {args.results}; make it with: {make}")
            tell_uncollected(args.results)
        return args


def find(args, *names):
    """Replaces these arguments, names of folders, with their paths. Raises ValueError as `files.folder` does."""
    vars(args).update({name: str(folder(vars(args)[name], f"--{name}")) for name in names if vars(args).get(name) is not None})


@contextlib.contextmanager
def refusing(args):
    """A context in which a damaged table in `args.results`, and a file that cannot be read or written, raise ValueError with one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(str(error)) from None
    except (KeyError, AttributeError, TypeError) as error:
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve().parent == HERE]
        where = f"{Path(ours[-1].filename).name}, line {ours[-1].lineno}"
        raise ValueError(f"a table in {args.results} lacks what {where} reads, or is not as its program wrote it ({type(error).__name__}: {error}); "
                         "or that line has a mistake") from error


def tasks_of(runs, others=()):
    """The tasks with something to show: finished runs, or other points (the tasks `others`, such as published ones); all tasks if none has."""
    shown = {*runs.task[runs.accuracy.notna()], *others}
    return [task for task in runs.task.unique() if task in shown] or list(runs.task.unique())


def save(name, draw, runs, suite, out):
    """Writes OUT/SUITE/NAME.pdf and .png, and the table that was drawn as .csv; the same rows give the same bytes. Returns (stem, table).

    Attributes of `draw`: `lead` replaces the first sentence of the note (if the figure does not show accuracy), `labels` names the methods,
    `diverged` says where runs are that diverged ("in the mean"), and `ends` is true if runs are drawn at the sparsity where they end.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with styled():
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        table = draw(runs, figure)
        if not hasattr(table, "to_csv"):
            raise ValueError(f"draw of {name} must return the table of what it has drawn, a DataFrame, not {type(table).__name__}")
        for axes in figure.axes:
            if axes.axison and not axes.patches and not any(len(line.get_xdata()) for line in axes.lines):
                axes.text(0.5, 0.5, "no runs yet", transform=axes.transAxes, ha="center", color="0.5")
        entries = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels())}
        others = table.source[table.source != "measured"] if "source" in table else ()
        if entries and len(others):
            entries["published (hollow, thin)"] = Line2D([], [], color="0.4", marker="o", linestyle="", **PUBLISHED)
        if entries:
            column = 0.52 + 0.046 * max(map(len, entries))  # inches: the legend's line and gaps, plus its letters of 6 points
            lines = -(-len(entries) // max(1, int(figure.get_figwidth() / column)))
            figure.legend(entries.values(), entries, loc="outside upper center", ncols=-(-len(entries) // lines), columnspacing=1.2, frameon=False)
        text = noted(runs, draw) + tell_cut(figure)
        text += "".join(f" {remark}" for remark in getattr(figure, "remarks", ())) + citation(others)
        stem = Path(out) / suite / name
        write_figure(figure, stem, text)
    write_whole(f"{stem}.csv", table.to_csv(index=False, lineterminator="\n"))
    if "blocks" in table.attrs:
        paste(stem, table.attrs, table.attrs.get("note", text))
    return stem, table


@contextlib.contextmanager
def styled():
    """A context in which figures have the common style, whatever the user's matplotlibrc says."""
    import matplotlib
    import seaborn as sns

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**sns.axes_style("ticks"), **sns.plotting_context("paper"), **STYLE})
        yield


def width(line):
    """The width of a line of a note, in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(line, FontProperties(size=SMALL), ismath=False)[0]


def write_figure(figure, stem, text):
    """Writes STEM.pdf and .png, with the text below all panels, each whole or not at all. To be called within `styled`."""
    import seaborn as sns
    from matplotlib.text import Text

    sns.despine(figure)
    text, letters, room = text.replace(" %", "\u00a0%"), int(24 * figure.get_figwidth()), 0.98 * 72 * figure.get_figwidth()  # 72 points in an inch
    lines = textwrap.wrap(text, letters)
    while letters > 20 and max(map(width, lines), default=0) > room:  # one of many capitals
        letters -= 1
        lines = textwrap.wrap(text, letters)
    figure.supxlabel("\n".join(lines).replace("\u00a0", " "), fontsize=SMALL, x=0.01, ha="left")  # no line break between a number and %
    for words in figure.findobj(Text):
        words.set_parse_math("$" not in words.get_text())  # a method's name may contain $; the numbers on axes are written later
    stem.parent.mkdir(parents=True, exist_ok=True)
    for ending, options in (("pdf", {"metadata": {"CreationDate": None}}), ("png", {"dpi": 300})):
        content = io.BytesIO()
        figure.savefig(content, format=ending, **options)
        figure.set_layout_engine("none")  # lay out once, for both files
        write_whole(f"{stem}.{ending}", content.getvalue())


def paste(stem, attrs, text):
    """Writes the texts of a table (`gse.text_table`) as STEM.md and STEM.tex, to paste."""
    head = attrs["head"].replace("\n", ", ")
    blocks = [[[re.sub(r"\n(?=\[)", " ", cell).replace("\n", ", ") for cell in line] for line in lines] for lines in attrs["blocks"]]
    page = [f"### {head}", *map(markup.markdown, blocks), markup.escaped(text, markup.MARKDOWN)]
    paper = [markup.PREAMBLE]
    for lines in blocks:
        escaped = [[markup.escaped(cell, markup.LATEX) for cell in line] for line in lines]
        paper.append(markup.latex(escaped, "l" + "r" * (len(lines[0]) - 1), *(markup.escaped(words, markup.LATEX) for words in (f"{head}.", text))))
    for ending, parts in (("md", page), ("tex", paper)):
        write_whole(f"{stem}.{ending}", "\n\n".join(parts) + "\n")


def files(stem, table):
    """The names of the files that `save` wrote, to be printed."""
    return f"{stem}.pdf .png .csv" + " .md .tex" * ("blocks" in table.attrs)


def suites_of(grid, source):
    """The suites that a figure belongs to, in this order: the papers' own, those that have it only in profile quick (as a miniature), digits."""
    if hasattr(source, "suite"):
        return [source.suite]
    own = {profile: [suite for suite in SUITES if list(grid(suite, profile))] for profile in PROFILES}
    return sorted({*own["paper"], *own["quick"]}, key=lambda suite: (suite == "digits", suite not in own["paper"], SUITES.index(suite)))


def first_with_rows(suites, call):
    """(suite, call(suite)) of the first of these suites that has rows. Raises the last one's NoRows if none has."""
    for suite in suites[:-1]:
        with contextlib.suppress(NoRows):
            return suite, call(suite)
    return suites[-1], call(suites[-1])


@command
def main(name, grid, draw, argv=None, source=runs_of):
    """The command line of a figure script; returns 0. Bad arguments or nothing to draw: one line on stderr, exit status 2."""
    suites = suites_of(grid, source)
    parser = Parser(prog=f"{name}.py", description=f"Draws {name} from stored rows.")
    parser.add_argument("--suite", choices=SUITES if hasattr(source, "suite") else suites,
                        help=f"of no effect: drawn of a measurement in RESULTS/{suites[0]}, which --run makes by its program's defaults"
                        if hasattr(source, "suite") else f"default: the first with rows of {', '.join(suites)}; with --run the last of these")
    args = parser.standard().running().read(argv)
    chosen = suites if hasattr(source, "suite") or not args.suite else [args.suite]
    grid = Trained(grid, args.precision, args.epochs)
    with refusing(args):
        if args.run:
            chosen = chosen[-1:]
            make(grid, chosen[0], args, source)
        suite, (runs, profile) = first_with_rows(chosen, lambda suite: source(grid, suite, args.results, args.profile))
        stem, table = save(name, draw, runs, suite, args.out)
    print(f"suite {suite}, profile {profile}: {noted(runs, draw)}")
    own = "accuracy" in runs and runs.accuracy.notna().any()
    shown = compare(summary(runs)) if own else table
    print(shown.to_string(index=False, na_rep="-") if own or len(table) < 100 else f"{len(table)} lines")
    print(f"wrote {files(stem, table)}")
    tell_absent()
