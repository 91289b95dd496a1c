"""The one exception that users meet, and what keeps secrets out of what it says."""

import re


class FartrackError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names what is wrong and how to fix it, without the secrets of a URL. The command
    line prints it and exits with code 2; a program may catch this single class.
    """

    def __init__(self, message: str) -> None:
        """Take the sentence; what it holds of a file name that is not UTF-8 is escaped, so that it can be printed."""
        super().__init__(redact(message).encode("utf-8", "backslashreplace").decode())


URL = re.compile(r"(?i)([a-z][a-z0-9+.-]+:/+)([^\s?#]*)([?#](?:\*{3}|\S*))?")
SECRET = re.compile(r"(?i)((?:pass|pwd|token|key|secret|auth|sig)[^=/&;]*=)[^/&;]+")


def redact(text: str) -> str:
    """The text without what may be secret in its URLs: user and password, the query, and values such as passwords.

    A password may hold @ and /, so what looks like one goes up to the last @ of the path.
    """

    def hide(match: re.Match[str]) -> str:
        scheme, place, query = match.groups()
        _, at, tail = place.rpartition("@")
        if at and re.search("[@:]", place.split("/")[0]):
            place = tail
        return scheme + SECRET.sub(r"\1***", place) + ("?***" if query else "")

    return URL.sub(hide, text)
