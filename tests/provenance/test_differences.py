"""Whether a job ran some code."""

from hlrs.artifacts.code_digest import Code, here
from hlrs.config.jobs import ExtractJob
from hlrs.config.spaces import DartsSpace
from hlrs.pipeline.plan import make_job
from hlrs.provenance.differences import ran


def test_code_without_a_spec_of_the_job_cannot_be_checked():
    """Its tables and class variables are found by the names of today's specs."""
    job = make_job("extract", "digits/darts/0", ExtractJob(genotype=None, space=DartsSpace()), {})
    files = {**here().files}
    assert ran(Code(files), job) is True
    changed = files["nas/relaxation.py"].replace(b"alphas.max(-1,", b"alphas.min(-1,")
    assert ran(Code(files | {"nas/relaxation.py": changed}), job) is False
    renamed = files["config/jobs.py"].replace(b"ExtractJob", b"ExtractionJob")
    assert ran(Code(files | {"config/jobs.py": renamed}), job) is None
