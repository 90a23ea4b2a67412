"""The leaderboard as one HTML page that needs no network: sortable, filtered by task and sparsity, published results kept apart.

Imports no torch.
"""
import base64
import textwrap
from html import escape
from string import Template

import pandas as pd

from benchmarks.comparison.tables import COLUMNS, cells, columns_of, legend, power, shown
from benchmarks.tasks import DATASETS

KINDS = {"paper_table": "table", "paper_text": "text", "repo_readme": "repository", "figure_read": "read off a figure",
         "secondary": "quoted"}
PUBLISHED_COLUMNS = ("Method", "Network", "Sparsity", "Variant", "Accuracy (%)", "Seeds", "Epochs", "Training", "Inference", "Kind", "Source")
# the value by which each column of the measured table is sorted
SORTED_BY = ("rank_low", "label", "mean", "seeds", "difference", "p", "seeds_needed", "train_flops", "macs", "seconds", "front", None)


def page(table, suite, profile, picture=None):
    """The page as text. table: of `tables.board`; picture: PNG as bytes, shown above the tables."""
    published = published_rows(suite)
    measured = cells(table)
    tasks = list(dict.fromkeys([*table.task, *published.task]))
    own = sorted(set(table.sparsity))
    elsewhere = sorted(set(published.sparsity.round(4)) - {round(s, 4) for s in own} - {0.0})
    sparsities = "".join(map(option, own))
    if elsewhere:
        options = "".join(map(option, elsewhere))
        sparsities += f'<optgroup label="published only">{options}</optgroup>'
    image = ""
    if picture:
        image = ('<details open><summary>Accuracy against training FLOPs</summary><img alt="Accuracy against training FLOPs, one panel for each '
                 f'sparsity" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></details>')
    columns = ["Method", "Task", "Sparsity", *(column for column in columns_of(table) if column != "Method")]
    lines = [measured_row(task, sparsity, line) for task, sparsity, cell in measured for _, line in cell.iterrows()]
    powers = [f'<li data-task="{escape(task)}" data-sparsity="{filtered(sparsity)}">{escape(task)}, {100 * sparsity:g} %: {words}</li>'
              for task, sparsity, cell in measured if (words := power(cell))]
    others = f"<p>{none_published(suite)}</p>"
    if len(published):
        others = html_table("published", PUBLISHED_COLUMNS, map(published_row, published.itertuples()))
    return TEMPLATE.substitute(
        suite=escape(suite), profile=escape(profile), legend=escape(legend(table)),
        tasks="".join(f"<option>{escape(task)}</option>" for task in tasks), sparsities=sparsities, picture=image,
        measured=html_table("measured", columns, lines), powers="".join(powers), published=others)


def published_rows(suite):
    """The rows of results/published.csv on the suite's data set, with `task` (the network's name if it is not one of our tasks)."""
    from reproduce.published import PUBLISHED, TASK_OF
    if suite not in DATASETS or not PUBLISHED.exists():
        return pd.DataFrame({"task": [], "sparsity": pd.Series(dtype=float)})
    rows = pd.read_csv(PUBLISHED)
    rows = rows[rows.dataset == DATASETS[suite].title]
    task = [TASK_OF.get(pair, pair[1]) for pair in zip(rows.dataset, rows.model)]
    rows = rows.assign(task=task, sparsity=rows.achieved_sparsity.fillna(rows.target_sparsity).fillna(0.0))
    order = ["other", "task", "sparsity", "top1_mean"]
    return rows.assign(other=~rows.task.isin(TASK_OF.values())).sort_values(order, ascending=[True, True, True, False], kind="stable")


def none_published(suite):
    """The sentence on why there are no published rows."""
    from reproduce.published import ABSENT, PUBLISHED
    return f"There are no published results on the tasks of suite {escape(suite)}." if PUBLISHED.exists() else f"{ABSENT.capitalize()}."


def filtered(sparsity):
    """A sparsity in the form in which the filter's options and the rows have it."""
    return f"{round(sparsity, 4):g}"


def option(sparsity):
    return f'<option value="{filtered(sparsity)}">{100 * sparsity:g} %</option>'


def measured_row(task, sparsity, line):
    """(task, sparsity, class of the row in the page, its cells (text, value that it is sorted by)) of a line of the leaderboard."""
    texts = dict(zip(COLUMNS, shown(line)))
    values = {column: line[name] if name else "" for column, name in zip(COLUMNS, SORTED_BY)}
    row = [(texts.pop("Method"), line.label), (task, task), (f"{100 * sparsity:g} %", sparsity)]
    row += [(text, values[column]) for column, text in texts.items()]
    kind = "front" if line.front else "" if pd.notna(line.rank_low) else "unranked"
    return task, sparsity, kind, row


def published_row(row):
    """As `measured_row`, of a published value; the last cell has its source, too, as a hint."""
    def number(value, form="{:g}"):
        return ("" if pd.isna(value) else form.format(value), value)

    spread = "" if pd.isna(row.top1_std) else f" ± {row.top1_std:.2f} s.d."
    accuracy = "" if pd.isna(row.top1_mean) else f"{row.top1_mean:.2f}{spread}"
    line = [(row.method, row.method), (row.model, row.model), (f"{100 * row.sparsity:.4g} %", row.sparsity),
            ("" if pd.isna(row.variant) else row.variant, ""), (accuracy, row.top1_mean), number(row.seeds), number(row.epochs),
            number(row.train_flops_fraction), number(row.flops_fraction, "{:.3g}"),
            (KINDS.get(row.source_kind, row.source_kind), ""),
            (row.source, "", row.source + ("" if pd.isna(row.notes) else f". {row.notes}"))]
    return row.task, row.sparsity, "", line


def html_table(name, columns, rows):
    """A table as HTML. rows: (task, sparsity, class, [(text, value to sort by, text that opens at a click)]); the last one may be left out."""
    head = "".join(f'<th scope="col"><button type="button">{escape(column)}</button></th>' for column in columns)
    body = []
    for task, sparsity, kind, line in rows:
        line = [html_cell(*cell) for cell in line]
        line[0] = line[0].replace("<td", '<td role="rowheader"', 1)
        body.append(f'<tr class="{kind}" data-task="{escape(task)}" data-sparsity="{filtered(sparsity)}">{"".join(line)}</tr>')
    body = "\n".join(body)
    return (f'<div class="scroll"><table id="{name}" aria-labelledby="{name}-title"><thead><tr>{head}</tr></thead>'
            f'<tbody>\n{body}\n</tbody></table></div>')


def html_cell(text, value, notes=""):
    text = escape(textwrap.shorten(text, 36, placeholder=" …") if notes else text)
    if notes:
        text = f"<details><summary>{text}</summary>{escape(notes)}</details>"
    # rounded, because processors differ in the last digits
    value = "" if pd.isna(value) else f"{value:.10g}" if isinstance(value, float) else str(value)
    return f'<td data-value="{escape(value)}">{text}</td>'


TEMPLATE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Leaderboard: $suite</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #0173b2; --back: light-dark(#fff, #16181c); }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 90rem; background: var(--back); }
h1 { font-size: 1.5rem; margin: 0 0 .3rem } h2 { font-size: 1.15rem; margin: 1.6rem 0 .4rem }
p, li { max-width: 60rem; margin: .3rem 0 } ul { padding-left: 1.2rem } .note { opacity: .8; font-size: .87rem }
form { position: sticky; top: 0; z-index: 3; background: var(--back); padding: .5rem 0;
  display: flex; gap: .5rem 1rem; flex-wrap: wrap }
select { font: inherit; max-width: 11rem; padding: .15rem }
#published summary { font-weight: 400; opacity: .8 }
img { max-width: min(100%, 42rem); background: #fff; display: block } summary { cursor: pointer; font-weight: 600 }
.scroll { overflow-x: auto; border: 1px solid var(--line) }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .25rem .55rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--back); z-index: 1;
  border-right: 1px solid var(--line) }
th button { font: inherit; font-weight: 600; border: 0; background: none; padding: 0; cursor: pointer; color: inherit }
th[aria-sort=ascending] button::after { content: " \\25B2" } th[aria-sort=descending] button::after { content: " \\25BC" }
tr.front td:first-child { box-shadow: inset 4px 0 var(--mark); font-weight: 600 }
tr.unranked td { opacity: .65 } tr.unranked td:first-child { opacity: 1 }
#published td:last-child { white-space: normal; min-width: 15rem; font-size: .8rem }
#published td:nth-child(2), #published td:nth-child(4) { white-space: normal; max-width: 12rem }
@media (max-width: 40rem) { body { padding: .6rem; font-size: 14px }
  td:first-child { min-width: 6.5rem; max-width: 8.5rem; white-space: normal; overflow-wrap: anywhere }
  }
@page { size: landscape; margin: 10mm }
@media print { :root { color-scheme: light } body { font-size: 7pt; max-width: none; padding: 0 } form { display: none }
  .scroll { overflow: visible; border: 0 } thead { display: table-header-group } tr { break-inside: avoid }
  th, td { padding: .1rem .25rem; white-space: normal; overflow-wrap: anywhere } th button { text-align: left; white-space: normal }
  th:first-child, td:first-child { position: static } #published td:last-child { min-width: 0; font-size: 1em } }
</style>
</head>
<body>
<h1>Leaderboard: $suite</h1>
<p class="note">Profile $profile. A click on a column's name sorts by it. A mark at the left: on the Pareto front.</p>
<form><label>Task <select id="task"><option value="">all</option>$tasks</select></label>
<label>Sparsity <select id="sparsity"><option value="">all</option>$sparsities</select></label></form>
<h2 id="measured-title">Measured here</h2>
$measured
<p class="note">$legend</p>
<ul class="note">$powers</ul>
$picture
<h2 id="published-title">Published</h2>
<p class="note">As printed by the sources named, with their own recipes: not comparable line by line with what was measured
here, and in no mean of it. Training and Inference: FLOPs as multiples of dense.</p>
$published
<script>
const rows = [...document.querySelectorAll("[data-task]")], task = document.getElementById("task"),
  sparsity = document.getElementById("sparsity");
function filter() {
  for (const row of rows) {
    const s = row.dataset.sparsity;
    row.hidden = (task.value && row.dataset.task !== task.value) || (sparsity.value && s !== sparsity.value && s !== "0");
  }
}
task.onchange = sparsity.onchange = filter;
for (const head of document.querySelectorAll("th")) head.firstChild.onclick = () => {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = row => row.cells[column].dataset.value || row.cells[column].textContent;
  const lines = [...body.rows].map(row => [value(row), row]);
  lines.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    return down ? -order : order;
  });
  body.append(...lines.map(([, row]) => row));
};
filter();
</script>
</body>
</html>
""")
