rule retrain:
    input:
        split=reads("split"),
        classes=reads("classes"),
        genotype=reads("genotype"),
        alphas=reads("alphas"),
        supernet=reads("supernet"),
        trained=reads("trained"),
    output:
        weights="results/retrain/{dataset}/{method}/{seed}/{key}/weights.safetensors",
        history="results/retrain/{dataset}/{method}/{seed}/{key}/history.parquet",
        features="results/retrain/{dataset}/{method}/{seed}/{key}/features.parquet",
        provenance="results/retrain/{dataset}/{method}/{seed}/{key}/provenance.json",
    log:
        "logs/retrain/{dataset}/{method}/{seed}/{key}.log",
    threads: threads_of
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: MEM_MB * attempt,
        runtime=minutes(1440),
    shell:
        stage("retrain")
