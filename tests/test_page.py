"""The server of the page, with a page of one file in place of the built one."""

import hashlib
import http.client
import json
import threading

import pytest

from fartrack.errors import FartrackError
from fartrack.packages import SHIPPED
from fartrack.page import Page, open_server


@pytest.fixture
def page(tmp_path, monkeypatch):
    folder = tmp_path / "installed" / "fartrack_web"
    (folder / "page" / "assets").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "page" / "index.html").write_text("<p>box")
    (folder / "page" / "assets" / "engine.wasm").write_bytes(b"\0asm")
    monkeypatch.syspath_prepend(folder.parent)
    return Page()


@pytest.fixture
def get(page):
    """A function that asks a running server for an address: status, headers, content."""
    with open_server(page, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def ask(path):
            connection = http.client.HTTPConnection(*server.server_address, timeout=10)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read()

        yield ask
        server.shutdown()


def test_page_models_and_sample_are_served_isolated(get):
    status, headers, content = get("/")
    assert (status, content) == (200, b"<p>box")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert get("/assets/engine.wasm?1")[1]["Content-type"] == "application/wasm"
    assert get("/sample.mp4")[1]["Content-type"] == "video/mp4"
    files = json.loads(get("/models/files.json")[2])
    assert {"pico/model.json", "pico/weights.safetensors", "pico/search-6.onnx"} <= files.keys()
    for name in ("pico/model.json", "pico/template-6.onnx"):
        content = get(f"/models/{name}")[2]
        assert content == (SHIPPED / name).read_bytes()
        assert files[name] == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize(
    "path", ["/none", "/assets/", "/models/../../errors.py", "/../../../../etc/passwd", "//etc/passwd"]
)
def test_nothing_else_is_served(get, path):
    assert get(path)[0] == 404


def test_a_folder_for_any_server(page, tmp_path):
    page.save(tmp_path / "site")
    files = json.loads((tmp_path / "site" / "models" / "files.json").read_text())
    for name, about in files.items():
        assert (tmp_path / "site" / "models" / name).stat().st_size == about["size"]
    assert (tmp_path / "site" / "index.html").read_text() == "<p>box"
    with pytest.raises(FartrackError, match="new folder"):
        page.save(tmp_path / "site")


def test_a_port_that_is_taken(page):
    with open_server(page, 0) as server, pytest.raises(FartrackError, match=r"Port \d+ cannot be used"):
        open_server(page, server.server_port)


def test_without_the_page(monkeypatch):
    monkeypatch.setattr("fartrack.page.find_spec", lambda name: None)
    with pytest.raises(FartrackError, match="run make web"):
        Page()
