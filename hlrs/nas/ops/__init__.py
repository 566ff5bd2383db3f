"""How operations are made fast; nothing else imports Triton."""
