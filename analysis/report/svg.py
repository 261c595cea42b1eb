"""Figures as SVG inside a page."""

import re
from io import StringIO
from xml.etree import ElementTree

from matplotlib.figure import Figure

from analysis.style import save_svg

_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#")


def inline_svg(figure: Figure, name: str, title: str) -> str:
    """`figure` as an `<svg>` for HTML.

    Every id begins with `name`, so that figures of one page do not meet. Metadata, namespaces and
    the style sheet (which would hold for the whole page) are left out; coordinates keep a hundredth
    of a point.
    """
    file = StringIO()
    save_svg(figure, file)
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {
            _local(key): _value(_local(key), value, name) for key, value in element.attrib.items()
        }
        if element.tag == "image":  # named by its content, which two panels can share
            element.attrib.pop("id", None)
    for attribute in ("height", "version"):  # the height follows from the width and the view box
        root.attrib.pop(attribute, None)
    label = ElementTree.Element("title", id=f"{name}-title")
    label.text = title
    root.insert(0, label)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title"}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _value(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key in ("d", "points"):
        return _NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
    return _REFERENCE.sub(f"url(#{name}-", value)
