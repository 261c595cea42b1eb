"""A grid as LaTeX (booktabs)."""

from collections.abc import Iterable

from analysis.render.grid import Grid

_BOLD = "\\textbf{{{}}}"
_SPELT = str.maketrans(
    {
        "\\": "\\textbackslash{}",
        "{": "\\{",
        "}": "\\}",
        "$": "\\$",
        "&": "\\&",
        "%": "\\%",
        "#": "\\#",
        "_": "\\_",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "±": "$\\pm$",
        "×": "$\\times$",
        "→": "$\\to$",
        "²": "$^2$",
        "†": "$^\\dagger$",
        "‡": "$^\\ddagger$",
        "§": "\\S{}",
        "¶": "\\P{}",
        "‖": "$\\|$",
        "–": "--",
        "°": "$^\\circ$",
    }
)


def latex(grid: Grid) -> str:
    """A `table*` with booktabs rules and the notes below, in ASCII."""
    columns = len(grid.headers)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{_escaped(grid.caption)}}}",
        f"\\label{{tab:{grid.label}}}",
        "\\scriptsize",
        "\\setlength{\\tabcolsep}{3pt}",
        f"\\begin{{tabular}}{{l{'r' * (columns - 1)}}}",
        "\\toprule",
        _row(map(_escaped, grid.headers)),
    ]
    for section in grid.sections:
        lines.append("\\midrule")
        if section.title:
            title = f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{_escaped(section.title)}}}}}"
            lines += [_row([title]), "\\addlinespace"]
        lines += [_row(cell.written(_escaped, _BOLD) for cell in row) for row in section.rows]
    lines += ["\\bottomrule", "\\end{tabular}", "\\par\\medskip"]
    lines += ["\\begin{minipage}{\\textwidth}", "\\raggedright"]
    lines += [f"{_escaped(note)}\\par" for note in grid.notes]
    lines += ["\\end{minipage}", "\\end{table*}"]
    return "\n".join(lines) + "\n"


def _row(texts: Iterable[str]) -> str:
    return f"{' & '.join(texts)} \\\\"


def _escaped(text: str) -> str:
    """LaTeX for `text`; a character that LaTeX's default encoding lacks becomes `?`."""
    plain = " ".join(text.split()).translate(_SPELT)
    return plain.encode("ascii", "replace").decode()
