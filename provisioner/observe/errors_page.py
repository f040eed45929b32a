"""The page about errors: `docs/errors.md` as HTML, so that readers find the advice offline too.

Knows as much of Markdown as that page uses: headings, paragraphs, lists, code, tables, bold and links.
"""

import re
from collections.abc import Iterator
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

from provisioner import __version__
from provisioner.observe.words import environment

_BLOCK: Final = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN: Final = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*|\*(\w[^*]*)\*|\[([^\]]+)\]\(([^)]+)\)")
_HEADING: Final = re.compile(r"(#+) (.+)")


@cache
def render_errors() -> str:
    """Return the whole page."""
    from markupsafe import Markup  # noqa: PLC0415 - part of Jinja2, which is loaded for the first page

    body = Markup("\n".join(_html(_source())))  # noqa: S704  # our own text, escaped below
    return environment().get_template("errors.html").render(body=body, version=__version__, root="")


def _source() -> str:
    """Return the page's text, from the package or from the checkout around it."""
    packaged = files("provisioner.observe") / "errors.md"
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")


def _html(text: str) -> Iterator[str]:
    parts = _BLOCK.split(text)
    for number, part in enumerate(parts):
        if number % 2:
            yield f'<pre tabindex="0"><code>{escape(part.rstrip())}</code></pre>'
            continue
        for block in re.split(r"\n\s*\n", part.strip()):
            if block.strip():
                yield _block(block.strip())


def _block(block: str) -> str:
    lines = block.splitlines()
    if heading := _HEADING.fullmatch(lines[0]):
        level, words = min(len(heading[1]) + 1, 4), heading[2]
        rest = f"<p>{_spans(' '.join(lines[1:]))}</p>" if lines[1:] else ""
        return f'<h{level} id="{_anchor(words)}">{_spans(words)}</h{level}>{rest}'
    if lines[0].startswith("|"):
        return _table(lines)
    if all(line.startswith(("- ", "  ")) for line in lines):
        items = re.split(r"^- ", block, flags=re.MULTILINE)[1:]
        return "".join(("<ul>", *(f"<li>{_spans(' '.join(item.split()))}</li>" for item in items), "</ul>"))
    return f"<p>{_spans(' '.join(lines))}</p>"


def _table(lines: list[str]) -> str:
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = "".join(f'<th scope="col">{_spans(cell)}</th>' for cell in head)
    rows = "".join(f"<tr>{''.join(f'<td>{_spans(cell)}</td>' for cell in row)}</tr>" for row in body)
    return f'<div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'


def _spans(text: str) -> str:
    """Convert code, bold words and links to this page; other links become plain words."""

    def span(found: re.Match[str]) -> str:
        code, bold, stressed, words, where = found.groups()
        if code is not None:
            return f"<code>{escape(code)}</code>"
        if bold is not None:
            return f"<strong>{escape(bold)}</strong>"
        if stressed is not None:
            return f"<em>{escape(stressed)}</em>"
        return f'<a href="{escape(where)}">{escape(words)}</a>' if where.startswith("#") else escape(words)

    parts, at = [], 0
    for found in _SPAN.finditer(text):
        parts += [escape(text[at : found.start()]), span(found)]
        at = found.end()
    return "".join((*parts, escape(text[at:])))


def _anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub generates it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
