rule report:
    input:
        results=reads_all,
    output:
        page=report(
            "results/report/all/{key}/index.html",
            caption="../report/page.rst",
            category="Report",
            labels={"page": "all runs"},
        ),
        figures="results/report/all/{key}/figures.zip",
        metrics="results/report/all/{key}/metrics.json",
        tables=[
            report(
                f"results/report/all/{{key}}/{table}.csv",
                caption=f"../report/{table}.rst",
                category="Tables",
                labels={"table": table},
            )
            for table in ("runs", "summary", "differences", "claim", "classes")
        ],
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
