rule split:
    output:
        split="results/split/{dataset}/{key}/split.parquet",
        classes="results/split/{dataset}/{key}/classes.json",
        files="results/split/{dataset}/{key}/files.parquet",
        provenance="results/split/{dataset}/{key}/provenance.json",
    log:
        "logs/split/{dataset}/{key}.log",
    resources:
        mem_mb=4000,
        runtime=minutes(30),
    shell:
        stage("split")
