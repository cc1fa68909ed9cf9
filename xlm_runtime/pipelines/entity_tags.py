"""What the labels of tokens say beside their kind: where an entity begins and ends, in IOB, IOBES (BIOES) and BILOU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

# letter of a tag → (begins an entity, ends one), as seqeval reads them by default
_LETTERS = {
    "B": (True, False),
    "I": (False, False),
    "E": (False, True),
    "L": (False, True),
    "S": (True, True),
    "U": (True, True),
}


class EntityTag(NamedTuple):
    """A label's kind, such as PER, and whether it begins or ends an entity whatever stands beside it."""

    kind: str
    begins: bool = False
    ends: bool = False


def read_tags(labels: Iterable[str]) -> dict[str, EntityTag]:
    """The tag of each of a model's labels.

    E-, L-, S- and U- count as tags only where the kind also has a label with B- or I-: in a model without such tags
    "S-Bahn" is a label like others.
    """
    known = set(labels)
    tags = {}
    for label in known:
        letter, kind = label[:1], label[2:]
        is_tag = label[1:2] == "-" and letter in _LETTERS
        if is_tag and letter not in "BI":
            is_tag = f"B-{kind}" in known or f"I-{kind}" in known
        tags[label] = EntityTag(kind, *_LETTERS[letter]) if is_tag else EntityTag(label)
    return tags


def entity_ranges(tags: Sequence[EntityTag]) -> list[tuple[int, int]]:
    """(first, behind the last) of neighbouring tags that are one entity, or one stretch of a label without tags.

    An entity also begins where the kind changes, and behind one that has ended: `I-` may stand first, as in IOB1.
    """
    starts = [
        i for i, tag in enumerate(tags) if i == 0 or tag.begins or tags[i - 1].ends or tag.kind != tags[i - 1].kind
    ]
    return list(pairwise([*starts, len(tags)]))
