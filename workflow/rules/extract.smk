# One second of one core, without PyTorch: runs on the machine that runs snakemake. In the queue, a hundred of these
# would wait longer than they run; grouped, one failed search would hold back the others of its group.
localrules:
    extract,


rule extract:
    input:
        alphas=reads("alphas"),
        genotype=reads("genotype"),
        classes=reads("classes"),
    output:
        genotype="results/extract/{dataset}/{method}/{seed}/{key}/genotype.json",
        normal=report(
            "results/extract/{dataset}/{method}/{seed}/{key}/normal.svg",
            caption="../report/cell.rst",
            category="Architectures",
            subcategory="{dataset}",
            labels={"method": "{method}", "seed": "{seed}", "cell": "normal"},
        ),
        reduce=report(
            "results/extract/{dataset}/{method}/{seed}/{key}/reduce.svg",
            caption="../report/cell.rst",
            category="Architectures",
            subcategory="{dataset}",
            labels={"method": "{method}", "seed": "{seed}", "cell": "reduce"},
        ),
        provenance="results/extract/{dataset}/{method}/{seed}/{key}/provenance.json",
    log:
        "logs/extract/{dataset}/{method}/{seed}/{key}.log",
    shell:
        stage("extract")
