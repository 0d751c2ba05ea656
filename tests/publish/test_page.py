"""Pages of results: what a browser gets."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from PIL import Image

import records
from publish import page
from publish.page import Page, Picture, Section, Sound, Table


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of it all, as a browser would read them."""

    def __init__(self, path: Path):
        super().__init__()
        self.all, self.text, self.open = [], "", []
        self.feed(path.read_text())
        assert not self.open, "not closed"

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def attributes(self, tag):
        return [attributes for name, attributes in self.all if name == tag]

    def addresses(self):
        return [a[key] for _, a in self.all for key in ("src", "href") if key in a]


@pytest.fixture
def files(tmp_path):
    """A picture, and a second of sound at 22,050 Hz."""
    Image.new("RGB", (3, 2), "red").save(tmp_path / "red.png")
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    soundfile.write(tmp_path / "tone.wav", tone, 22050)
    return tmp_path


def example(folder: Path) -> Page:
    section = Section(
        "Question <1> & more",
        headline='About <script>alert("1")</script> `a < b`',
        lines=("See [the report](report/report.pdf), **now**.",),
        pictures=(Picture(folder / "red.png", 'red "and" <flat>', "A synthetic picture"),),
        tables=(Table("synthetic", ["a", "b"], [["1 < 2", "`--x`"]]),),
        sounds=(Sound(folder / "tone.wav", "noon <b>", "newn <b>", "a synthetic voice"),),
        commands=("python x.py > y",),
    )
    return Page("Title & <co>", ("**All** synthetic.",), (section,))


def test_embedded_page_needs_nothing_else(files):
    path = page.render(example(files), files / "deep" / "index.html", embed=True)
    elements = Elements(path)
    assert all(address.startswith("data:") for address in elements.addresses() if "report" not in address)
    (picture,), (sound,) = elements.attributes("img"), elements.attributes("audio")
    assert picture["alt"] == 'red "and" <flat>'
    kind, data = picture["src"].split(";base64,")
    assert (kind, base64.b64decode(data)) == ("data:image/png", (files / "red.png").read_bytes())
    kind, data = sound["src"].split(";base64,")
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert (kind, rate, samples.ndim, len(samples)) == ("data:audio/flac", 16000, 1, 16000)
    loudest = np.abs(np.fft.rfft(samples)).argmax()  # one second: bins of 1 Hz
    assert loudest == 440


def test_texts_are_escaped(files):
    elements = Elements(page.render(example(files), files / "index.html", embed=True))
    assert not elements.attributes("script")
    assert not elements.attributes("b")
    for shown in ('<script>alert("1")</script>', "Question <1> & more", "1 < 2", "noon <b>", "python x.py > y"):
        assert shown in elements.text
    assert {"code", "strong"} <= {tag for tag, _ in elements.all}


def test_linked_page_points_to_the_files(files):
    path = page.render(example(files), files / "deep" / "index.html", embed=False)
    elements = Elements(path)
    assert [a["src"] for a in elements.attributes("img") + elements.attributes("audio")] in (
        ["../red.png", "../tone.wav"],
    )
    (link,) = elements.attributes("a")
    assert (path.parent / link["href"]).resolve() == records.ROOT / "report" / "report.pdf"


@pytest.mark.parametrize(
    ("said", "written"), [("noon", "newn."), ("a long way", "long way"), ("same", "same"), ("", "x"), ("all", "")]
)
def test_pieces_mark_what_is_wrong(said, written):
    pieces = Sound(Path(), said, written, "").pieces
    assert "".join(text for text, wrong in pieces if text != "_") == written
    kept = iter(said)
    assert all(
        letter in kept for text, wrong in pieces if not wrong for letter in text
    )  # in the order of what was said
    assert any(wrong for _, wrong in pieces) == (said != written)


def test_table_of_markdown():
    text = "| a | b\\|c |\n|---|---|\n| **1** | `x` |\n\nA note."
    assert page.table_of_markdown(text, "Caption.") == Table("Caption. A note.", ["a", "b|c"], [["**1**", "`x`"]])


def test_committed_page_is_whole():
    """results/index.html: every link and picture exists, every picture has a text, and says what is synthetic."""
    path = records.ROOT / "results" / "index.html"
    elements = Elements(path)
    for address in elements.addresses():
        if not address.startswith("data:"):
            assert not urlsplit(address).scheme, "only what is in the repository"
            assert (path.parent / address).exists(), address
    assert elements.attributes("img")
    assert all(len(picture["alt"]) > 20 for picture in elements.attributes("img"))
    assert len(path.read_bytes()) < 200_000


def test_committed_page_is_that_of_the_results(tmp_path):
    from publish import results_page

    committed = records.ROOT / "results" / "index.html"
    made = page.render(results_page.results_page(records.ROOT), tmp_path / "results" / "index.html", embed=False)
    there = committed.read_text()
    # from elsewhere, the way to the repository is another
    assert Elements(made).text == Elements(committed).text
    assert there.count("<img") == made.read_text().count("<img")


def test_captions_say_what_is_real_and_what_is_synthetic():
    from publish import results_page

    for stem, (_, caption) in results_page.PICTURES.items():
        question, _, plot = stem.partition("/")
        run = next(
            path for path in sorted((records.ROOT / "results" / question).glob("*.json"), key=lambda p: -len(p.stem))
            if plot.startswith(path.stem.replace("-lstm-seed0", ""))
        )  # fmt: skip
        assert records.load_result(run)["data"]["source"] in caption
