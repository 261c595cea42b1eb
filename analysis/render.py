"""One grid of texts as Markdown and as LaTeX (booktabs)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

NO_CELL = "–"  # a cell that the study did not ask for


@dataclass(frozen=True)
class Text:
    """A cell's text, and the number behind it where the text rounds one."""

    text: str
    bold: bool = False
    value: float | None = None


@dataclass(frozen=True)
class Section:
    """Consecutive rows under a title of their own."""

    title: str
    rows: Sequence[Sequence[Text]]


@dataclass(frozen=True)
class Grid:
    """A table with its notes; every row has one text a header."""

    label: str
    caption: str
    headers: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = field(default_factory=tuple)


def markdown(grid: Grid) -> str:
    """A heading, one Markdown table a section, and the notes as a list."""
    lines = [f"# {_md(grid.caption)}", ""]
    for section in grid.sections:
        if section.title:
            lines += [f"## {_md(section.title)}", ""]
        lines.append(_md_row([_md(header) for header in grid.headers]))
        lines.append(_md_row(["---", *["---:"] * (len(grid.headers) - 1)]))
        for row in section.rows:
            lines.append(_md_row([f"**{_md(c.text)}**" if c.bold else _md(c.text) for c in row]))
        lines.append("")
    lines += [f"- {_md(note)}" for note in grid.notes]
    return "\n".join(lines) + "\n"


def _md_row(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _md(text: str) -> str:
    text = " ".join(text.split())
    for character in "\\`*_|<>[]":
        text = text.replace(character, f"\\{character}")
    return text


def latex(grid: Grid) -> str:
    """A `table*` with booktabs rules and the notes below, in ASCII."""
    columns = len(grid.headers)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{_tex(grid.caption)}}}",
        f"\\label{{tab:{grid.label}}}",
        "\\scriptsize",
        "\\setlength{\\tabcolsep}{3pt}",
        f"\\begin{{tabular}}{{l{'r' * (columns - 1)}}}",
        "\\toprule",
        _tex_row([_tex(header) for header in grid.headers]),
    ]
    for section in grid.sections:
        lines.append("\\midrule")
        if section.title:
            title = f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{_tex(section.title)}}}}}"
            lines += [f"{title} \\\\", "\\addlinespace"]
        for row in section.rows:
            lines.append(
                _tex_row([f"\\textbf{{{_tex(c.text)}}}" if c.bold else _tex(c.text) for c in row])
            )
    lines += ["\\bottomrule", "\\end{tabular}", "\\par\\medskip"]
    lines += ["\\begin{minipage}{\\textwidth}", "\\raggedright"]
    lines += [f"{_tex(note)}\\par" for note in grid.notes]
    lines += ["\\end{minipage}", "\\end{table*}"]
    return "\n".join(lines) + "\n"


def _tex_row(texts: Sequence[str]) -> str:
    return f"{' & '.join(texts)} \\\\"


_TEX = {
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
    "–": "--",
    "°": "$^\\circ$",
}


def _tex(text: str) -> str:
    """LaTeX for `text`; a character that LaTeX's default encoding lacks becomes `?`."""
    plain = "".join(_TEX.get(character, character) for character in " ".join(text.split()))
    return plain.encode("ascii", "replace").decode()
