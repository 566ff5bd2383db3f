"""Who is to be cited: the authors in `CITATION.cff`."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hlrs.errors import UserError

CITATION = "CITATION.cff"
REMEDY = "mend it (https://citation-file-format.github.io), or `git checkout` it"


@dataclass(frozen=True)
class Author:
    """A person, or an organization (which CFF calls an entity); `orcid` is an address, None if unknown."""

    name: str
    person: bool
    orcid: str | None


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str | None = None
    given: str | None = Field(None, alias="given-names")
    particle: str | None = Field(None, alias="name-particle")
    family: str | None = Field(None, alias="family-names")
    suffix: str | None = Field(None, alias="name-suffix")
    alias: str | None = None
    orcid: str | None = Field(None, pattern="^https://orcid.org/[0-9]{4}(-[0-9]{4}){2}-[0-9]{3}[0-9X]$")

    def author(self) -> Author:
        parts = (self.given, self.particle, self.family, self.suffix)
        person = " ".join(part for part in parts if part) or self.alias
        return Author(self.name or person or "anonymous", self.name is None, self.orcid)


class _Citation(BaseModel):
    authors: list[_Entry] = Field(min_length=1)


def authors(path: Path) -> list[Author]:
    """Return the authors of a CITATION.cff; none if there is no file. UserError for one that is malformed."""
    if not path.is_file():
        return []
    try:
        body = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        return [entry.author() for entry in _Citation.model_validate(body).authors]
    except ValidationError as error:
        [first, *_] = error.errors()
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(f"{path}: {field}: {first['msg']}; {REMEDY}") from None
    except (YAMLError, ValueError, RecursionError):
        raise UserError(f"{path}: not valid YAML; {REMEDY}") from None
