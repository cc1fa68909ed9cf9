"""Texts that hypothesis makes: many scripts, and what the rules act on."""

from __future__ import annotations

from hypothesis import strategies as st

MARKS = list("''..,,\"\"()[]!?;:%-`´‘’‚“”„«»…—–_&#@/\\<>*=+$€。，、：；％（）．！？～━《》「」º²")
SPACES = [" "] * 20 + ["  ", "\u00a0", "\u2003", "\u3000", "\n", "\t", "\r", "\x1c", "\x85", "\u2028"]
HIDDEN = ["\u00ad", "\u200b", "\u200d", "\u200f", "\x00", "\u0378", "\ue000", "\U0010ffff", "\ud800", "\udc00"]
LETTERS = [*"aAbZzéÉsSt57１٣中文가あアกिкёЁıİßΣσςʼǅⅷªﬁＡｱﾞΪ", "\u0301", "\u0308", "\u0316", "\u0345", "\u302e"]
WORDS = [
    "Mr.",
    "No.",
    "z.B.",
    "D.C.",
    "e.g.",
    "usw.",
    "o'",
    "l'",
    "n't",
    "'s",
    "3.5",
    "1,000",
    ".5",
    ",5",
    "5,",
    "nº",
    "ºC",
    "cm",
]
WORDS += ["DOT", "MULTI", "DOTMULTI", "Şţ", "ăÂÎ", "😀", "...", "....", "--", "@-@", "中文，", "ΑΣ", "Σ.", "ΣΑΣ"]

# a text from all of these, or from a few of them: repetition is what rules over neighbours need
_ATOMS = [*MARKS, *SPACES, *HIDDEN, *LETTERS, *WORDS]
_FEW = st.lists(st.sampled_from(_ATOMS), min_size=2, max_size=6).flatmap(
    lambda few: st.lists(st.sampled_from([*few, " ", " "]), max_size=12)
)
texts = (
    st.lists(st.sampled_from(_ATOMS), max_size=12).map("".join)
    | _FEW.map("".join)
    | st.text(max_size=12)
    | st.text(alphabet=list("  ''.,\"()aA5<中\u00a0。`"), max_size=12)
)
plain_words = st.text(alphabet="abcde", min_size=1, max_size=60)
