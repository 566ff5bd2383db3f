# A second of one core, and no PyTorch: the machine that runs snakemake does it. In the queue a hundred of these
# would wait longer than they run, and grouped, one failed search would hold back the others of its group.
localrules:
    extract,


rule extract:
    input:
        inputs,
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
