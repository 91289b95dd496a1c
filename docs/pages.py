"""Hooks of MkDocs: README and model cards as pages, and links that only work in the repository as plain text."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
CARDS = ROOT / "src" / "fartrack" / "weights"


def on_files(files, config):
    """Add the pages whose text lies elsewhere."""
    pages = {"index.md": ROOT / "README.md"}
    pages |= {f"models/{card.parent.name}.md": card for card in sorted(CARDS.glob("*/CARD.md"))}
    for name, path in pages.items():
        files.append(File.generated(config, name, content=path.read_text("utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links as they are between pages of the site."""
    if page.file.src_uri == "index.md":
        markdown = re.sub(r"\]\(docs/", "](", markdown)
        markdown = re.sub(r"\]\(src/fartrack/weights/(\w+)/CARD\.md\)", r"](models/\1.md)", markdown)
    markdown = re.sub(r"\]\(\.\./(\w+)/CARD\.md\)", r"](\1.md)", markdown)
    return re.sub(r"\[([^]]+)\]\((?:\.\./|src/|benchmarks/|examples/)[^)]*\)", r"\1", markdown)


def on_page_content(html, page, config, files):
    """Sphinx's roles in docstrings, which Markdown does not know, as plain names."""
    return re.sub(r":(?:func|class|meth|mod|data):(?=<code>)", "", html)
