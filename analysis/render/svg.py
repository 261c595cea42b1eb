"""Figures as SVG inside a page, on its dark background where their colours can be told from it."""

import re
from io import StringIO
from xml.etree import ElementTree

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from analysis.render.style import save_svg

DARK_PAGE = "#0d0f11"  # as light as leaves queryable its contrast
LEAST_CONTRAST = 3.0  # of what a figure draws: WCAG 2.2, criterion 1.4.11
_INK = 0.4  # greys up to this lightness are ink, not a colour that means something

_REFERENCE = re.compile(r"url\(#")
_PAINT = re.compile(r"(?<=fill: )#[0-9a-f]{6}|(?<=stroke: )#[0-9a-f]{6}")


def inline_svg(figure: Figure, name: str) -> str:
    """`figure` as an `<svg>` for HTML, named by the element of the page with id `<name>-title`.

    Every id begins with `name`, so that figures of one page do not meet. Metadata, namespaces and
    the style sheet (which would hold for the whole page) are left out. Black is painted in the text
    colour around the figure and white in its `--paper`; `--width` is how wide it was drawn. The
    class `adapts` says that all other colours have a contrast of `LEAST_CONTRAST` on `DARK_PAGE`,
    as those of methods do; a figure with another, such as a dark end of a colour map, keeps white
    paper.
    """
    file = StringIO()
    save_svg(figure, file)
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    paints = {paint for node in root.iter() for paint in _PAINT.findall(node.get("style", ""))}
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {
            _local(key): _value(_local(key), value, name) for key, value in element.attrib.items()
        }
        if element.tag == "image":  # named by its content, which two panels can share
            element.attrib.pop("id", None)
    for attribute in ("height", "version"):  # the height follows from the width and the view box
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title"}
    root.attrib["style"] = f"--width: {root.attrib['width']}"
    if all(_is_ink(paint) or contrast(paint, DARK_PAGE) >= LEAST_CONTRAST for paint in paints):
        root.attrib["class"] = "adapts"
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in to_rgb(colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _is_ink(colour: str) -> bool:
    red, green, blue = to_rgb(colour)
    return red == green == blue <= _INK


def _themed(colour: str) -> str:
    """A paint that follows the page's scheme; on white paper with black text it is `colour`."""
    if colour == "#ffffff":
        return "var(--paper)"
    if not _is_ink(colour):
        return colour
    share = 100 * (1 - to_rgb(colour)[0])
    return (
        "currentColor"
        if share == 100
        else f"color-mix(in srgb, currentColor {share:.4g}%, var(--paper))"
    )


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _value(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key == "style":
        value = _PAINT.sub(lambda match: _themed(match[0]), value)
    return _REFERENCE.sub(f"url(#{name}-", value)
