"""Where entities begin and end, against seqeval's definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xlm_runtime.pipelines.entity_tags import entity_ranges, read_tags

KINDS = ("PER", "LOC")
# BILOU's L and U are IOBES' E and S
ALIKE = str.maketrans("LU", "ES")
SCHEMES = ("BI", "IE", "BIES", "BILU")


def seqeval(labels: list[str]) -> list[tuple[str, int, int]]:
    """(kind, first, last) of entities: the rules of seqeval's `get_entities` (`start_of_chunk` and `end_of_chunk`)."""
    found = []
    before, kind_before, begin = "O", "", 0
    for place, label in enumerate([*labels, "O"]):
        letter, kind = label[0].translate(ALIKE), label[2:]
        ends = before in "ES" or (before in "BI" and letter in "BSO") or (before != "O" and kind_before != kind)
        begins = letter in "BS" or (before in "ESO" and letter in "EI") or (letter != "O" and kind_before != kind)
        if ends:
            found.append((kind_before, begin, place - 1))
        if begins:
            begin = place
        before, kind_before = letter, kind
    return found


@given(st.sampled_from(SCHEMES), st.data())
def test_entities_equal_seqevals(scheme: str, data: st.DataObject) -> None:
    known = ["O", *(f"{letter}-{kind}" for letter in scheme for kind in KINDS)]
    labels = data.draw(st.lists(st.sampled_from(known), max_size=9))
    tags = read_tags(known)
    ranges = entity_ranges([tags[label] for label in labels])
    kinds = [tags[labels[first]].kind for first, _ in ranges]
    entities = [(kind, first, stop - 1) for kind, (first, stop) in zip(kinds, ranges, strict=True) if kind != "O"]
    assert entities == seqeval(labels)
    assert [place for first, stop in ranges for place in range(first, stop)] == list(range(len(labels)))


def test_labels_that_only_look_like_tags() -> None:
    tags = read_tags(["O", "S-Bahn", "E-Mail", "PER", "B-LOC", "X-LOC", ""])
    assert [tags[label].kind for label in ("S-Bahn", "E-Mail", "PER", "B-LOC", "X-LOC", "")] == [
        "S-Bahn",
        "E-Mail",
        "PER",
        "LOC",
        "X-LOC",
        "",
    ]
