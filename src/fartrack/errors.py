"""The one exception that users meet."""


class FartrackError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the thing and the mend. The command line prints it and exits
    with code 2; a program may catch this single class.
    """
