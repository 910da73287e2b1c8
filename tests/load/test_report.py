"""The one table, and the page that it is put into."""

import pytest

from load_tests.rig.judge import GENERATOR_BOUND, Result, Sample
from load_tests.rig.report import BEGIN, END, Row, comparison, gathered, put_between_marks, table

CPU = Row("cpu", "CPU (us)", reach="<= 1.0 x")
LATENCY = Row("p50", "added (ms)", "difference", 2, "ms")


@pytest.mark.parametrize(
    ("row", "ours", "theirs", "text"),
    [
        (CPU, Result(50.0), Result(100.0), "0.50 x"),
        (CPU, Result(60.0), Result(6000.0), "1/100"),
        (CPU, Result(60.0), Result(0.0), ""),
        (CPU, Result(60.0), None, ""),
        (CPU, Result(60.0), Result(1.0, GENERATOR_BOUND), GENERATOR_BOUND),
        (CPU, Result(1.0, "errors"), Result(60.0), "errors"),
        (LATENCY, Result(0.25), Result(0.1), "+0.15 ms"),
        (LATENCY, Result(0.1), Result(0.25), "-0.15 ms"),
        (Row("lost", "lost", "nothing"), Result(0.0), Result(1.0), ""),
    ],
)
def test_comparison_is_made_only_of_good_numbers(
    row: Row, ours: Result, theirs: Result | None, text: str
) -> None:
    assert comparison(row, ours, theirs) == text


def test_table_has_a_line_for_each_row_that_was_measured() -> None:
    results = gathered(
        [
            Sample("cpu", "lamplighter", 1200.0),
            Sample("cpu", "nginx", 20.0, GENERATOR_BOUND),
            Sample("cpu", "lamplighter", 1300.0),
            Sample("cpu", "nginx", 20.0, GENERATOR_BOUND),
        ]
    )
    lines = table([CPU, LATENCY], ["lamplighter", "nginx"], results).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["", "lamplighter", "nginx", "to nginx", "reach"]
    assert cells[2:] == [["CPU (us)", "1,250.0", GENERATOR_BOUND, GENERATOR_BOUND, "<= 1.0 x"]]
    assert len({len(line) for line in lines}) == 1


def test_page_keeps_what_stands_around_the_marks() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert put_between_marks(page, "new\n") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_page_without_marks_is_not_touched() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        put_between_marks("nothing here", "new")
