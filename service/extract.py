"""Texts of files: plain text, Markdown, HTML and PDF.

Covered: what a file is, by its name or its first bytes; its text. Not covered: finding files (`sources.py`), scanned pages, which
need character recognition. HTML and PDF need the extra `documents`.
"""

import io
import logging
from pathlib import Path

from service.errors import ServiceError

for _library in ("pypdf", "trafilatura"):  # what they log about a file names none: it can be read, or `Unreadable` says why not
    logging.getLogger(_library).setLevel(logging.CRITICAL)
PDF, HTML = {".pdf"}, {".html", ".htm", ".xhtml"}
SUFFIXES = PDF | HTML | {".txt", ".text", ".md", ".markdown", ".rst"}
"""What is read of a folder; a file that is named may be called anything."""


class Unreadable(ServiceError):
    """There is no text in a file, or none that can be read."""


def text_of(name: str, raw: bytes) -> str:
    """The text of a file.

    Raises:
        Unreadable: with the reason.
    """
    suffix = Path(name).suffix.lower()
    if raw.startswith(b"%PDF-") or suffix in PDF:
        text, without = _pdf(raw), "there is no text in it; are its pages pictures?"
    elif suffix in HTML or raw[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        text, without = _html(raw), "there is no text in it"
    else:
        text, without = _plain(raw), "it is empty"
    if not text.strip():
        raise Unreadable(without)
    return text


def _plain(raw: bytes) -> str:
    if b"\0" in raw:
        raise Unreadable("it contains NUL characters; is it a binary file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 text: {error}") from error


def _html(raw: bytes) -> str:
    try:
        import trafilatura
    except ImportError as error:
        raise _missing("HTML", error) from error
    try:
        return trafilatura.extract(raw) or trafilatura.html2txt(raw)
    except Exception as error:  # whatever a parser raises over bytes that somebody else wrote
        raise Unreadable(f"it cannot be read as HTML: {error}") from error


def _pdf(raw: bytes) -> str:
    try:
        import pypdf
    except ImportError as error:
        raise _missing("PDF", error) from error
    try:
        return "\n\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(raw)).pages)
    except Exception as error:  # as above
        raise Unreadable(f"it cannot be read as PDF: {error}") from error


def _missing(kind: str, error: ImportError) -> Unreadable:
    return Unreadable(f"{kind} needs more packages ({error}): pip install 'infold[documents]'")
