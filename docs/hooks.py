"""What `make docs` adds to mkdocs: pages from the repository's root, their links, and a look for foreign addresses."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "RELEASING.md": "RELEASING.md",
    "bench/README.md": "bench.md",
    "training/README.md": "training.md",
}
"""Files of the repository that are pages of the site, by their path there."""

_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)|(!\[[^\]]*\])\(([^)\s]+)\)")
_FETCHED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")
_FETCHED_BY_STYLE = re.compile(r"""url\(\s*["']?((?:https?:)?//[^"')\s]+)""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of ``PAGES``."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages.

    A link to a file that is no page becomes plain text. A link to nothing stays, and mkdocs reports it.
    """
    here = page.file.src_uri
    folder = posixpath.dirname(_SOURCES.get(here, f"docs/{here}"))

    def replaced(match: re.Match[str]) -> str:
        text, link, image, picture = match.groups()
        target, mark, anchor = (link or picture).partition("#")
        if not target or "://" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        to = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if to is not None and files.get_file_from_path(to) is not None:
            relative = posixpath.relpath(to, posixpath.dirname(here) or ".")
            return f"{image or f'[{text}]'}({relative}{mark}{anchor})"
        return text if link and (ROOT / path).exists() else match[0]

    return _LINK.sub(replaced, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuses a site that would fetch a font, a script or a picture from elsewhere."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        pattern = {".html": _FETCHED, ".css": _FETCHED_BY_STYLE}.get(path.suffix)
        for address in pattern.findall(path.read_text(encoding="utf-8")) if pattern else ():
            raise PluginError(f"{path.relative_to(config.site_dir)} fetches {address}")
