"""Export a finished run as an RO-Crate: what was made, from what, by which code, where and when.

The crate is a Provenance Run Crate 0.5 (https://w3id.org/ro/wfrun/provenance), and so a Workflow Run Crate,
on RO-Crate 1.1. Stages are tools, rules are steps, and each job's record becomes its actions; files keep
their paths in the checkout. What is not in the crate (data, omitted weights) is described under a local
identifier, `#path`.
"""

import hashlib
import html
import io
import json
import mimetypes
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hlrs import __version__
from hlrs.artifacts.code_digest import PACKAGE
from hlrs.artifacts.data_digest import sha256
from hlrs.artifacts.files import check_new, replacing_folder
from hlrs.artifacts.jobs import FILES, OUTPUTS, PROVENANCE, Job
from hlrs.artifacts.records import Record
from hlrs.artifacts.tables import read_table
from hlrs.errors import Failure, UserError
from hlrs.provenance.citation import CITATION, Author, authors

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
TERMS = {"buildInstructions": "https://codemeta.github.io/terms/buildInstructions"}
WORKFLOW_PROFILE = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
LOCK_FORMAT = "https://pip.pypa.io/en/stable/reference/requirements-file-format/"
SNAKEMAKE = "https://snakemake.github.io"

CHECKOUT = PACKAGE.parent
WORKFLOW, LICENSE, README, LOCK = "Snakefile", "LICENSE", "README.md", "requirements.lock"
CODE = (
    "hlrs/**/*",
    "workflow/**/*",
    "profiles/default/*",
    "dvc.yaml",
    "pyproject.toml",
    CITATION,
    LICENSE,
    README,
    LOCK,
)
FORMATS = {  # that mimetypes does not know, or that depend on the system
    ".cff": "application/yaml",
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".py": "text/x-python",
    ".safetensors": "application/octet-stream",
    ".smk": "text/x-python",
    ".svg": "image/svg+xml",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
}
WEIGHTS = ".safetensors"
LISTED = 100  # data files; more are not described one by one, only counted, and their table named

TYPES = {bool: "Boolean", int: "Integer", float: "Float"}  # of parameters; all others are text
UNITS = {"seconds": "SEC", "peak_memory_bytes": "BYTE", "gpu_peak_memory_bytes": "BYTE", "resumes": "NUM"}
FACTS = (  # of a record, besides its measurements
    *("key", "code", "commit", "dirty", "lock", "versions"),
    *("host", "platform", "cpu", "device", "slurm_job"),
)


def export(jobs: list[Job], params: Path, target: Path, weights: bool) -> dict[str, int]:
    """Write the crate of a finished run to a new folder; return its numbers of jobs, files and bytes.

    Raises UserError if a result is missing, the folder is not empty, the code is not a checkout or its
    CITATION.cff is malformed; Failure if a file differs from its record.
    """
    missing = [job for job in jobs if not job.complete]
    if missing:
        raise UserError(
            f"{params}: {len(missing)} of the {len(jobs)} results that it asks for are missing; "
            "`hlrs status` shows what makes them"
        )
    check_new(target)
    for name in (WORKFLOW, LICENSE):
        if not (CHECKOUT / name).is_file():
            raise UserError(f"{CHECKOUT / name}: no such file; export with the `hlrs` of a checkout")
    crate = Description(jobs, params, weights).crate
    with replacing_folder(target.absolute()) as temporary:
        crate.write(temporary)
        sizes = [path.stat().st_size for path in temporary.rglob("*") if path.is_file()]
    return {"jobs": len(jobs), "files": len(sizes), "bytes": sum(sizes)}


class Description:
    """Builds the entities of a crate from the jobs of a run and their records."""

    def __init__(self, jobs: list[Job], params: Path, weights: bool) -> None:
        from rocrate.rocrate import ROCrate

        self.jobs = jobs
        self.report = next(job for job in jobs if job.stage == "report")
        self.weights = weights
        self.records = {job.key: Record.read(job.output(PROVENANCE)) for job in jobs}
        self.makers = {path: job for job in jobs for path in job.outputs}
        with ThreadPoolExecutor() as pool:
            self.digests = dict(zip(self.makers, pool.map(_digest, self.makers), strict=True))
        self._check()
        inside = not params.is_absolute() and ".." not in params.parts
        self.params = params.as_posix() if inside else params.name
        self.authors = authors(CHECKOUT / CITATION)
        self.slots: dict[str, dict[str, Any]] = {}  # formal parameters by identifier
        self.connections: dict[str, dict[str, str]] = {}  # stage -> slot of its input -> slot of an output

        self.crate = ROCrate(version="1.1")
        self.crate.metadata.extra_contexts.append(CONTEXT)
        self.crate.metadata.extra_terms.update(TERMS)
        self._code(params)
        self._results()
        for job in jobs:
            self._job(job)
        self._workflow()
        self._run()
        self._root()

    def _check(self) -> None:
        """Check every file against its own record and those of the jobs that read it."""
        for job in self.jobs:
            record, place = self.records[job.key], job.output(PROVENANCE)
            if fault := record.fault(job.directory.as_posix()):
                raise Failure(f"{place}: {fault}; `hlrs audit` shows the remedy")
            known = {str(job.output(name)): record.outputs.get(name) for name in OUTPUTS[job.stage]}
            known |= {entry.path: entry.sha256 for entry in record.inputs.values()}
            for path, digest in known.items():
                if self.digests.get(path) != digest:
                    raise Failure(f"{path}: not the file on record in {place}; `hlrs audit` shows the remedy")

    # --- entities -------------------------------------------------------------------------------------

    def add(self, identifier: str, kind: str, /, **properties: Any) -> str:
        """Describe something that is not a file in the crate, once, and return its identifier."""
        from rocrate.model.contextentity import ContextEntity

        if identifier not in self.crate:
            self.crate.add(ContextEntity(self.crate, identifier, {"@type": kind} | properties))
        return identifier

    def add_file(self, source: Path, path: str, digest: str, /, **properties: Any) -> None:
        """Copy a file into the crate under a path and describe it."""
        facts = _file_facts(path, source.stat().st_size, digest) | properties
        self.crate.add_file(source, path, properties=facts)

    def value(self, name: str, value: Any, /, **properties: Any) -> str:
        """Describe a named value, once if it recurs, and return its identifier."""
        plain = value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)
        spelled = quote(str(plain), safe="")
        if len(spelled) > 64:
            spelled = hashlib.sha256(spelled.encode()).hexdigest()
        return self.add(f"#{name}={spelled}", "PropertyValue", name=name, value=plain, **properties)

    def slot(self, stage: str, kind: str, name: str, type_: str, example: str) -> str:
        """Note a formal parameter and an example of it, and return its identifier.

        `kind`: input, parameter or output.
        """
        identifier = _slot(stage, kind, name)
        known = self.slots.setdefault(identifier, {"name": name, "types": set(), "example": example})
        known["types"].add(type_)
        return identifier

    def id_of(self, path: str) -> str:
        """Return the identifier of a result: its path, or a local one if the crate omits it."""
        return quote(path) if self.weights or not path.endswith(WEIGHTS) else f"#{quote(path)}"

    # --- files ----------------------------------------------------------------------------------------

    def _code(self, params: Path) -> None:
        """Add the files of the checkout and the parameter file."""
        found = sorted({path for pattern in CODE for path in CHECKOUT.glob(pattern) if path.is_file()})
        files = {p.relative_to(CHECKOUT).as_posix(): p for p in found if "__pycache__" not in p.parts}
        for path, source in (files | {self.params: params}).items():
            self.add_file(source, path, sha256(source), **self._about_code(path))

    def _about_code(self, path: str) -> dict[str, Any]:
        """Return the properties of a file of the checkout that do not follow from its contents."""
        if path == self.params:
            return {"exampleOfWork": _ref([f"{WORKFLOW}#params"])}
        if path == LICENSE:
            name = (CHECKOUT / LICENSE).read_text(encoding="utf-8").splitlines()[0]
            return {"@type": ["File", "CreativeWork"], "name": name}
        if path == README:
            return {"about": _ref(["./"])}
        if path == LOCK:
            self.add(LOCK_FORMAT, "WebPageElement", name="Requirements File Format of pip")
            return {"conformsTo": _ref([LOCK_FORMAT]), "encodingFormat": "text/plain"}
        stage = Path(path).stem
        if stage in OUTPUTS and path == _tool(stage):
            what = {"name": f"hlrs {stage}", "version": __version__, "url": _ref([README])}
            return {"@type": ["File", "SoftwareSourceCode"], **what}
        return {}

    def _results(self) -> None:
        """Add the jobs' files, each with the formal parameters that it is an example of."""
        examples: dict[str, set[str]] = {path: set() for path in self.makers}
        for job in self.jobs:
            connections = self.connections.setdefault(job.stage, {})
            for path in job.outputs:
                examples[path].add(self.slot(job.stage, "output", _name(path, job), "File", self.id_of(path)))
            for role, path in job.inputs.items():
                slot = self.slot(job.stage, "input", _without_run(role), "File", self.id_of(path))
                maker = self.makers[path]
                connections[slot] = _slot(maker.stage, "output", _name(path, maker))
                examples[path].add(slot)
        for path, job in self.makers.items():
            record = Path(path).name == PROVENANCE
            about = {"about": _ref([_action(job)])} if record else {}
            self._result(path, exampleOfWork=_ref(sorted(examples[path])), **about)

    def _result(self, path: str, /, **properties: Any) -> None:
        if self.id_of(path) == quote(path):
            self.add_file(Path(path), path, self.digests[path], **properties)
        else:
            facts = _file_facts(path, Path(path).stat().st_size, self.digests[path])
            left_out = "The file itself is not in this crate."
            self.add(self.id_of(path), "File", **facts, description=left_out, **properties)

    def _source(self, job: Job) -> str:
        """Describe the data that a job read, a split's images or a look-up's table; file by file if few."""
        identifier, split = _data(job), job.stage == "split"
        files = read_table(job.output(FILES), "files").to_pylist()
        size = sum(file["bytes"] for file in files)
        named = json.dumps(job.params["source" if split else "table"])
        described = (
            f"{named}; the files themselves are not in this crate. "
            f"{len(files)} files, {size} bytes; {FILES} of the {job.stage} has the SHA-256 of each."
        )
        facts: dict[str, Any] = {
            "name": f"Images of {job.run}" if split else "Table of accuracies",
            "identifier": job.params["content"],
            "contentSize": str(size),
            "subjectOf": _ref([self.id_of(str(job.output(FILES)))]),
        }
        if len(files) <= LISTED:
            facts["hasPart"] = _ref(
                self.add(f"{identifier}/{quote(f['name'])}", "File", **_file_facts(*f.values()))
                for f in files
            )
        return self.add(identifier, "Dataset", description=described, **facts)

    def _start(self, job: Job, file: dict[str, Any]) -> str:
        """Describe the file of weights that a retraining began with."""
        facts = _file_facts(job.params["retrain"]["start"], file["bytes"], file["sha256"])
        described = "Weights that trainings began with; the file itself is not in this crate."
        return self.add(f"#weights/{file['sha256']}", "File", **facts, description=described)

    # --- actions --------------------------------------------------------------------------------------

    def _job(self, job: Job) -> None:
        """Describe a job as a run of its tool and as a step of the workflow."""
        record = self.records[job.key]
        action = _action(job)
        consumed = [self.id_of(path) for path in job.inputs.values()]
        if FILES in OUTPUTS[job.stage]:
            consumed.append(self._source(job))
        if record.start is not None:
            consumed.append(self._start(job, record.start))
        self.add(
            action,
            "CreateAction",
            name=f"{job.stage} {job.run}",
            description=_where(job, record),
            **_times([record]),
            instrument=_ref([_tool(job.stage)]),
            object=_ref(consumed + self._parameters(job)),
            result=_ref(self.id_of(path) for path in job.outputs),
            **self._circumstances(action, record),
        )
        self.add(
            _step_action(job),
            "ControlAction",
            name=f"rule {job.stage}, {job.run}",
            instrument=_ref([_step(job.stage)]),
            object=_ref([action]),
        )

    def _parameters(self, job: Job) -> list[str]:
        """Describe a job's parameters and return their identifiers."""
        values = []
        for name, value in _leaves(job.params):
            slot = _slot(job.stage, "parameter", name)
            values.append(self.value(f"{job.stage}/{name}", value, exampleOfWork=_ref([slot])))
            self.slot(job.stage, "parameter", name, TYPES.get(type(value), "Text"), values[-1])
        return values

    def _circumstances(self, action: str, record: Record) -> dict[str, Any]:
        """Return the properties of an action that a record gives: resources, code, environment, machine."""
        body = record.body()
        measured = body | {"gpu_peak_memory_bytes": record.gpu_memory}
        facts = {name: body.get(name) for name in FACTS} | {"gpu": record.gpu_name}
        usage = [
            self.add(
                f"{action}/{name}",
                "PropertyValue",
                name=name,
                value=measured[name],
                propertyID=f"hlrs/pipeline/execute.py#{name}",  # defined by the code that measures it
                unitCode=f"https://qudt.org/vocab/unit/{unit}",
            )
            for name, unit in UNITS.items()
            if measured.get(name) is not None
        ]
        known = [self.value(name, fact) for name, fact in facts.items() if fact is not None]
        found = {"resourceUsage": _ref(usage), "additionalProperty": _ref(known)}
        if record.image:
            digest = record.image.removeprefix("sha256:")
            image = self.add(f"#image/{digest}", "ContainerImage", name="hlrs", sha256=digest)
            found["containerImage"] = _ref([image])
        return found

    def _run(self) -> None:
        """Describe the run of the workflow as an action, and that of Snakemake as what organized it."""
        records = list(self.records.values())
        sources = list(dict.fromkeys(_data(job) for job in self.jobs if FILES in OUTPUTS[job.stage]))
        self.add(
            "#run",
            "CreateAction",
            name="Run of the workflow",
            description=f"All that {self.params} asks for: {len(self.jobs)} jobs. Several invocations of "
            "Snakemake may have made them: a result that exists is kept.",
            **_times(records),
            instrument=_ref([WORKFLOW]),
            object=_ref([quote(self.params), *sources]),
            result=_ref(self.id_of(path) for path in self.makers),
        )
        version = self._snakemake()
        self.add(SNAKEMAKE, "SoftwareApplication", name="Snakemake", version=version, url=SNAKEMAKE)
        self.add(
            "#snakemake",
            "OrganizeAction",
            name=f"Run of Snakemake {version}",
            **_times(records),
            instrument=_ref([SNAKEMAKE]),
            object=_ref(_step_action(job) for job in self.jobs),
            result=_ref(["#run"]),
        )

    # --- workflow -------------------------------------------------------------------------------------

    def _snakemake(self) -> str:
        return str((self.records[self.report.key].versions or {}).get("snakemake", "of unknown version"))

    def _workflow(self) -> None:
        """Describe the Snakefile with its steps, tools and formal parameters."""
        made = {job.stage for job in self.jobs}
        stages = [stage for stage in OUTPUTS if stage in made]
        for position, stage in enumerate(stages, start=1):
            self._stage(stage, position)
        self.crate.add_workflow(
            CHECKOUT / WORKFLOW,
            WORKFLOW,
            main=True,
            lang="snakemake",
            lang_version=self._snakemake(),
            properties=self._about_workflow(stages),
        )
        self.slots[f"{WORKFLOW}#params"] = {
            "name": "params",
            "types": {"File"},
            "example": quote(self.params),
        }
        self._formal_parameters()

    def _about_workflow(self, stages: list[str]) -> dict[str, Any]:
        source = CHECKOUT / WORKFLOW
        return {
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            **_file_facts(WORKFLOW, source.stat().st_size, sha256(source)),
            "encodingFormat": "text/x-python",
            "name": "hlrs: neural architecture search for long-tailed images",
            "conformsTo": _ref([WORKFLOW_PROFILE]),
            "version": __version__,
            "url": _ref([README]),
            "license": _ref([LICENSE]),
            **({"author": _ref(map(self._author, self.authors))} if self.authors else {}),
            "input": _ref([f"{WORKFLOW}#params"]),
            "output": _ref(slot for stage in stages for slot in self._slots(stage, "output")),
            "hasPart": _ref(map(_tool, stages)),
            "step": _ref(map(_step, stages)),
            **({"buildInstructions": _ref([LOCK])} if LOCK in self.crate else {}),
        }

    def _author(self, author: Author) -> str:
        """Describe an author and return the identifier."""
        identifier = author.orcid or f"#author/{quote(author.name)}"
        return self.add(identifier, "Person" if author.person else "Organization", name=author.name)

    def _formal_parameters(self) -> None:
        """Describe the slots, once all their types are known."""
        for identifier, slot in self.slots.items():
            types = sorted(slot["types"])
            self.add(
                identifier,
                "FormalParameter",
                name=slot["name"],
                additionalType=types[0] if len(types) == 1 else types,
                workExample=_ref([slot["example"]]),
            )

    def _stage(self, stage: str, position: int) -> None:
        """Describe a rule as a step, with the connections from other steps' outputs to its tool's inputs."""
        tool = self.crate.get(_tool(stage))
        tool["input"] = _ref(self._slots(stage, "input") + self._slots(stage, "parameter"))
        tool["output"] = _ref(self._slots(stage, "output"))
        connections = [
            self.add(
                f"#connection/{into.replace('#', '/')}",
                "ParameterConnection",
                sourceParameter=_ref([out]),
                targetParameter=_ref([into]),
            )
            for into, out in self.connections[stage].items()
        ]
        self.add(
            _step(stage),
            "HowToStep",
            name=stage,
            position=str(position),
            workExample=_ref([_tool(stage)]),
            **({"connection": _ref(connections)} if connections else {}),
        )

    def _slots(self, stage: str, kind: str) -> list[str]:
        return [slot for slot in self.slots if slot.startswith(_slot(stage, kind, ""))]

    def _root(self) -> None:
        """Describe the crate itself, and add the page that people open first."""
        from rocrate.model.preview import Preview

        for profile, name in PROFILES.items():
            self.add(profile, "CreativeWork", name=name, version=profile.rsplit("/", 1)[1])
        root = self.crate.root_dataset
        root["conformsTo"] = _ref(PROFILES)
        root["name"] = self.report.params["report"]["title"]
        root["description"] = (
            f"A run of hlrs {__version__}, neural architecture search for long-tailed images: "
            f"{len(self.jobs)} jobs with their results{'' if self.weights else ' (not the weights)'}, "
            "parameters, code and records."
        )
        root["license"] = _ref([LICENSE])
        # the workflow's authors need not have run it, unless they are people: then somebody entered them
        if people := [author for author in self.authors if author.person]:
            root["author"] = _ref(map(self._author, people))
        root["mentions"] = _ref(["#run", "#snakemake", *map(_action, self.jobs)])
        report = quote(str(self.report.output("index.html")))
        page = _page(root["name"], root["description"], report, quote(self.params))
        self.crate.add(Preview(self.crate, io.StringIO(page)))


# --- names and parts of a description ---------------------------------------------------------------------


def _ref(identifiers: Iterable[str]) -> Any:
    """Refer to entities; a single reference stands without a list, as RO-Crate 1.1 recommends."""
    references = [{"@id": identifier} for identifier in identifiers]
    return references[0] if len(references) == 1 else references


def _data(job: Job) -> str:
    """The identifier of the data that a job read; look-ups share their table."""
    return f"#data/{quote(job.run)}" if job.stage == "split" else f"#table/{job.params['content']}"


def _tool(stage: str) -> str:
    return f"hlrs/stages/{stage}.py"


def _step(stage: str) -> str:
    return f"workflow/rules/{stage}.smk#{stage}"


def _slot(stage: str, kind: str, name: str) -> str:
    return f"{_tool(stage)}#{kind}/{quote(name)}"


def _action(job: Job) -> str:
    return f"#job/{job.stage}/{quote(job.run)}/{job.key}"


def _step_action(job: Job) -> str:
    return f"#step/{job.stage}/{quote(job.run)}/{job.key}"


def _name(path: str, job: Job) -> str:
    return Path(path).relative_to(job.directory).as_posix()


def _without_run(role: str) -> str:
    """Drop the run from an input's name: search/d/darts/0/history.parquet becomes search/history.parquet."""
    first, _, rest = role.partition("/")
    return f"{first}/{Path(rest).name}" if rest else first


def _digest(path: str) -> str:
    """SHA-256 of a result; Failure if it cannot be read."""
    try:
        if not Path(path).is_file():  # reading a FIFO would wait for ever
            raise Failure(f"{path}: is not a regular file; `hlrs audit` shows the remedy")
        return sha256(Path(path))
    except OSError as error:
        raise Failure(f"{path}: cannot be read: {error.strerror}") from None


def _file_facts(path: str, size: int, digest: str) -> dict[str, Any]:
    kind = FORMATS.get(Path(path).suffix.lower()) or mimetypes.guess_type(path)[0] or "text/plain"
    return {"name": path, "encodingFormat": kind, "contentSize": str(size), "sha256": digest}


def _leaves(params: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every parameter by its dotted name; a list is one value."""
    if isinstance(params, dict):
        for field, value in params.items():
            yield from _leaves(value, f"{name}.{field}" if name else field)
    else:
        yield name, params


def _times(records: list[Record]) -> dict[str, str]:
    started = [record.started or record.ended for record in records]
    return {"startTime": min(started), "endTime": max(record.ended for record in records)}


def _where(job: Job, record: Record) -> str:
    """Name the command of a job and the machine that it ran on."""
    slurm = f"SLURM job {record.slurm_job}" if record.slurm_job else None
    places = (record.host, record.gpu_name or record.cpu, slurm)
    return f"hlrs {job.stage} {job.run}, on {', '.join(filter(None, places))}"


def _page(title: str, description: str, report: str, params: str) -> str:
    """Write the HTML that people see: a description of the crate, links and the report."""
    links = {
        report: "the report, also below",
        params: "its parameters",
        README: "how to run it again",
        "ro-crate-metadata.json": "what each file is, and what made it, from what, where and when",
    }
    items = "\n".join(f'<li><a href="{link}">{link}</a>: {what}</li>' for link, what in links.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>
body {{ font-family: sans-serif; margin: 1rem; overflow-wrap: anywhere }}
iframe {{ width: 100%; height: 85vh; border: 1px solid gray }}
</style>
<h1>{html.escape(title)}</h1>
<p>{html.escape(description)}</p>
<ul>
{items}
</ul>
<iframe title="The report" src="{report}"></iframe>
</html>
"""
