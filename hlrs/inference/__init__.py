"""Trained networks in use: found, applied to images, exported."""

CHANGES_NO_RESULT = True  # so no code digest covers it (artifacts/code_digest.py)
