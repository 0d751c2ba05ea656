"""Results as one page for a browser: sections with a headline, pictures, tables, sounds and commands.

`render` fills in page.html. The page holds its pictures and sounds itself (the demonstration's, which may be moved), or
links them where they lie (that of results/, as the repository has its plots already). Texts may hold Markdown's `code`,
**bold**, *emphasis* and [links](address); all other characters are shown as they are.
"""

from __future__ import annotations

import base64
import io
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jinja2
from markupsafe import Markup, escape
from rapidfuzz.distance import Levenshtein

import records

CELLS = re.compile(r"(?<!\\)\|")  # a bar that is not escaped


@dataclass(frozen=True)
class Picture:
    """A PNG file; `alt` says what it shows to those who do not see it."""

    path: Path
    alt: str
    caption: str


@dataclass(frozen=True)
class Sound:
    """A sound file with the text that was spoken and the one that was written down for it."""

    path: Path
    said: str
    written: str
    note: str

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """`written` in pieces, and whether each is wrong; a gap stands for what was left out."""
        pieces = []
        for edit in Levenshtein.opcodes(self.said, self.written):
            text = self.written[edit.dest_start : edit.dest_end] or "_"
            pieces.append((text, edit.tag != "equal"))
        return pieces


@dataclass(frozen=True)
class Table:
    """Cells as texts; `caption` says what they are, and whether that is synthetic."""

    caption: str
    header: list[str]
    rows: list[list[str]]


def table_of_markdown(text: str, caption: str = "") -> Table:
    """A table that README.md has, too. What stands below it is added to the caption."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    notes = [line for line in text.splitlines() if line and not line.startswith("|")]
    header, _, *body = [[cell.strip().replace(r"\|", "|") for cell in CELLS.split(row)[1:-1]] for row in rows]
    return Table(" ".join([caption, *notes]).strip(), header, body)


@dataclass(frozen=True)
class Section:
    title: str
    headline: str = ""
    lines: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    sounds: tuple[Sound, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    title: str
    intro: tuple[str, ...]
    sections: tuple[Section, ...]


# --- rendering ---------------------------------------------------------------------------------------

INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*|\[([^]]+)\]\(([^)\s]+)\)")


def inline(text: str, root: str = "") -> Markup:
    """A text's `code`, **bold**, *emphasis* and [links](address, from `root`) as HTML; all else is escaped."""
    parts, end = [], 0
    for match in INLINE.finditer(text):
        code, bold, emphasis, label, address = match.groups()
        parts.append(escape(text[end : match.start()]))
        if address:
            parts.append(Markup('<a href="{}">{}</a>').format(root + address, label))
        else:
            tag = "code" if code else "strong" if bold else "em"
            parts.append(Markup(f"<{tag}>{{}}</{tag}>").format(code or bold or emphasis))
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def source(item: Picture | Sound, folder: Path, embed: bool) -> str:
    """The address of a picture or sound: its own contents, or the way to it from the page's folder."""
    if not embed:
        return Path(os.path.relpath(item.path, folder)).as_posix()
    kind, data = ("image/png", item.path.read_bytes()) if isinstance(item, Picture) else ("audio/flac", flac(item.path))
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def flac(path: Path) -> bytes:
    """A sound file as FLAC, mono, 16 bit, 16 kHz: every browser plays it, at half a WAV file's size."""
    import soundfile  # these take seconds, and the page of results/ has no sound

    from common.speech.audio import SAMPLE_RATE, read_audio

    buffer = io.BytesIO()
    soundfile.write(buffer, read_audio(path).numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def render(page: Page, path: str | Path, embed: bool) -> Path:
    """Write a page, in one file where `embed`; otherwise its pictures and sounds are linked where they lie."""
    path = Path(path)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    root = f"{Path(os.path.relpath(records.ROOT, path.parent)).as_posix()}/"
    environment.filters |= {
        "inline": partial(inline, root=root),
        "source": partial(source, folder=path.parent, embed=embed),
    }
    records.write_file(path, environment.get_template("page.html").render(page=page).encode() + b"\n")
    return path
