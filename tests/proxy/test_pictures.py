"""Pictures are drawn without a warning (which fails a test), whatever is in them."""

from pathlib import Path

import pytest

from proxy.pictures import Axis, Line, Mark, Scale, draw_lines

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("number", [0, 1, 9])
def test_any_number_of_lines_and_marks_is_drawn(tmp_path: Path, scale: Scale, number: int) -> None:
    lines = [Line(f"line {n}", [(1.0, 1.0 + n / 100), (10.0, 5.0)]) for n in range(number)]
    marks = [Mark((5.0 + n / 100, 3.0), f"{n:,} here") for n in range(number)]
    file = tmp_path / "lines.png"
    draw_lines(file, "Some lines", Axis("x", scale), Axis("y", scale), lines, marks)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_line_without_points_has_no_label(tmp_path: Path) -> None:
    file = tmp_path / "lines.svg"
    lines = [Line("drawn", [(0.0, 1.0), (2.0, 3.0)]), Line("empty", [])]
    draw_lines(file, "t", Axis("x"), Axis("y"), lines)
    assert "<!-- drawn -->" in file.read_text()  # matplotlib notes the text that it draws
    assert "<!-- empty -->" not in file.read_text()
