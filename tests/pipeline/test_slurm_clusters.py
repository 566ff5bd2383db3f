"""Where SLURM serves several clusters, it puts "CLUSTER: name" above what it lists."""

import pytest

from hlrs.errors import UserError
from hlrs.pipeline.slurm import ask
from hlrs.pipeline.slurm_profile import merge, survey
from hlrs.pipeline.snakemake import check_cluster
from tests.messages import says
from tests.pipeline.test_memory import snakemake


def test_the_clusters_name_is_no_part_of_an_answer():
    assert ask("printf", "CLUSTER: toy\ncpu*|up|2|no|1:00|(null)\n") == "cpu*|up|2|no|1:00|(null)\n"


def test_a_notice_of_the_site_is_no_partition():
    listing = "Maintenance on Monday\ncpu*|up|2|no|1:00|(null)\n\ngpu|up|2|no|2:00|gpu:a100:4(S:0-1)\n"
    assert [(partition.name, sorted(partition.gpus)) for partition in merge(listing)] == [
        ("cpu", []),
        ("gpu", ["a100"]),
    ]


@pytest.mark.parametrize("clusters", ["one,two", "all"])
def test_a_profile_for_several_clusters_is_refused_with_the_variable(monkeypatch, clusters):
    monkeypatch.setenv("SLURM_CLUSTERS", clusters)
    with pytest.raises(UserError, match=f"^SLURM_CLUSTERS={clusters}: .* set it to that cluster's name"):
        survey()


@pytest.mark.parametrize("name", ["cluster", "clusters", "slurm_cluster"])
@pytest.mark.parametrize("for_all", [True, False])
def test_a_profile_whose_jobs_squeue_would_not_list_is_refused(name, for_all):
    given = f"{name}='alps'"
    workflow = snakemake(defaults=[given]) if for_all else snakemake("gpu=0", given)
    for elsewhere in ({}, {"SLURM_CLUSTERS": "jura"}):
        with pytest.raises(UserError) as refused:
            check_cluster(workflow, elsewhere)
        says(str(refused.value), name, "alps", "squeue", "SLURM_CLUSTERS")
    check_cluster(workflow, {"SLURM_CLUSTERS": "alps"})
    check_cluster(snakemake("gpu=0", defaults=["mem_mb=1000"]), {})
