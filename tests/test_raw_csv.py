"""Raw CSV files by block: each row has its number in the file, whatever stands between the rows."""

import gzip
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.prepared_writer import PreparedWriter
from pipelines.raw import raw_csv
from pipelines.raw.csv_lines import UNSPLIT
from pipelines.raw.raw_csv import CsvLayout, RawCsv, read_header
from pipelines.schema import PreparedError

ROOT = Path(__file__).parents[1]
COMMAS = CsvLayout()


def read(folder, text, *, refuse="bad", layout=COMMAS, **options):
    """Rows kept with their numbers, rejected rows as (row, reason), and the file's count of rows."""
    (folder / "raw.csv").write_bytes(text.encode())
    with PreparedWriter(folder / "out", dataset="test", overwrite=True) as writer:
        raw = RawCsv(folder / "raw.csv", ["a", "b"], writer=writer, layout=layout, **options)
        kept = []
        for block in raw:
            bad = np.array([value == refuse for value in block["b"].to_pylist()], bool)
            raw.reject(bad, "b", block["b"], "bad value")
            kept += [value for value, refused in zip(block["a"].to_pylist(), bad) if not refused]
        numbers = raw.rows_of_kept(np.arange(len(kept))).tolist()
        writer.items(pd.DataFrame({"item_id": ["1"], "title": [""], "text": [""]}))
    rejected = pd.read_parquet(folder / "out" / "rejected.parquet")
    return list(zip(numbers, kept)), sorted(zip(rejected["row"], rejected["reason"])), raw.rows


@pytest.mark.parametrize("block", [1, 16, 4 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoted", [True, False])
def test_blank_lines_count_as_rows_of_the_file(tmp_path, monkeypatch, block, end, quoted):
    monkeypatch.setattr(raw_csv, "BLOCK_BYTES", block)
    lines = ["a,b", "", "1,x", "", "", "2,bad", "too few", "3,y", "", "4,bad", "5,z", ""]
    found = read(tmp_path, end.join(lines) + end, layout=CsvLayout(quoted=quoted))
    assert found == (
        [(3, "1"), (8, "3"), (11, "5")],
        [(6, "bad value"), (7, "wrong number of fields"), (10, "bad value")],
        6,
    )


def test_where_nothing_is_quoted_a_quote_beside_a_blank_line_is_a_letter(tmp_path):
    found = read(tmp_path, 'a,b\n\n"1,x\n2,"y"\n', layout=CsvLayout(quoted=False))
    assert found == ([(3, '"1'), (4, "2")], [], 2)


def test_line_breaks_within_cells_are_one_row(tmp_path):
    text = 'a,b\n1,"two\n\nlines"\n\n2,bad\n3,x\n'
    assert read(tmp_path, text, quoted_newlines=True) == ([(2, "1"), (5, "3")], [(4, "bad value")], 3)


LONG = "\n".join(["<ul>", *(f"<li>feature {number}, good</li>" for number in range(25)), "</ul>"])


def test_a_cell_of_many_lines_is_one_row(tmp_path):
    text = f'a,b\n1,"{LONG}"\n2,bad\n3,"x\n\n{LONG}\n"\n'
    assert read(tmp_path, text, quoted_newlines=True) == ([(2, "1"), (4, "3")], [(3, "bad value")], 3)


def test_a_cell_of_many_lines_in_a_row_of_too_many_fields_costs_that_row(tmp_path):
    lines = LONG.replace(", good", "")
    text = f'a,b\n1,"{lines}",more\n2,x\n'
    assert read(tmp_path, text, quoted_newlines=True) == ([(3, "2")], [(2, "wrong number of fields")], 2)


def test_a_cell_may_be_longer_than_what_pythons_parser_takes_by_itself(tmp_path):
    text = f'a,b\n1,"{LONG * 300}"\n2,x\n'
    assert read(tmp_path, text, quoted_newlines=True) == ([(2, "1"), (3, "2")], [], 2)


def test_a_stray_quote_does_not_swallow_the_few_rows_up_to_the_next_quoted_cell(tmp_path):
    found = read(tmp_path, 'a,b\n1,"x\n2,y\n3,"z"\n4,w\n', quoted_newlines=True)
    assert found == ([(3, "2"), (4, "3"), (5, "4")], [(2, UNSPLIT)], 4)


def test_a_blank_after_a_closing_quote_is_forgiven(tmp_path):
    assert read(tmp_path, 'a,b\n1,"two\nlines" \n2,x\n', quoted_newlines=True) == ([(2, "1"), (3, "2")], [], 2)


@pytest.mark.parametrize("last", ['"z"', "z", 'five",more'], ids=["quoted", "never closed", "inches"])
def test_a_stray_quote_does_not_swallow_the_rows_after_it(tmp_path, last):
    rows = "".join(f"{number},y\n" for number in range(3000))
    kept, rejected, count = read(tmp_path, f'a,b\n1,"x\n{rows}2,{last}\n3,x\n', quoted_newlines=True)
    assert (2, UNSPLIT) in rejected
    assert len(kept) >= 3001
    assert count == 3003


@pytest.mark.parametrize("line", ['27","', '1,"x', '"x', '27",",'])
def test_quotes_in_every_line_cost_no_more_time_than_lines(tmp_path, line):
    """Each of these lines leaves a quote open; looking for the end of each would take minutes."""
    start = time.process_time()
    _, _, count = read(tmp_path, f"a,b\n{(line + chr(10)) * 40_000}2,x\n", quoted_newlines=True)
    assert count > 1
    assert time.process_time() - start < 20


def test_a_row_that_is_not_utf_8_is_named_in_one_line(tmp_path):
    (tmp_path / "articles.csv").write_bytes(b"a,b\n1,x\n\n\xff,2,3\n")
    code = (
        "import sys; from pathlib import Path; from pipelines.prepared_writer import PreparedWriter\n"
        "from pipelines.raw.raw_csv import RawCsv; from pipelines.schema import PreparedError\n"
        "try:\n"
        "    with PreparedWriter('out', dataset='test') as writer:\n"
        "        list(RawCsv(Path('articles.csv'), ['a', 'b'], writer=writer))\n"
        "except PreparedError as error: print(error)"
    )
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("articles.csv: row 4 is not UTF-8; convert the file")
    assert done.stderr == ""


def test_an_absent_file_says_where_to_look(tmp_path):
    with pytest.raises(PreparedError, match="missing; check --raw"), PreparedWriter(tmp_path / "out", dataset="t") as w:
        RawCsv(tmp_path / "none.csv", ["a"], writer=w)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("a,b\n1,x\n".encode("utf-16"), "is UTF-16; .*iconv -f UTF-16"),
        ("\ufeffa,b\n1,x\n".encode("utf-16-be"), "is UTF-16"),
        ("a,b\n1,x\n".encode("utf-16-le"), "is UTF-16"),
        (b"PK\x03\x04 and more\n", "is a zip archive or a spreadsheet"),
        (b"a,b\r1,x\r2,y\r", r"CR alone.*tr '\\r' '\\n' < raw.csv"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("layout", [COMMAS, CsvLayout(names=("a", "b"))])
def test_what_is_no_text_in_utf_8_is_told_with_its_cure(tmp_path, data, says, pack, layout):
    (tmp_path / "raw.csv").write_bytes(pack(data))
    with pytest.raises(PreparedError, match=says):
        read_header(tmp_path / "raw.csv", layout)


def test_blanks_around_names_of_columns_do_not_count(tmp_path):
    assert read(tmp_path, "\ufeff a , b\n1,x\n") == ([(2, "1")], [], 1)


def test_only_columns_that_may_be_empty_are_advised_to_be_added_so(tmp_path):
    with pytest.raises(
        PreparedError, match="column 'b' is missing .found a.; restore it .* or add it with empty values"
    ):
        read(tmp_path, "a\n1\n", may_be_empty=("b",))
    with pytest.raises(PreparedError, match="column 'b' is missing .*it is required") as error:
        read(tmp_path, "a\n1\n", may_be_empty=("a",))
    assert "empty values" not in str(error.value)
