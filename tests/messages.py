"""What a message names, in whatever words."""

import re


def says(text: str, *facts: str) -> None:
    """Assert that a message is one line that names every fact, as whole words in any order."""
    assert text.strip().count("\n") == 0, text
    named = re.sub(r"(?<!\w)/\S*/", "", text)  # pytest names a test's folders after its case
    missing = [fact for fact in facts if not re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", named)]
    assert not missing, f"{missing} not in: {text}"
