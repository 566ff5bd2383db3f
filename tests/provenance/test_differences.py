"""Whether a job ran some code, and what differs where a method builds on another."""

from hlrs.artifacts.code_digest import Code, here
from hlrs.config.jobs import ExtractJob
from hlrs.config.params import load
from hlrs.config.spaces import DartsSpace
from hlrs.pipeline.plan import make_job, plan
from hlrs.provenance.differences import Change, compare, ran
from tests.conftest import edit


def test_code_without_a_spec_of_the_job_cannot_be_checked():
    """Its tables and class variables are found by the names of today's specs."""
    job = make_job("extract", "digits/darts/0", ExtractJob(genotype=None, space=DartsSpace()), {})
    files = {**here().files}
    assert ran(Code(files), job) is True
    changed = files["nas/relaxation.py"].replace(b"alphas.max(-1,", b"alphas.min(-1,")
    assert ran(Code(files | {"nas/relaxation.py": changed}), job) is False
    assert ran(Code(files | {"nas/relaxation.py": b"def softmax(:\n"}), job) is False
    renamed = files["config/jobs.py"].replace(b"ExtractJob", b"ExtractionJob")
    assert ran(Code(files | {"config/jobs.py": renamed}), job) is None


def test_an_entry_that_had_no_kind_in_an_earlier_version_is_described():
    """As the optimizer of a retraining, when it was always SGD."""
    sgd, lr = {"kind": "sgd", "lr": 0.1}, {"lr": 0.1}
    assert str(Change("retrain.weights", lr, sgd)) == "retrain.weights.kind (absent) -> sgd (lr 0.1)"
    assert str(Change("retrain.weights", sgd, lr)).startswith('retrain.weights {"kind": "sgd", ')


METHODS = {
    "base": {"searcher": {"kind": "resnet", "depth": 20, "width": 4}, "retrain": {"batch_size": 8}},
    "deeper": {"searcher": {"kind": "resnet", "depth": 32, "width": 8}, "retrain": {"batch_size": 8}},
    "iac": {"searcher": {"kind": "implant", "method": "base", "portion": 2}},
    "drawn": {"searcher": {"kind": "implant", "method": "base", "cell": "random"}},
}


def test_what_cells_are_implanted_on_is_named_by_the_method_that_trains_it(workspace):
    path = workspace / "params.yaml"
    edit(path, methods=METHODS, **{"matrix.methods": [*METHODS], "report": {}})
    old = {(job.stage, job.run): job for job in plan(load(path))}

    def words(stage, method, **changes):
        content = path.read_text()
        edit(path, **changes)
        params = load(path)
        path.write_text(content)
        [job] = [job for job in plan(params) if (job.stage, job.run) == (stage, f"digits/{method}/0")]
        found = compare(job, old[job.stage, job.run], params)
        return [str(change) for change in found.changes], found.inputs

    wider = {"methods.base.searcher.width": 8}
    assert words("retrain", "base", **wider) == (["methods.base.searcher.width 4 -> 8"], [])
    for changes in (wider, {"methods.iac.searcher.method": "deeper"}):
        assert words("search", "iac", **changes) == ([], ["trained"])
        assert words("retrain", "iac", **changes) == ([], ["genotype", "trained"])
    faster = {"methods.base.retrain.weights": {"lr": 0.5}}
    assert words("retrain", "iac", **faster)[0] == ["methods.base.retrain.weights.lr 0.025 -> 0.5"]
    portion = {"methods.iac.searcher.portion": 4}
    assert words("search", "iac", **portion) == (["methods.iac.searcher.portion 2 -> 4"], [])
    drawn = {"methods.iac.searcher": {"kind": "implant", "method": "base", "cell": "random"}}
    assert "methods.iac.searcher.kind implant -> implant (cell random)" in words("search", "iac", **drawn)[0]
    fewer = {"search.space": {"kind": "darts", "primitives": ["none", "skip_connect"]}}
    for method in ("iac", "drawn"):
        [change] = words("search", method, **fewer)[0]
        assert change.startswith("search.space.primitives ["), change
