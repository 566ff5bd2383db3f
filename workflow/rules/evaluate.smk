rule evaluate:
    input:
        split=reads("split"),
        classes=reads("classes"),
        genotype=reads("genotype"),
        alphas=reads("alphas"),
        weights=reads("weights"),
    output:
        metrics=report(
            "results/evaluate/{dataset}/{method}/{seed}/{key}/metrics.json",
            caption="../report/metrics.rst",
            category="Evaluation",
            subcategory="{dataset}",
            labels={"method": "{method}", "seed": "{seed}"},
        ),
        predictions="results/evaluate/{dataset}/{method}/{seed}/{key}/predictions.parquet",
        provenance="results/evaluate/{dataset}/{method}/{seed}/{key}/provenance.json",
    log:
        "logs/evaluate/{dataset}/{method}/{seed}/{key}.log",
    threads: threads_of
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=minutes(30),
    shell:
        stage("evaluate")
