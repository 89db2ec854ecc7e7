"""Stand-ins of text: plain, in pairs, and with labels."""

import hashlib
from collections import Counter

import pytest

from fromfound.data import DATASETS
from fromfound.standin_text import TEXTS, english, french, prose

pytestmark = pytest.mark.usefixtures("no_data")


def test_plain_text_has_the_form_of_each_dataset(made) -> None:
    assert len(prose()) > 500
    assert all(text.endswith(".") and "\n" not in text for text in prose())
    lines = (made("nietzsche") / "nietzsche.txt").read_text("utf-8").splitlines()
    assert lines[0] == "PREFACE"
    assert max(map(len, lines)) <= 80
    play = (made("tinyshakespeare") / "input.txt").read_text("utf-8")
    assert sum(line.endswith(":") for line in play.splitlines()) >= len(prose())
    books = made("openstax")
    for part, count in (("train", 16), ("valid", 1)):
        lines = (books / f"{part}.txt").read_text("utf-8").splitlines()
        assert sum(line.startswith("= ") and line.endswith(" =") for line in lines) == count
    for part in ("train", "valid", "test"):
        text = (made("wikitext2") / f"{part}.txt").read_text("utf-8")
        assert text.startswith(" \n = ")
        assert all(line == " " or (line[0], line[-1]) == (" ", " ") for line in text.splitlines())
        assert 0.005 < text.split().count("<unk>") / len(text.split()) < 0.2


def test_reviews_have_labels_that_words_tell(made) -> None:
    folder = made("imdb") / "aclImdb"
    for part, label, count in (
        ("train", "pos", 1000),
        ("train", "neg", 1000),
        ("train", "unsup", 500),
        ("test", "pos", 500),
        ("test", "neg", 500),
    ):
        files = list((folder / part / label).iterdir())
        assert len(files) == count
        ratings = {int(path.stem.split("_")[1]) for path in files}
        assert ratings == {"pos": {7, 8, 9, 10}, "neg": {1, 2, 3, 4}, "unsup": {0}}[label]
    words = {
        label: Counter(
            word
            for path in (folder / "train" / label).iterdir()
            for word in path.read_text("utf-8").replace("<br />", " ").split()
        )
        for label in ("pos", "neg")
    }
    for good, bad in (("superb.", "awful."), ("charming.", "tedious.")):
        assert words["pos"][good] > 1.2 * words["neg"][good] > 0
        assert words["neg"][bad] > 1.2 * words["pos"][bad] > 0


def test_human_numbers_are_the_real_ones(made) -> None:
    for file in DATASETS["human_numbers"].files:
        content = (made("human_numbers") / file.name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256


@pytest.mark.parametrize(
    "number, ours, theirs",
    [
        (0, "zero", "zéro"),
        (17, "seventeen", "dix-sept"),
        (21, "twenty one", "vingt et un"),
        (22, "twenty two", "vingt-deux"),
        (70, "seventy", "soixante-dix"),
        (71, "seventy one", "soixante et onze"),
        (80, "eighty", "quatre-vingts"),
        (81, "eighty one", "quatre-vingt-un"),
        (91, "ninety one", "quatre-vingt-onze"),
        (99, "ninety nine", "quatre-vingt-dix-neuf"),
        (100, "one hundred", "cent"),
        (101, "one hundred one", "cent un"),
        (200, "two hundred", "deux cents"),
        (280, "two hundred eighty", "deux cent quatre-vingts"),
        (1000, "one thousand", "mille"),
        (2000, "two thousand", "deux mille"),
        (1999, "one thousand nine hundred ninety nine", "mille neuf cent quatre-vingt-dix-neuf"),
        (9600, "nine thousand six hundred", "neuf mille six cents"),
    ],
)
def test_numbers_in_words(number: int, ours: str, theirs: str) -> None:
    assert (english(number), french(number)) == (ours, theirs)


def test_pairs_are_two_columns_and_the_short_ones_come_first(made) -> None:
    lines = (made("eng_fra") / "fra.txt").read_text("utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    assert all(len(pair) == 2 for pair in pairs)
    lengths = [len(ours) for ours, _ in pairs]
    assert lengths == sorted(lengths)
    assert len({ours for ours, _ in pairs}) == len(pairs) == 4 * 2998
    assert ["I have twenty one cats.", "J'ai vingt et un chats."] in pairs
    assert len({french(number) for number in range(10_000)}) == 10_000


def test_text_stand_ins_are_made_of_the_text_on_this_machine() -> None:
    assert {"imdb", "wikitext2", "openstax", "nietzsche"} <= TEXTS.keys()
    assert len(set(prose())) == len(prose())
