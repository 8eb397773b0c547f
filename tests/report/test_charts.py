"""Charts: values land where the axes say."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wsi_stain.report.charts import Chart, Series, chart, ticks

NUMBERS = st.floats(-1e6, 1e6)


@given(NUMBERS, NUMBERS)
@example(0.0, 1.6e-12)
@example(0.0, 1.1e-9)
def test_ticks_span_the_values_in_round_steps(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks(low, high)
    assert 2 <= len(found) <= 8
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    assert found[0] <= low + slack and found[-1] >= high - slack
    steps = {round((b - a) / (found[1] - found[0]), 3) for a, b in pairwise(found)}
    assert steps == {1.0}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.93, 1.04, [0.9, 0.95, 1.0, 1.05]), (1, 4, [1, 2, 3, 4])],
)
def test_ticks_by_hand(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def draw_chart(*series: Series) -> Chart:
    found = chart("t", "x", "y", series)
    assert found is not None
    return found


def test_points_stand_where_their_ticks_are() -> None:
    found = draw_chart(Series("a", "before", [(0, 0), (10, 5)], "points"))
    at = {tick.label: tick.at for tick in found.x_ticks}, {tick.label: tick.at for tick in found.y_ticks}
    assert found.drawn[0].dots == [(at[0]["0"], at[1]["0"]), (at[0]["10"], at[1]["5"])]
    assert found.drawn[0].dots[0][1] == found.bottom and found.drawn[0].dots[1][1] == found.top


@pytest.mark.parametrize(("last", "labels"), [(1, "012"), (3, "123"), (12, ["5", "10"])])
def test_what_is_counted_has_whole_ticks(last: int, labels: list[str]) -> None:
    found = chart("t", "epoch", "y", [Series("a", "after", [(n, n) for n in range(1, last + 1)])], counts=True)
    assert found is not None
    assert [tick.label for tick in found.x_ticks] == list(labels)
    assert all(found.left <= tick.at <= found.right for tick in found.x_ticks)


def test_ticks_of_an_axis_have_as_many_decimals() -> None:
    found = chart("t", "x", "y", [Series("a", "after", [(0, 1.0003), (1, 1.0011)])], covers=(0.99, 1.01))
    assert found is not None
    assert [tick.label for tick in found.y_ticks] == ["0.990", "0.995", "1.000", "1.005", "1.010"]
    assert [tick.label for tick in found.x_ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


def test_what_is_not_finite_is_left_out() -> None:
    assert chart("t", "x", "y", [Series("a", "after", [(0.0, float("nan"))])]) is None
    found = draw_chart(Series("a", "after", [(0, 0), (1, float("inf")), (2, 2)]))
    assert found.drawn[0].path.count("L") == 1


def test_a_histogram_holds_its_value_until_the_next() -> None:
    found = draw_chart(Series("a", "after", [(0, 0), (1, 4), (2, 0)], "steps"))
    heights = [float(y) for _x, y in re.findall(r"([\d.]+) ([\d.]+)", found.drawn[0].path)]
    assert heights == [found.bottom, found.bottom, found.top, found.top]


def test_an_interval_joins_two_values_and_no_more() -> None:
    found = draw_chart(Series("a", "after", [(0, 0), (0, 1), (2, 0), (2, 1)], "intervals"))
    assert found.drawn[0].path.count("M") == 2 and found.drawn[0].path.count("L") == 2


def test_a_name_stands_once_in_the_legend() -> None:
    many = [Series("each", "after", [(0, 0), (1, number)]) for number in range(3)]
    found = draw_chart(*many, Series("", "move", [(0, 0), (1, 1)]), Series("one", "before", [(0, 1)]))
    assert [drawn.name for drawn in found.legend] == ["each", "one"]
