"""CSV that a spreadsheet may open: text is never run, numbers stay numbers."""

import csv
import io

import pytest

from hlrs.report.exports import comma_separated


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_text_that_would_be_a_formula_is_preceded_by_an_apostrophe(start):
    text = f"{start}HYPERLINK(1)"
    found = list(csv.reader(io.StringIO(comma_separated(["class", text], [[text, f"a{text}"]]), newline="")))
    read = text.replace("\r", "\n")  # within quotes, so that it begins no row
    assert found == [["class", f"'{read}"], [f"'{read}", f"a{read}"]]


def test_numbers_and_other_texts_stay_as_they_are():
    rows = [[-0.5, -3, 1e-12, float("-inf"), None, "few-shot", "", "'quoted"]]
    assert comma_separated(["a"], rows) == "a\n-0.5,-3,1e-12,,,few-shot,,'quoted\n"
