"""What the views say of functions, in the words of the benchmark that they show."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from matplotlib.text import Text as Drawn

from analysis.render import Grid, Section, Text
from analysis.render.output import Picture
from analysis.view import Shown


def worded(text: str, words: Mapping[str, str]) -> str:
    """`text` with each of `words` in place of what it stands for, in the plural too.

    Names of settings and columns, such as `config.function.name`, stay as they are.
    """
    for said, own in words.items():
        text = re.sub(rf"(?<![\w.=]){re.escape(said)}(?=s?(?:\W|$))(?![._=]\w)", own, text)
    return text


def worded_shown(shown: Shown, words: Mapping[str, str]) -> Shown:
    """What a view shows with its texts `worded`; numbers in full keep the names of their columns.

    Pages stay as they are: their chapters were worded before they were put together.
    """
    if not words:
        return shown
    grids = {name: [_grid(grid, words) for grid in own] for name, own in shown.grids.items()}
    return replace(shown, grids=grids, pictures=_pictures(shown.pictures, words))


def _grid(grid: Grid, words: Mapping[str, str]) -> Grid:
    def texts(row: Iterable[Text]) -> list[Text]:
        return [replace(cell, text=worded(cell.text, words)) for cell in row]

    return replace(
        grid,
        caption=worded(grid.caption, words),
        headers=[worded(header, words) for header in grid.headers],
        sections=[
            Section(worded(section.title, words), [texts(row) for row in section.rows])
            for section in grid.sections
        ],
        notes=[text for note in grid.notes if (text := worded(note, words).strip())],
    )


def _pictures(pictures: Iterable[Picture], words: Mapping[str, str]) -> Iterator[Picture]:
    """To be drawn one by one, as the views draw them."""
    for picture in pictures:
        for drawn in picture.figure.findobj(Drawn):
            drawn.set_text(worded(drawn.get_text(), words))
        yield replace(picture, caption=worded(picture.caption, words))
