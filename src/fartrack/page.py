"""The page that tracks in the browser: its files, and a server for them on this machine alone."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from functools import cached_property, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

from fartrack.demo.clip import CLIP
from fartrack.errors import FartrackError
from fartrack.packages import SHIPPED

GRAPHS = ("*/model.json", "*/*[!8]-*.onnx", "*/weights.safetensors")
"""What the page needs of the models: those in single precision."""

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",  # these two let the page use threads
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}  # whatever this system says


class Page:
    """The built page, the models and the sample clip, by their addresses."""

    def __init__(self) -> None:
        """Find the built page; FartrackError if it is not installed."""
        package = find_spec("fartrack_web")
        self.folder = Path(package.origin).with_name("page") if package and package.origin else None
        if not self.folder or not (self.folder / "index.html").is_file():
            raise FartrackError(
                "The page is a package of its own and is not installed; run make web in a checkout (it needs Node.js)."
            )

    @cached_property
    def files(self) -> dict[str, Path]:
        """Every file by its address relative to the page's, but for the list of the models' files."""
        assert self.folder
        built = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}
        return {**built, **{f"models/{name}": path for name, path in model_files()}, "sample.mp4": CLIP}

    @cached_property
    def index(self) -> bytes:
        """The models' files with size and SHA-256, as JSON; by the latter, browsers know what they have."""
        sums = {
            name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for name, path in model_files()
        }
        return json.dumps(sums, indent=1).encode()

    def save(self, folder: Path) -> None:
        """Write all files to a new folder, for any server of static files; FartrackError if it cannot be made."""
        try:
            folder.mkdir()
        except OSError as error:
            raise FartrackError(f"{folder} cannot be made ({error.strerror}); give the name of a new folder.") from None
        for name, path in self.files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        (folder / "models" / "files.json").write_bytes(self.index)


def model_files() -> Iterator[tuple[str, Path]]:
    """Those of the shipped models that the page needs, by their path among the models."""
    for pattern in GRAPHS:
        for path in sorted(SHIPPED.glob(pattern)):
            yield path.relative_to(SHIPPED).as_posix(), path


def open_server(page: Page, port: int) -> ThreadingHTTPServer:
    """A server of the page for this machine alone; port 0 takes a free one. FartrackError if it cannot be used."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, page))
    except (OSError, OverflowError) as error:
        raise FartrackError(f"Port {port} cannot be used ({error}); give another with --port.") from None


class _Handler(SimpleHTTPRequestHandler):
    """Answers with the page's files and no others."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, **TYPES}  # noqa: RUF012

    def __init__(self, page: Page, *args: object) -> None:
        self.page = page
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/models/files.json":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.page.index)))
        self.end_headers()
        self.wfile.write(self.page.index)

    def translate_path(self, path: str) -> str:
        name = path.partition("?")[0].lstrip("/") or "index.html"
        return str(self.page.files.get(name, ""))  # "" is answered by 404

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *args: object) -> None:
        pass
