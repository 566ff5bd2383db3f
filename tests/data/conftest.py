"""What the tests of sources share."""

import pytest


@pytest.fixture
def write(tmp_path):
    """Write a file; its path, as text."""

    def write_file(name, content):
        (tmp_path / name).write_bytes(content)
        return str(tmp_path / name)

    return write_file
