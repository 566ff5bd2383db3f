"""What params.yaml may say: frozen pydantic models, no torch.

These modules declare and never act, so no stage's code digest covers them: what was said is in a job's key,
every default written out.
"""
