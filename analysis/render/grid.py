"""A table of texts, whatever it is rendered to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

NO_CELL = "–"  # a cell that the study did not ask for


@dataclass(frozen=True)
class Text:
    """A cell's text, and the number behind it where the text rounds one."""

    text: str
    bold: bool = False
    value: float | None = None

    def written(self, escaped: Callable[[str], str], bold: str) -> str:
        """Its escaped text; inside of `bold`, a format with one place, where it is so."""
        return bold.format(escaped(self.text)) if self.bold else escaped(self.text)


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
