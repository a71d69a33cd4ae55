"""The page at /: files of `service/ui` as they are.

Covered: those files by name. Not covered: the policy that lets them load nothing from elsewhere (`middleware.py`).
"""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FILES = {path.name: path for path in (Path(__file__).parent.parent / "ui").iterdir() if path.suffix in _TYPES}
"""By name: nothing else can be asked for."""


@router.get("/")
async def page() -> FileResponse:
    """The page itself."""
    return _file(_FILES["index.html"])


@router.get("/ui/{name}")
async def part(name: str) -> FileResponse:
    """One of its parts."""
    if name not in _FILES:
        raise HTTPException(404, f"the page has no part {name!r}")
    return _file(_FILES[name])


def _file(path: Path) -> FileResponse:
    headers = {"Cache-Control": "no-cache"}  # they are small, and others after an upgrade
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=headers)
