# As short as an extraction (extract.smk), so it also runs on the machine that runs snakemake.
localrules:
    lookup,


rule lookup:
    input:
        genotype=reads("genotype"),
    output:
        lookup="results/lookup/{dataset}/{method}/{seed}/{key}/lookup.json",
        files="results/lookup/{dataset}/{method}/{seed}/{key}/files.parquet",
        provenance="results/lookup/{dataset}/{method}/{seed}/{key}/provenance.json",
    log:
        "logs/lookup/{dataset}/{method}/{seed}/{key}.log",
    shell:
        stage("lookup")
