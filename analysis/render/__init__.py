"""What the views show, rendered: grids as Markdown, LaTeX and HTML, figures as SVG."""

from analysis.render.grid import NO_CELL, Grid, Section, Text

__all__ = ["NO_CELL", "Grid", "Section", "Text"]
