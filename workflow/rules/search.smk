rule search:
    input:
        split=reads("split"),
        classes=reads("classes"),
        trained=reads("trained"),
    output:
        alphas="results/search/{dataset}/{method}/{seed}/{key}/alphas.parquet",
        history="results/search/{dataset}/{method}/{seed}/{key}/history.parquet",
        supernet="results/search/{dataset}/{method}/{seed}/{key}/supernet.safetensors",
        provenance="results/search/{dataset}/{method}/{seed}/{key}/provenance.json",
    log:
        "logs/search/{dataset}/{method}/{seed}/{key}.log",
    threads: threads_of
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: MEM_MB * attempt,
        runtime=minutes(720),
    shell:
        stage("search")
