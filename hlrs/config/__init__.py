"""What params.yaml may say: frozen pydantic models, no torch.

A job's key holds its parameters, every default written out. So of these modules its code digest covers only
what the code asks of specs beyond that (artifacts/code_digest.py): class variables, properties, and the
defaults of specs that the code itself constructs.
"""

CHANGES_NO_RESULT = True
