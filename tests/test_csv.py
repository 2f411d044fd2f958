"""Lists of clips as csv: what is read, and how every mistake in one is named."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsar_cache.errors import MissingError, UsageError
from splits.csvfile import load_csv
from splits.types import Split


def ids(split: Split) -> dict[str, list[str]]:
    return {name: [v.id for v in part.videos] for name, part in split.parts.items()}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_with_spans_and_partitions(tmp_path: Path) -> None:
    text = "id,class,path,start,end,partition\nb,walk,v/1.mp4,0.5,2,test\na,run,v/1.mp4,,3.25,train\n\nc,run,../x/../y.mp4,7,,test\n"
    text = text.replace("../x/../y.mp4", "x/../y.mp4")
    split = load_csv("mine", write(tmp_path / "l.csv", text))
    assert split.root == tmp_path
    assert ids(split) == {"train": ["a"], "test": ["b", "c"]}
    assert split.part("test").classes == ("run", "walk")
    spans = {v.id: (v.path, v.start, v.end) for p in split.parts.values() for v in p.videos}
    assert spans == {"b": ("v/1.mp4", 0.5, 2.0), "a": ("v/1.mp4", None, 3.25), "c": ("x/../y.mp4", 7.0, None)}


def test_csv_from_a_spreadsheet(tmp_path: Path) -> None:
    text = '\ufeffID, Path ,Class\r\n1, a.mp4 ,"sit, down"\r\n,,\r\n2,/abs/b.mp4,"say ""hi"""'
    split = load_csv("mine", write(tmp_path / "l.csv", text))
    made = [(v.id, v.label, v.path) for v in split.part("all").videos]
    assert made == [("1", "sit, down", "a.mp4"), ("2", 'say "hi"', "/abs/b.mp4")]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x,run", "2 values for 6 columns"),
        ("x,run,a.mp4,,,train,more", "7 values for 6 columns"),
        (",run,a.mp4,,,train", "no id"),
        ("x, ,a.mp4,,,train", "no class"),
        ("x,run,,,,train", "no path"),
        ("x,run,a.mp4,,,", "no partition"),
        ("x,run,a.mp4,,,my part", "partition can't be called"),
        ("x,run,../a.mp4,,,train", "leaves the folder"),
        ("x,run,b/../../a.mp4,,,train", "leaves the folder"),
        ("x,run,a.mp4,2,2,train", "not after the start"),
        ("x,run,a.mp4,,0,train", "not after the start"),
        ("x,run,a.mp4,3,1,train", "the end, 1 s, is not after the start, 3 s"),
        ("x,run,a.mp4,one,,train", "start is no number of seconds: 'one'"),
        ("x,run,a.mp4,-1,,train", "start is no number"),
        ("x,run,a.mp4,,nan,train", "end is no number"),
        ("x,run,a.mp4,,inf,train", "end is no number"),
        ("good,run,a.mp4,,,train", "stands already in line 2"),
        ("x,ru\x00n,a.mp4,,,train", "control character in class"),
        ('x,"ru\nn",a.mp4,,,train', "control character in class"),
        ('x,"run"s,a.mp4,,,train', "expected after"),
        ('x,"run,a.mp4,,,train', "unexpected end of data"),
    ],
)
def test_csv_names_the_bad_line(tmp_path: Path, line: str, why: str) -> None:
    head = "id,class,path,start,end,partition\ngood,run,a.mp4,,,train\n\n"
    with pytest.raises(UsageError) as caught:
        load_csv("mine", write(tmp_path / "l.csv", head + line))
    assert why in caught.value.message
    assert "l.csv: 1 bad line\n  line 4: " in caught.value.message
    assert repr(line)[1:-1] in caught.value.message, "the line itself is shown, control characters escaped"


def test_csv_shows_five_bad_lines_and_counts_all(tmp_path: Path) -> None:
    rows = "".join(f"{i},run\n{i},run,{i}.mp4\n" for i in range(7))
    with pytest.raises(UsageError) as caught:
        load_csv("mine", write(tmp_path / "l.csv", "id,class,path\n" + rows + '9,"a"b,c\n9,a,c\n'))
    assert caught.value.message.count("\n  line ") == 5
    assert "8 bad lines" in caught.value.message
    assert "line 10: 2 values for 3 columns: '4,run'" in caught.value.message
    assert "and 3 more" in caught.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id;class;path\n1;a;b\n", "by commas"),
        ("id\tclass\tpath\n1\ta\tb\n", "by commas"),
        ("id,class,file\n1,a,b\n", "'file'"),
        ("id,class,path,partiton\n1,a,b,c\n", "did you mean 'partition'"),
        ("id,class\n1,a\n", "no column path"),
        ("id,class,path,id\n1,a,b,c\n", "stands twice"),
        ('"id,class,path\n1,a,b\n', "no column id, class, path"),
        ("", "no column id"),
        (b"id,class,path\n1,caf\xe9,b\n", "line 2: not UTF-8"),
        ("id,class,path\n1,a,b\n".encode("utf-16"), "line 1: not UTF-8"),
    ],
)
def test_csv_refuses_a_wrong_header_or_encoding(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_csv("mine", write(tmp_path / "l.csv", text))
    assert says in f"{caught.value.message} {caught.value.hint}"


def test_csv_without_clips_or_that_is_a_folder_is_missing_data(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="lists no clips"):
        load_csv("mine", write(tmp_path / "l.csv", "id,class,path\n\n"))
    with pytest.raises(MissingError, match="can't read the list"):
        load_csv("mine", tmp_path)


_WORD = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=6)
_TIME = st.none() | st.floats(0, 1e6)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(_WORD, _WORD, _WORD, _TIME, st.sampled_from(["train", "val", "x-1"])),
        min_size=1,
        unique_by=lambda r: r[0],
    ),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
)
def test_csv_reads_what_the_csv_module_writes(
    tmp_path: Path, rows: list[tuple[str, str, str, float | None, str]], end: str, mark: bool
) -> None:
    made = io.StringIO(newline="")
    writer = csv.writer(made, lineterminator=end)
    writer.writerow(["partition", "start", "id", "path", "class"])
    for clip, label, path, start, partition in rows:
        writer.writerow([partition, start, clip, f"d/{path.strip('.')}", label])
    split = load_csv("mine", write(tmp_path / "l.csv", made.getvalue().encode("utf-8-sig" if mark else "utf-8")))
    got = {v.id: (v.label, v.path, v.start, n) for n, p in split.parts.items() for v in p.videos}
    assert got == {c: (label, f"d/{path.strip('.')}", start, n) for c, label, path, start, n in rows}
    for name, part in split.parts.items():
        assert list(part.ids) == [r[0] for r in rows if r[4] == name]
        assert part.classes == tuple(sorted({r[1] for r in rows if r[4] == name}))
