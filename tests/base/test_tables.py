"""CSV tables: what is written comes back as it was; what is no table is said to be none."""

import math

import pandas as pd
import pytest

from brittle.base.errors import UserError
from brittle.base.tables import mean, number, read_cells, read_rows, read_table, write_csv

VALUES = [
    0,
    -3,
    10**20,
    0.1 + 0.2,
    -0.0,
    1e-300,
    1e16,
    math.inf,
    -math.inf,
    True,
    False,
    None,
    "a, b",
    "two\nlines",
    "carriage\rreturn",
    'a "quote"',
    "007",
    "1_000",
    " 5",
    "3.1.4",
    "12345e678",
    "true",
    "é🙂",
]


def test_values_come_back_as_they_were(tmp_path):
    write_csv(tmp_path / "x.csv", ["value"], [{"value": v} for v in VALUES])
    back = [row["value"] for row in read_rows(tmp_path / "x.csv")]
    assert [(type(v), repr(v)) for v in back] == [(type(v), repr(v)) for v in VALUES]
    write_csv(tmp_path / "again.csv", ["value"], [{"value": v} for v in back])
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "x.csv").read_bytes()


def test_not_a_number_comes_back(tmp_path):
    write_csv(tmp_path / "x.csv", ["value"], [{"value": math.nan}])
    (row,) = read_rows(tmp_path / "x.csv")
    assert math.isnan(row["value"]) and number(row["value"]) is None


def test_columns_of_text_stay_text(tmp_path):
    rows = [{"name": "42", "n": 42}, {"name": "True", "n": 1}, {"name": None, "n": None}]
    write_csv(tmp_path / "x.csv", ["name", "n"], rows)
    assert read_rows(tmp_path / "x.csv", text=["name"]) == rows
    assert read_rows(tmp_path / "x.csv")[0] == {"name": 42, "n": 42}
    assert read_cells(tmp_path / "x.csv")[2] == {"name": "", "n": ""}


def test_a_table_has_nan_for_an_empty_cell(tmp_path):
    rows = [{"layer": 0, "norm": 0.1 + 0.2, "name": "a"}, {"layer": 1, "norm": None, "name": "b"}]
    write_csv(tmp_path / "x.csv", ["layer", "norm", "name"], rows)
    table = read_table(tmp_path / "x.csv", ["layer"])
    wanted = pd.DataFrame(rows)
    pd.testing.assert_frame_equal(table, wanted)
    assert table["norm"].dtype == "float64" and math.isnan(table["norm"][1])


def test_hand_written_numbers_are_numbers(tmp_path):
    (tmp_path / "x.csv").write_text("﻿a,b,c\n1e-5,.50,2.\n", encoding="utf-8")
    assert read_rows(tmp_path / "x.csv") == [{"a": 1e-5, "b": 0.5, "c": 2.0}]


def test_no_file_has_no_rows(tmp_path):
    assert read_cells(tmp_path / "x.csv") == read_rows(tmp_path / "x.csv") == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a,b\n1\n", "row 1 has 1 cells under 2 columns"),
        (b"a,b\n1,2\n1,2,3\n", "row 2 has 3 cells under 2 columns"),
        (b'a,b\n1,"2\n', "is no CSV table"),
        (b"a,b\n\xff,2\n", "is no CSV table"),
        (b"a,c\n1,2\n", "has no column b"),
        (b"a,b\n", "has no row"),
        (b"", "has no row"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, content, says):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_rows(tmp_path / "x.csv", needs=["b"])
    with pytest.raises(UserError, match=says):
        read_table(tmp_path / "x.csv", ["b"])


def test_numbers_and_their_mean():
    assert [number(v) for v in (2, 0.5, math.inf, True, "2", None)] == [
        2,
        0.5,
        None,
        None,
        None,
        None,
    ]
    assert mean([1, None, 2]) == 1.5 and mean([None]) is None and mean([]) is None
