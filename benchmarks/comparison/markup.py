"""Tables of texts in Markdown and LaTeX, to paste into a page or a paper. Standard library only."""
import re

MARKDOWN = {character: "\\" + character for character in "\\`$|*_<"} | {"](": r"]\("}
SYMBOLS = dict(zip("±×·≤≥≈∝∞→↑↓αβγδεζηθκλμρστφωΔΣ", (
    "pm times cdot le ge approx propto infty to uparrow downarrow alpha beta gamma delta epsilon zeta eta theta kappa lambda mu rho sigma tau phi "
    "omega Delta Sigma").split(), strict=True))
LATEX = {**{c: "\\" + c for c in "_%&#${}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
         **{c: f"${c}$" for c in "<>=*+|"}, "–": "--", **{c: rf"$\{name}$" for c, name in SYMBOLS.items()}}
PREAMBLE = "% needs \\usepackage{booktabs,graphicx}"


def escaped(text, characters):
    """A text in one line, with `characters` that would be markup escaped."""
    return re.sub("|".join(map(re.escape, characters)), lambda found: characters[found[0]], " ".join(text.split()))


def markdown(lines):
    """Lines of texts, the head first, as a Markdown table for GitHub and other renderers."""
    head, *body = ["| " + " | ".join(escaped(text, MARKDOWN) for text in line) + " |" for line in lines]
    return "\n".join([head, "| " + " | ".join(["---"] * len(lines[0])) + " |", *body])


def latex(lines, form, caption, note, label=""):
    """Lines of escaped texts, the head first, as a `table` environment over both columns of a paper (see PREAMBLE). form: "lr..."; caption, and
    note, which is below the table: escaped, too."""
    # after \\, an opening bracket would start an optional argument
    head, *body = ["{}" * line[0].startswith("[") + " & ".join(line) + r" \\" for line in lines]
    return "\n".join([
        r"\begin{table*}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{{caption}}}" + rf"\label{{{label}}}" * bool(label),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{form}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}}", r"\par\smallskip", rf"\parbox{{\linewidth}}{{\raggedright\scriptsize {note}}}", r"\end{table*}"])
