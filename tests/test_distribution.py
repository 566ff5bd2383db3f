"""What others find at first glance: how to cite, the workflow catalog's files, and the installed package."""

import yaml

from hlrs import __version__
from tests.conftest import REPOSITORY


def read(name):
    """A YAML file (JSON is YAML) of the repository."""
    return yaml.safe_load((REPOSITORY / name).read_text())


def test_the_citation_and_the_archive_say_the_same():
    citation, archive = read("CITATION.cff"), read(".zenodo.json")
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what CFF 1.2.0 requires
    assert archive["creators"] == [{"name": author["name"]} for author in citation["authors"]]
    assert archive["description"] == f"<p>{citation['abstract']}</p>"
    for name in ("title", "license", "keywords"):
        assert archive[name] == citation[name]
    assert archive["license"] == (REPOSITORY / "LICENSE").read_text().split()[0]
