import pytest
from tiny_training import write_config, write_images


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """The file of a slim detector's configuration, beside a set of images of its own."""
    folder = tmp_path_factory.mktemp("tiny")
    write_images(folder)
    return write_config(folder)
