"""Compare an output with the stored one: numbers by their kind, the rest exactly.

The four kinds (nbs/00d_record.ipynb): exact numbers within a tolerance, spreads ("0.974 ± 0.003
(n=5)") by their standard errors, and numbers of cells marked `varies` or `timing` not at all.
"""

import math
import re
from dataclasses import dataclass
from itertools import zip_longest

from book.reader.notebooks import directives
from fromfound.check import Spread

RELATIVE = 1e-3  # what a float may differ by
LAST_DIGITS = 1.5  # or this many units of its last printed digit, where that is more

NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    r"|(?:nan|inf)\b)"
)
# Units of time: which one is printed depends on the number.
UNIT = r"(?:[ ]?(?:ns|µs|μs|us|ms|s|min|h)\b)?"
SPREAD = re.compile(
    rf"(?P<mean>{NUMBER.pattern})(?P<percent>%?) ± (?P<sd>{NUMBER.pattern})%? \(n=(?P<n>\d+)\)"
)
SUMMARY = {"mean", "n", "sd"}  # the keys of a quoted spread
NOISE = (
    (re.compile(r"\x1b\[[\d;]*m"), ""),  # colors
    (re.compile(r"\b0x[0-9a-fA-F]+"), "0x"),  # addresses of objects
    (re.compile(r"data:image/[^\"')\s]+"), "data:image"),  # pictures inside HTML
)


@dataclass(frozen=True)
class Rules:
    """How the numbers of one cell are compared.

    `tolerance` is relative, `masked` leaves them out.
    """

    tolerance: float | None = None
    masked: bool = False

    def allowed(self, stored: float, unit: float) -> float:
        """Return by how much a number may differ from `stored`, printed in steps of `unit`."""
        return max(abs(stored) * max(self.tolerance or 0.0, RELATIVE), LAST_DIGITS * unit)


@dataclass(frozen=True)
class Tally:
    """How many numbers of a text were compared, by kind, and how many were only shown."""

    numbers: int = 0
    spreads: int = 0
    shown: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.numbers + other.numbers, self.spreads + other.spreads, self.shown + other.shown
        )


def rules_of(source: str, mode: str) -> Rules:
    """Return the rules that the directives of a cell and the mode ("real", "standin") ask for."""
    marks, _ = directives(source)
    tolerance = float(marks["tolerance"]) if "tolerance" in marks else None
    return Rules(tolerance, masked=mode == "standin" or "timing" in marks or "varies" in marks)


def is_timed(source: str) -> bool:
    """Return whether a cell measures time, and so wants the machine alone."""
    return "timing" in directives(source)[0]


def parts_of(outputs: list) -> dict[tuple, object]:
    """Return outputs as a dictionary from parts to texts.

    The keys are as ("stdout", 0), or ("text/plain", 2) for the second displayed output.
    """
    parts, number = {}, 0
    for output in outputs:
        if output.output_type == "stream":
            parts[output.name, 0] = parts.get((output.name, 0), "") + output.text
        else:
            number += 1
            parts |= {(kind, number): value for kind, value in output.get("data", {}).items()}
    return parts


def compare_part(kind: str, stored: object, got: object, rules: Rules) -> tuple[str | None, Tally]:
    """Compare one part of a cell's outputs, of MIME type `kind`; return as `compare_text` does."""
    if kind.startswith("image/") or kind == "application/pdf":
        return None, Tally()  # the bytes of a picture depend on fonts and versions
    compare = compare_text if isinstance(stored, str) and isinstance(got, str) else compare_json
    return compare(stored, got, rules)


def clean(text: str) -> str:
    """Return `text` without what differs from run to run and says nothing."""
    for pattern, replacement in NOISE:
        text = pattern.sub(replacement, text)
    return text


def mask(text: str) -> str:
    """Return `text` with its numbers and units of time masked and its white space evened out."""
    return re.sub(r"\s+", " ", re.sub(rf"\s*{NUMBER.pattern}{UNIT}\s*", "#", text)).strip()


def value_and_unit(text: str) -> tuple[float, float | None]:
    """Return a printed number and the value of one unit of its last digit.

    The unit is None without decimals or exponent.
    """
    value = float(text.replace(",", ""))
    mantissa, _, exponent = text.lower().partition("e")
    decimals = mantissa.partition(".")[2]
    if not math.isfinite(value) or not (decimals or exponent):
        return value, None
    return value, 10.0 ** (int(exponent or 0) - len(decimals))


def compare_numbers(stored: str, got: str, rules: Rules) -> str | None:
    """Return what is wrong with the printed number `got`, or None."""
    (expected, unit), (value, other) = value_and_unit(stored), value_and_unit(got)
    if rules.tolerance is None and is_whole(stored) != is_whole(got):
        return f"stored {stored}, got {got}: one is a whole number, the other is not"
    if expected == value or (math.isnan(expected) and math.isnan(value)):
        return None
    if not (math.isfinite(expected) and math.isfinite(value)):
        return f"stored {stored}, got {got}"
    if rules.tolerance is None and unit is None and other is None:
        return f"stored {stored}, got {got}: whole numbers must agree"
    allowed = rules.allowed(expected, max(unit or 0.0, other or 0.0))
    if abs(value - expected) <= allowed * (1 + 1e-9):  # the difference itself is rounded
        return None
    return f"stored {stored}, got {got}, allowed ±{allowed:.3g}"


def is_whole(text: str) -> bool:
    """Return whether a printed number is an int; torch prints a float 3.0 as `3.`."""
    return text.lstrip("+-").replace(",", "").isdigit()


def compare_text(stored: str, got: str, rules: Rules) -> tuple[str | None, Tally]:
    """Return the first difference between two texts (None if they agree) and what was compared."""
    stored, got = clean(stored), clean(got)
    if rules.masked:
        shown_only = len(NUMBER.findall(stored))
        return first_difference(mask(stored), mask(got)), Tally(shown=shown_only)
    # Blanks beside a number are padding: they may change with its width.
    pattern = re.compile(rf"[ ]*({unnamed(SPREAD)}|{NUMBER.pattern})[ ]*")
    left, right = pattern.split(stored), pattern.split(got)
    if left[::2] != right[::2]:
        return first_difference(stored, got), Tally()
    tally = Tally()
    for position, (a, b) in enumerate(zip(left[1::2], right[1::2], strict=True)):
        spreads = SPREAD.fullmatch(a), SPREAD.fullmatch(b)
        if all(spreads):
            wrong = compare_spreads(*map(spread_of, spreads))
            tally += Tally(spreads=1)
        elif any(spreads):
            wrong = f"stored {a}, got {b}: one is a spread, the other is not"
        else:
            wrong = compare_numbers(a, b, rules)
            tally += Tally(numbers=1)
        if wrong:
            return f"{wrong}\n{line_of(stored, pattern, position)}", tally
    return None, tally


def unnamed(pattern: re.Pattern) -> str:
    """Return the source of a pattern with its named groups nameless, for use inside another one."""
    return re.sub(r"\(\?P<\w+>", "(?:", pattern.pattern)


def spread_of(found: re.Match) -> tuple[Spread, float]:
    """Return a printed spread and the worth of one unit of the last digit of its mean."""
    mean, unit = value_and_unit(found["mean"])
    sd, _ = value_and_unit(found["sd"])
    return Spread(mean, sd, int(found["n"])), unit or 1.0


def compare_spreads(stored: tuple[Spread, float], got: tuple[Spread, float]) -> str | None:
    """Return what is wrong with the second of two printed spreads, or None.

    Standard deviations may differ.
    """
    (expected, unit), (value, other) = stored, got
    if expected.n != value.n:
        return f"stored {expected}, got {value}: the number of runs must agree"
    if expected.agrees(value, floor=LAST_DIGITS * max(unit, other)):
        return None
    return f"stored {expected}, got {value}: the means differ by more than chance allows"


def line_of(text: str, pattern: re.Pattern, position: int) -> str:
    """Return the line of `text` that holds the match of `pattern` at `position`.

    It is printed as an error shows it.
    """
    before = text[: list(pattern.finditer(text))[position].start(1)].count("\n")
    return f"  in line {before + 1}  {shown(text.splitlines()[before])}"


def first_difference(stored: str, got: str) -> str | None:
    """Return the first line in which two texts differ, or None."""
    for number, (a, b) in enumerate(zip_longest(stored.splitlines(), got.splitlines()), 1):
        if a != b:
            return f"line {number}:\n  stored  {shown(a)}\n  got     {shown(b)}"
    return (
        None
        if stored == got
        else "they differ in how they end: one ends a line, the other does not"
    )


def shown(line: str | None) -> str:
    """Return a line as an error shows it."""
    return "(no such line)" if line is None else line if len(line) <= 200 else line[:200] + " …"


def compare_json(
    stored: object, got: object, rules: Rules, place: str = ""
) -> tuple[str | None, Tally]:
    """Compare two JSON values: keys and types exactly, numbers by the rules.

    It returns what `compare_text` does.
    """
    where = place or "the value"
    if isinstance(stored, dict) and isinstance(got, dict):
        if stored.keys() != got.keys():
            return f"{where} has the keys {sorted(got)}, stored are {sorted(stored)}", Tally()
        if stored.keys() == SUMMARY and not rules.masked:
            wrong = compare_spreads(
                *((Spread(v["mean"], v["sd"], v["n"]), 0.0) for v in (stored, got))
            )
            return wrong and f"{where}: {wrong}", Tally(spreads=1)
        return compare_items(
            [(stored[key], got[key], f"{place}.{key}".lstrip(".")) for key in stored], rules
        )
    if isinstance(stored, list) and isinstance(got, list):
        if len(stored) != len(got):
            return f"{where} has {len(got)} items, stored are {len(stored)}", Tally()
        return compare_items(
            [(a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(stored, got, strict=True))],
            rules,
        )
    if isinstance(stored, str) and isinstance(got, str):
        wrong, tally = compare_text(stored, got, rules)
        return wrong and f"{where}: {wrong}", tally
    if is_number(stored) and is_number(got):
        if rules.masked:
            return None, Tally(shown=1)
        wrong = compare_values(stored, got, rules)
        return wrong and f"{where}: {wrong}", Tally(numbers=1)
    return (
        None
        if stored == got and type(stored) is type(got)
        else f"{where}: stored {stored!r}, got {got!r}"
    ), Tally()


def compare_items(items: list[tuple], rules: Rules) -> tuple[str | None, Tally]:
    """Compare pairs of JSON values up to the first difference."""
    total = Tally()
    for stored, got, place in items:
        wrong, tally = compare_json(stored, got, rules, place)
        total += tally
        if wrong:
            return wrong, total
    return None, total


def compare_values(stored: float, got: float, rules: Rules) -> str | None:
    """Return what is wrong with the number `got`, or None.

    Whole numbers agree exactly unless a tolerance is given.
    """
    if stored == got or (stored != stored and got != got):
        return None
    if isinstance(stored, int) and isinstance(got, int) and rules.tolerance is None:
        return f"stored {stored}, got {got}: whole numbers must agree"
    allowed = rules.allowed(stored, 0.0)
    return (
        None
        if abs(got - stored) <= allowed
        else f"stored {stored:.6g}, got {got:.6g}, allowed ±{allowed:.3g}"
    )


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
