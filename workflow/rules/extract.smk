rule extract:
    input:
        inputs,
    output:
        genotype="results/extract/{dataset}/{method}/{seed}/{key}/genotype.json",
        normal="results/extract/{dataset}/{method}/{seed}/{key}/normal.svg",
        reduce="results/extract/{dataset}/{method}/{seed}/{key}/reduce.svg",
        provenance="results/extract/{dataset}/{method}/{seed}/{key}/provenance.json",
    log:
        "logs/extract/{dataset}/{method}/{seed}/{key}.log",
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        stage("extract")
