"""Texts of files: what they are, and what is said of those that have none."""

import sys
import zlib

import pytest

from service.errors import ServiceError
from service.extract import Unreadable, text_of

HTML = b"""<!DOCTYPE html><html><head><title>T</title><script>var hidden = 1;</script></head><body><nav><a href="/">Home</a></nav>
<article><h1>Maria</h1><p>Maria Okafor lives in Bergen &amp; likes it.</p><p>%s</p></article></body></html>""" % (
    b"It rained. " * 30
)


def pdf(text: str) -> bytes:
    """A page that says `text`."""
    stream = zlib.compress(f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode())
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return out + end % (table, len(out))


@pytest.mark.parametrize("name", ["a.txt", "README.md", "-", "Makefile"])
def test_text_and_markdown_are_taken_as_they_are(name: str) -> None:
    assert text_of(name, "# Größe\n\n*viel*\n".encode()) == "# Größe\n\n*viel*\n"
    assert text_of(name, b"\xef\xbb\xbfwith a mark") == "with a mark"


@pytest.mark.parametrize("name", ["a.html", "a.HTM", "-"])
def test_html_is_its_text_without_what_surrounds_it(name: str) -> None:
    text = text_of(name, HTML)
    assert "Maria Okafor lives in Bergen & likes it." in text
    assert text_of(name, b"<html><body><div>A short page.</div></body></html>") == "A short page."
    for noise in ("hidden", "<p>", "Home"):
        assert noise not in text


@pytest.mark.parametrize("name", ["a.pdf", "-"])
def test_pdf_is_the_text_of_its_pages(name: str) -> None:
    assert text_of(name, pdf("Maria Okafor lives in Bergen.")).strip() == "Maria Okafor lives in Bergen."


def test_a_damaged_pdf_that_can_be_read_is_read_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """What its library thinks of it names no file, and would stand in the middle of a terminal."""
    damaged = pdf("Maria Okafor lives in Bergen.").replace(b"startxref\n", b"startxref\n9")
    assert text_of("a.pdf", damaged).strip() == "Maria Okafor lives in Bergen."
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("a.txt", b" \n", "empty"),
        ("a.txt", b"\xff\xfe", "UTF-8"),
        ("a.txt", b"a\0b", "NUL"),
        ("a.pdf", b"no such thing", "cannot be read as PDF"),
        ("a.pdf", pdf("whole")[:200], "cannot be read as PDF"),
        ("a.pdf", pdf(""), "pictures"),
        ("a.html", b"", "no text"),
        ("a.html", b"<html><body></body></html>", "no text"),
    ],
)
def test_a_file_without_text_is_refused_with_the_reason(name: str, raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        text_of(name, raw)


@pytest.mark.parametrize(("name", "package"), [("a.pdf", "pypdf"), ("a.html", "trafilatura")])
def test_a_missing_package_is_named_with_the_extra_that_has_it(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ServiceError, match=r"pip install 'infold\[documents\]'"):
        text_of(name, b"anything")
    assert text_of("a.txt", b"text needs none") == "text needs none"
