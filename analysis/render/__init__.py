"""What the views show, rendered: grids as Markdown, LaTeX and HTML, figures as SVG."""

from analysis.render.grid import NO_CELL, Grid, Section, Text
from analysis.render.latex import latex
from analysis.render.markdown import markdown

__all__ = ["NO_CELL", "Grid", "Section", "Text", "latex", "markdown"]
