rule report:
    input:
        inputs,
    output:
        page="results/report/all/{key}/index.html",
        figures="results/report/all/{key}/figures.zip",
        metrics="results/report/all/{key}/metrics.json",
        tables=expand(
            "results/report/all/{{key}}/{table}.csv", table=["runs", "summary", "differences", "classes"]
        ),
        plots=expand(
            "results/report/all/{{key}}/plots/{plot}.csv",
            plot=["class_counts", "class_accuracy", "search", "retrain"],
        ),
        provenance="results/report/all/{key}/provenance.json",
    log:
        "logs/report/all/{key}.log",
    resources:
        mem_mb=4000,
        runtime=minutes(30),
    shell:
        stage("report")
