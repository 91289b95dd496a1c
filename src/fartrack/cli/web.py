"""The command ``web``: the page that tracks in the browser."""

import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from fartrack.cli.common import app
from fartrack.page import Page, open_server

PORT = 8427


@app.command()
def web(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = PORT,
    no_open: Annotated[bool, typer.Option("--no-open", help="do not open the browser")] = False,
    save: Annotated[
        Path | None, typer.Option(help="write the page to a new folder instead, for any server of static files")
    ] = None,
) -> None:
    """Track in the browser: a page, served on this machine alone, that uploads nothing."""
    page = Page()
    if save:
        page.save(save)
        print(f"saved {save}")
        return
    with open_server(page, port) as server, suppress(KeyboardInterrupt):
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"{address} (Ctrl-C ends it)", flush=True)
        if not no_open:
            webbrowser.open(address)
        server.serve_forever()
