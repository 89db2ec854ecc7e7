"""Compare an output with the stored one: numbers within a tolerance, the rest exactly."""

import math
import re
from dataclasses import dataclass
from itertools import zip_longest

RELATIVE = 1e-3  # what a float may differ by
LAST_DIGITS = 1.5  # or this many units of its last printed digit, where that is more

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|(?:nan|inf)\b)")
UNIT = r"(?:[ ]?(?:ns|µs|μs|us|ms|s|min|h)\b)?"  # units of time: which one is printed depends on the number
DIRECTIVE = re.compile(r"^#\|[ ]*(tolerance:[ ]*(?P<tolerance>\S+)|(?P<timing>timing))[ ]*$", re.M)
NOISE = (
    (re.compile(r"\x1b\[[\d;]*m"), ""),  # colors
    (re.compile(r"\b0x[0-9a-fA-F]+"), "0x"),  # addresses of objects
    (re.compile(r"data:image/[^\"')\s]+"), "data:image"),  # pictures inside HTML
)


@dataclass(frozen=True)
class Rules:
    """How the numbers of one cell are compared: `tolerance` is relative, `masked` leaves them out."""

    tolerance: float | None = None
    masked: bool = False

    def allowed(self, stored: float, unit: float) -> float:
        """Return by how much a number may differ from `stored`, printed in steps of `unit`."""
        return max(abs(stored) * max(self.tolerance or 0.0, RELATIVE), LAST_DIGITS * unit)


def rules_of(source: str, mode: str) -> Rules:
    """Return the rules that the directives of a cell and the mode ("real", "standin") ask for."""
    tolerance, masked = None, mode == "standin"
    for line in DIRECTIVE.finditer(source):
        masked = masked or line["timing"] is not None
        tolerance = float(line["tolerance"]) if line["tolerance"] else tolerance
    return Rules(tolerance, masked)


def clean(text: str) -> str:
    """Return `text` without what differs from run to run and says nothing."""
    for pattern, replacement in NOISE:
        text = pattern.sub(replacement, text)
    return text


def mask(text: str) -> str:
    """Return `text` with its numbers and units of time masked and its white space evened out."""
    return re.sub(r"\s+", " ", re.sub(rf"\s*{NUMBER.pattern}{UNIT}\s*", "#", text)).strip()


def value_and_unit(text: str) -> tuple[float, float | None]:
    """Return a printed number and the worth of one unit of its last digit (None without decimals or exponent)."""
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
    """Return whether a printed number is an int: torch prints a float 3.0 as `3.`"""
    return text.lstrip("+-").replace(",", "").isdigit()


def compare_text(stored: str, got: str, rules: Rules) -> tuple[str | None, int]:
    """Return the first difference between two texts (None if they agree) and how many numbers were compared."""
    stored, got = clean(stored), clean(got)
    if rules.masked:
        return first_difference(mask(stored), mask(got)), 0
    # Blanks beside a number are padding: they may change with its width.
    pattern = re.compile(rf"[ ]*({NUMBER.pattern})[ ]*")
    left, right = pattern.split(stored), pattern.split(got)
    if left[::2] != right[::2]:
        return first_difference(stored, got), 0
    for position, (a, b) in enumerate(zip(left[1::2], right[1::2])):
        if wrong := compare_numbers(a, b, rules):
            return f"{wrong}\n{line_of_number(stored, position)}", position
    return None, len(left) // 2


def line_of_number(text: str, position: int) -> str:
    """Return the line of `text` that holds its number at `position`, as an error shows it."""
    before = text[: list(NUMBER.finditer(text))[position].start()].count("\n")
    return f"  in line {before + 1}  {shown(text.splitlines()[before])}"


def first_difference(stored: str, got: str) -> str | None:
    """Return the first line in which two texts differ, or None."""
    for number, (a, b) in enumerate(zip_longest(stored.splitlines(), got.splitlines()), 1):
        if a != b:
            return f"line {number}:\n  stored  {shown(a)}\n  got     {shown(b)}"
    return None if stored == got else "they differ in how they end: one ends a line, the other does not"


def shown(line: str | None) -> str:
    """Return a line as an error shows it."""
    return "(no such line)" if line is None else line if len(line) <= 200 else line[:200] + " …"


def compare_json(stored: object, got: object, rules: Rules, place: str = "") -> tuple[str | None, int]:
    """Compare two JSON values: keys and types exactly, numbers by the rules; return as `compare_text` does."""
    where = place or "the value"
    if isinstance(stored, dict) and isinstance(got, dict):
        if stored.keys() != got.keys():
            return f"{where} has the keys {sorted(got)}, stored are {sorted(stored)}", 0
        return compare_items([(stored[key], got[key], f"{place}.{key}".lstrip(".")) for key in stored], rules)
    if isinstance(stored, list) and isinstance(got, list):
        if len(stored) != len(got):
            return f"{where} has {len(got)} items, stored are {len(stored)}", 0
        return compare_items([(a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(stored, got))], rules)
    if isinstance(stored, str) and isinstance(got, str):
        wrong, numbers = compare_text(stored, got, rules)
        return wrong and f"{where}: {wrong}", numbers
    if is_number(stored) and is_number(got):
        if rules.masked:
            return None, 0
        wrong = compare_values(stored, got, rules)
        return wrong and f"{where}: {wrong}", 1
    return (None if stored == got and type(stored) is type(got) else f"{where}: stored {stored!r}, got {got!r}"), 0


def compare_items(items: list[tuple], rules: Rules) -> tuple[str | None, int]:
    """Compare pairs of JSON values up to the first difference."""
    total = 0
    for stored, got, place in items:
        wrong, numbers = compare_json(stored, got, rules, place)
        total += numbers
        if wrong:
            return wrong, total
    return None, total


def compare_values(stored: float, got: float, rules: Rules) -> str | None:
    """Return what is wrong with the number `got`, or None: whole numbers agree exactly unless a tolerance is given."""
    if stored == got or (stored != stored and got != got):
        return None
    if isinstance(stored, int) and isinstance(got, int) and rules.tolerance is None:
        return f"stored {stored}, got {got}: whole numbers must agree"
    allowed = rules.allowed(stored, 0.0)
    return None if abs(got - stored) <= allowed else f"stored {stored:.6g}, got {got:.6g}, allowed ±{allowed:.3g}"


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
