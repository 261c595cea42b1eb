"""Files of the repository as parts of the site, and what the pages say of every view.

A page may link to any file of the repository, relative to its own: the file becomes a part of the
site. mkdocs warns of a link that leads nowhere, and in strict mode a warning is an error.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
VIEWS = "<!-- views -->"  # a section a view takes its place
_LINK = re.compile(r"(?<=\]\()(?!https?://|#)([^)#\s]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what the pages link to."""
    waiting = [PAGES / file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for link in _LINK.findall(page.read_text(encoding="utf-8")):
            target = _target(link, page)
            if target.is_file() and files.get_file_from_path(_name(target)) is None:
                files.append(File.generated(config, _name(target), abs_src_path=str(target)))
                waiting += [target] * (target.suffix == ".md")
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links to where the files now lie."""
    here = Path(str(page.file.abs_src_path))

    def link(match: re.Match[str]) -> str:
        target = _name(_target(match[1], here))
        return os.path.relpath(target, Path(_name(here)).parent).replace(os.sep, "/")

    return _LINK.sub(link, markdown).replace(VIEWS, _views() if VIEWS in markdown else "")


def _target(link: str, page: Path) -> Path:
    return (page.parent / link).resolve()


def _name(file: Path) -> str:
    """Where a file lies in the site: pages at the top, others as in the repository."""
    return file.relative_to(PAGES if file.is_relative_to(PAGES) else ROOT).as_posix()


def _views() -> str:
    from analysis.view import views  # noqa: PLC0415, takes seconds

    only = "    options: { members: [], show_root_full_path: false }\n"
    return "\n\n".join(f"::: {view.__name__}\n{only}" for _, view in sorted(views().items()))
