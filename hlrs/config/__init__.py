"""What params.yaml may say: frozen pydantic models, no torch.

These modules only declare, so no stage's code digest covers them: a job's key holds its parameters, every
default written out.
"""
