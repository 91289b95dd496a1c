"""What tests of evaluation share."""

import pytest

from miniature import WRITERS


@pytest.fixture
def write_sequence(tmp_path):
    """A function that writes one sequence in the layout of a benchmark into a folder; it returns the sequence's."""

    def write(benchmark, name, root=None, **options):
        return WRITERS[benchmark](root or tmp_path, name, **options)

    return write
