"""The words and the code of the graded task: sources, filters, maps and reductions over numbers and strings.

Code templates: {x} is the element, {k} a constant (written as Python), {X} what is reduced. Phrases: {X} is the noun
phrase so far ("the even numbers in xs"), {k} the constant as words. `verb` is the imperative of the step-by-step form.
"""

from __future__ import annotations

from dataclasses import dataclass

NUMBERS = tuple(str(k) for k in range(2, 10))
LARGE = ("10", "12", "15", "20", "25", "30", "50")
LETTERS = tuple("abcdeilnorst")
LENGTHS = ("2", "3", "4", "5")
COUNTS = ("2", "3", "4")
SEPARATORS = ("', '", "'-'", "' '", "'/'", "''")
SEPARATOR_WORDS = {"', '": "commas", "'-'": "hyphens", "' '": "spaces", "'/'": "slashes", "''": "nothing"}


@dataclass(frozen=True)
class Source:
    """Where the elements come from. `nouns` end in what may be followed by a clause ("numbers in xs")."""

    name: str
    kind: str  # of its elements: "int" | "str" | "char" | "item"
    code: str
    element: str
    nouns: tuple[tuple[str, str], ...]  # (noun, place): "numbers", "in xs"
    names: tuple[str, ...]  # inputs it reads


@dataclass(frozen=True)
class Filter:
    """A condition on elements. `adjectives` stand before the noun, `clauses` after it."""

    name: str
    code: str
    adjectives: tuple[str, ...]
    clauses: tuple[str, ...]
    constants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Map:
    """A new value for each element."""

    name: str
    code: str
    phrases: tuple[str, ...]
    verb: str
    makes: str  # kind of the values: "int" | "str" | "other"
    constants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reduction:
    """One value from all. `code` takes a list or, where `streams`, a generator expression without its own brackets."""

    name: str
    code: str
    phrases: tuple[str, ...]
    verb: str
    streams: bool = False
    constants: tuple[str, ...] = ()


SOURCES = (
    Source("xs", "int", "xs", "x", (("numbers", "in xs"), ("elements", "of xs"), ("values", "in xs")), ("xs",)),
    Source("values", "int", "d.values()", "v", (("values", "of d"), ("values", "in d")), ("d",)),
    Source("below", "int", "range(n)", "i", (("numbers", "below n"), ("integers", "from 0 to n - 1")), ("n",)),
    Source("words", "str", "words", "w", (("words", "in words"), ("strings", "in words")), ("words",)),
    Source("split", "str", "s.split()", "w", (("words", "of s"), ("words", "in s")), ("s",)),
    Source("keys", "str", "d", "k", (("keys", "of d"), ("keys", "in d")), ("d",)),
    Source("characters", "char", "s", "c", (("characters", "of s"), ("characters", "in s")), ("s",)),
)

FILTERS = {
    "int": (
        Filter("even", "{x} % 2 == 0", ("even",), ("that are even",)),
        Filter("odd", "{x} % 2 == 1", ("odd",), ("that are odd",)),
        Filter("positive", "{x} > 0", ("positive",), ("above zero", "greater than zero")),
        Filter("negative", "{x} < 0", ("negative",), ("below zero", "less than zero")),
        Filter("nonzero", "{x} != 0", ("nonzero",), ("other than zero", "that are not zero")),
        Filter("above", "{x} > {k}", (), ("greater than {k}", "above {k}", "larger than {k}"), NUMBERS + LARGE),
        Filter("under", "{x} < {k}", (), ("less than {k}", "under {k}", "smaller than {k}"), NUMBERS + LARGE),
        Filter("at least", "{x} >= {k}", (), ("of at least {k}", "not less than {k}"), NUMBERS + LARGE),
        Filter("at most", "{x} <= {k}", (), ("of at most {k}", "not greater than {k}"), NUMBERS + LARGE),
        Filter("divisible", "{x} % {k} == 0", (), ("divisible by {k}", "that are multiples of {k}"), NUMBERS[1:]),
        Filter("indivisible", "{x} % {k} != 0", (), ("not divisible by {k}",), NUMBERS[1:]),
        Filter("last digit", "{x} % 10 == {k}", (), ("ending in {k}", "whose last digit is {k}"), NUMBERS),
    ),
    "str": (
        Filter("longer", "len({x}) > {k}", (), ("longer than {k} letters", "with more than {k} letters"), LENGTHS),
        Filter("shorter", "len({x}) < {k}", (), ("shorter than {k} letters", "with fewer than {k} letters"), LENGTHS),
        Filter("length", "len({x}) == {k}", (), ("of length {k}", "with exactly {k} letters"), LENGTHS),
        Filter("starts", "{x}.startswith({k})", (), ("starting with {k}", "that begin with {k}"), LETTERS),
        Filter("ends", "{x}.endswith({k})", (), ("ending with {k}", "that end in {k}"), LETTERS),
        Filter("contains", "{k} in {x}", (), ("containing {k}", "that contain {k}"), LETTERS),
        Filter("lacks", "{k} not in {x}", (), ("without {k}", "that do not contain {k}"), LETTERS),
        Filter("palindrome", "{x} == {x}[::-1]", ("palindromic",), ("that are palindromes",)),
        Filter("upper", "{x}.isupper()", ("uppercase",), ("all in capitals",)),
        Filter("capital", "{x}[0].isupper()", ("capitalized",), ("that begin with a capital",)),
    ),
    "char": (
        Filter("vowel", "{x} in 'aeiou'", (), ("that are vowels",)),
        Filter("consonant", "{x} not in 'aeiou '", (), ("that are consonants",)),
        Filter("digit", "{x}.isdigit()", (), ("that are digits",)),
        Filter("letter", "{x}.isalpha()", (), ("that are letters",)),
        Filter("upper", "{x}.isupper()", ("uppercase",), ("all in capitals",)),
        Filter("lower", "{x}.islower()", ("lowercase",), ("that are lowercase",)),
        Filter("not space", "{x} != ' '", (), ("other than spaces", "that are not spaces")),
        Filter("not letter", "{x} != {k}", (), ("other than {k}", "that are not {k}"), LETTERS),
    ),
}

MAPS = {
    "int": (
        Map("square", "{x} ** 2", ("the squares of {X}", "{X} squared"), "square each", "int"),
        Map("cube", "{x} ** 3", ("the cubes of {X}", "{X} cubed"), "cube each", "int"),
        Map("double", "{x} * 2", ("the doubles of {X}", "twice {X}"), "double each", "int"),
        Map("half", "{x} // 2", ("the halves of {X}, rounded down", "{X} halved"), "halve each", "int"),
        Map("negate", "-{x}", ("the negatives of {X}", "{X} negated"), "negate each", "int"),
        Map(
            "absolute",
            "abs({x})",
            ("the absolute values of {X}", "the magnitudes of {X}"),
            "take absolute values",
            "int",
        ),
        Map("plus", "{x} + {k}", ("{X} plus {k}", "{X} increased by {k}"), "add {k} to each", "int", NUMBERS),
        Map("minus", "{x} - {k}", ("{X} minus {k}", "{X} decreased by {k}"), "subtract {k} from each", "int", NUMBERS),
        Map(
            "times", "{x} * {k}", ("{X} times {k}", "{X} multiplied by {k}"), "multiply each by {k}", "int", NUMBERS[1:]
        ),
        Map(
            "modulo",
            "{x} % {k}",
            ("{X} modulo {k}", "the remainders of {X} divided by {k}"),
            "take each modulo {k}",
            "int",
            NUMBERS,
        ),
        Map(
            "square plus",
            "{x} ** 2 + {k}",
            ("the squares of {X}, plus {k}",),
            "square each and add {k}",
            "int",
            NUMBERS,
        ),
        Map("text", "str({x})", ("{X} as strings", "the string forms of {X}"), "convert each to a string", "str"),
        Map("pair", "({x}, {x} ** 2)", ("pairs of {X} and their squares",), "pair each with its square", "other"),
    ),
    "str": (
        Map(
            "upper",
            "{x}.upper()",
            ("{X} in upper case", "the uppercase forms of {X}"),
            "convert each to upper case",
            "str",
        ),
        Map(
            "lower",
            "{x}.lower()",
            ("{X} in lower case", "the lowercase forms of {X}"),
            "convert each to lower case",
            "str",
        ),
        Map("capitalize", "{x}.capitalize()", ("{X} capitalized",), "capitalize each", "str"),
        Map("reverse", "{x}[::-1]", ("{X} spelled backwards", "the reversals of {X}"), "reverse each", "str"),
        Map("length", "len({x})", ("the lengths of {X}",), "take the length of each", "int"),
        Map(
            "first",
            "{x}[0]",
            ("the first letters of {X}", "the initials of {X}"),
            "take the first letter of each",
            "str",
        ),
        Map(
            "last",
            "{x}[-1]",
            ("the last letters of {X}", "the final letters of {X}"),
            "take the last letter of each",
            "str",
        ),
        Map(
            "prefix",
            "{x}[:{k}]",
            ("the first {k} letters of {X}", "{X} cut to {k} letters"),
            "keep the first {k} letters of each",
            "str",
            COUNTS,
        ),
        Map(
            "suffix", "{x}[-{k}:]", ("the last {k} letters of {X}",), "keep the last {k} letters of each", "str", COUNTS
        ),
        Map("repeat", "{x} * {k}", ("{X} repeated {k} times",), "repeat each {k} times", "str", COUNTS),
        Map("occurrences", "{x}.count({k})", ("the counts of {k} in {X}",), "count {k} in each", "int", LETTERS),
        Map("pair", "({x}, len({x}))", ("pairs of {X} and their lengths",), "pair each with its length", "other"),
    ),
    "char": (
        Map("upper", "{x}.upper()", ("{X} in upper case",), "convert each to upper case", "str"),
        Map("lower", "{x}.lower()", ("{X} in lower case",), "convert each to lower case", "str"),
        Map("double", "{x} * 2", ("{X} doubled",), "double each", "str"),
        Map("code", "ord({x})", ("the codes of {X}",), "take the code of each", "int"),
    ),
}

_ANY = (
    Reduction("count", "len({X})", ("the number of {X}", "how many {X} there are"), "count them"),
    Reduction("sort", "sorted({X})", ("{X} in ascending order", "{X}, sorted"), "sort them", True),
    Reduction(
        "sort down",
        "sorted({X}, reverse=True)",
        ("{X} in descending order", "{X}, sorted downwards"),
        "sort them downwards",
    ),
    Reduction(
        "distinct",
        "sorted(set({X}))",
        ("{X}, sorted and without duplicates", "the distinct {X}, sorted"),
        "sort them without duplicates",
        True,
    ),
    Reduction("reverse", "{X}[::-1]", ("{X} in reverse order", "{X}, last to first"), "reverse the order"),
    Reduction("first", "{X}[:{k}]", ("the first {k} of {X}",), "keep the first {k}", constants=COUNTS),
    Reduction("last", "{X}[-{k}:]", ("the last {k} of {X}",), "keep the last {k}", constants=COUNTS),
    Reduction("every other", "{X}[::2]", ("every other one of {X}", "every second one of {X}"), "keep every other one"),
    Reduction("largest", "max({X})", ("the maximum of {X}", "the largest of {X}"), "take the largest", True),
    Reduction("smallest", "min({X})", ("the minimum of {X}", "the smallest of {X}"), "take the smallest", True),
)

REDUCTIONS = {
    "int": (
        *_ANY,
        Reduction("sum", "sum({X})", ("the sum of {X}", "the total of {X}"), "add them up", True),
        Reduction("top", "sorted({X})[-{k}:]", ("the {k} largest of {X}",), "keep the {k} largest", constants=COUNTS),
        Reduction("second", "sorted({X})[-2]", ("the second largest of {X}",), "take the second largest"),
    ),
    "str": (
        *_ANY[:-2],
        Reduction(
            "join",
            "{k}.join({X})",
            ("{X} joined with {k}", "{X} separated by {k}"),
            "join them with {k}",
            True,
            SEPARATORS,
        ),
        Reduction("longest", "max({X}, key=len)", ("the longest of {X}",), "take the longest"),
        Reduction("shortest", "min({X}, key=len)", ("the shortest of {X}",), "take the shortest"),
        Reduction(
            "by length",
            "sorted({X}, key=len)",
            ("{X}, sorted by length", "{X} ordered by length"),
            "sort them by length",
        ),
    ),
    "char": (
        *_ANY[:-2],
        Reduction("together", "''.join({X})", ("{X} as one string",), "put them together into one string", True),
    ),
    "other": (_ANY[0], _ANY[1], _ANY[4], _ANY[5]),
}
