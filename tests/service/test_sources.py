"""Which files are meant, and how their documents are called."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.schemas import DocumentIn
from service.sources import document_id, find


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "notes/a.md",
        "notes/deep/b.txt",
        "notes/deep/c.html",
        "notes/picture.png",
        "notes/.hidden/d.md",
        "notes/.e.md",
        "f.log",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*given: str, root: Path = Path()) -> list[str]:
    return [source.name for source in find(given, root)]


def test_a_folder_means_all_files_below_it_that_can_be_read(folder: Path) -> None:
    assert names("notes") == ["notes/a.md", "notes/deep/b.txt", "notes/deep/c.html"]
    assert names(str(folder)) == [str(folder / name) for name in names("notes")]


def test_a_link_that_leads_out_of_a_folder_is_not_followed(folder: Path) -> None:
    (folder / "secret.txt").write_text("x")
    (folder / "notes" / "link.txt").symlink_to(folder / "secret.txt")
    (folder / "notes" / "within.txt").symlink_to(folder / "notes" / "deep" / "b.txt")
    assert names("notes") == ["notes/a.md", "notes/deep/b.txt", "notes/deep/c.html"]
    assert names("notes/link.txt") == ["notes/link.txt"], "unless it is named"


def test_a_pattern_means_what_it_matches_and_a_named_file_is_always_meant(folder: Path) -> None:
    assert names("notes/**/*.txt", "*.log") == ["notes/deep/b.txt", "f.log"]
    assert names(f"{folder}/*.log") == [f"{folder}/f.log"]
    assert names("notes/picture.png", "-") == ["notes/picture.png", "-"]


def test_what_is_meant_twice_is_taken_once(folder: Path) -> None:
    assert names("notes/a.md", "notes", str(folder / "notes/a.md")) == names("notes")


def test_what_means_nothing_is_kept_so_that_reading_it_says_so(folder: Path) -> None:
    (folder / "void").mkdir()
    assert names("none.txt", "[/red].txt", "*.none", "void") == ["none.txt", "[/red].txt", "*.none", "void"]


def test_ids_stay_whatever_way_a_file_is_named(folder: Path) -> None:
    [one], [other] = find(["notes/a.md"], Path()), find([str(folder / "notes" / ".." / "notes" / "a.md")], Path())
    assert one.document_id == other.document_id == "notes:a.md"
    assert document_id("notes/a.md", Path("notes")) == "a.md"
    assert document_id("/elsewhere/a.md", folder) != document_id("/other/a.md", folder)
    assert document_id("-", folder) is None


paths = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60), min_size=1, max_size=4
)


@given(paths, paths)
def test_ids_are_valid_and_different_files_have_different_ones(one: list[str], other: list[str]) -> None:
    ids = []
    for parts in (one, other):
        path = Path("/root-of-test").joinpath(*[p for p in parts if p not in (".", "..")] or ["x"])
        named = document_id(str(path), Path("/root-of-test"))
        assert named is not None
        assert DocumentIn(text="x", id=named).id == named
        assert re.fullmatch(r"[A-Za-z0-9._:-]+", named)
        ids.append((path, named))
    assert (ids[0][0] == ids[1][0]) == (ids[0][1] == ids[1][1])
