"""The words and the code of the task: operations on numbers, words and text, each with several phrasings.

An instruction is a composition "aggregate of map of filter of source". Every part has phrasings that training may see
(`seen`) and phrasings that only the held-out phrasing split uses (`unseen`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One operation. `code` has {x} for the value (or {i} for the whole iterable) and {k} for a constant.

    Args:
        seen: phrasings for training; {k} is the constant, {it} what the part is applied to.
        unseen: phrasings held out from training.
        constants: what {k} may be.
    """

    name: str
    code: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    constants: tuple[int | str, ...] = ()


# Filters say which elements: "numbers {phrase}" or "{adjective} numbers".
NUMBER_FILTERS = (
    Part("all", "", ("the numbers in xs", "the elements of xs"), ("all values of xs",)),
    Part(
        "even",
        "{x} % 2 == 0",
        ("the even numbers in xs", "the numbers in xs that are even"),
        ("every even element of xs",),
    ),
    Part(
        "odd", "{x} % 2 == 1", ("the odd numbers in xs", "the numbers in xs that are odd"), ("every odd element of xs",)
    ),
    Part(
        "positive",
        "{x} > 0",
        ("the positive numbers in xs", "the numbers in xs that are positive"),
        ("every positive element of xs",),
    ),
    Part(
        "negative",
        "{x} < 0",
        ("the negative numbers in xs", "the numbers in xs that are negative"),
        ("every negative element of xs",),
    ),
    Part(
        "above",
        "{x} > {k}",
        ("the numbers in xs greater than {k}", "the numbers in xs above {k}"),
        ("each element of xs that exceeds {k}",),
        (2, 3, 4, 5, 6, 7, 10),
    ),
    Part(
        "below",
        "{x} < {k}",
        ("the numbers in xs less than {k}", "the numbers in xs below {k}"),
        ("each element of xs smaller than {k}",),
        (2, 3, 4, 5, 6, 7, 10),
    ),
    Part(
        "divisible",
        "{x} % {k} == 0",
        ("the multiples of {k} in xs", "the numbers in xs divisible by {k}"),
        ("each element of xs that {k} divides",),
        (3, 4, 5, 7),
    ),
    Part(
        "unequal",
        "{x} != {k}",
        ("the numbers in xs not equal to {k}", "the numbers in xs other than {k}"),
        ("each element of xs except {k}",),
        (0, 1, 2, 3),
    ),
)
NUMBER_MAPS = (
    Part("same", "{x}", ("{it}",), ("{it}",)),
    Part("square", "{x} ** 2", ("the squares of {it}", "{it}, squared"), ("the second powers of {it}",)),
    Part("cube", "{x} ** 3", ("the cubes of {it}", "{it}, cubed"), ("the third powers of {it}",)),
    Part("double", "{x} * 2", ("the doubles of {it}", "{it}, doubled"), ("twice each of {it}",)),
    Part(
        "times", "{x} * {k}", ("{it}, times {k}", "{it}, multiplied by {k}"), ("{k} times each of {it}",), (3, 4, 5, 10)
    ),
    Part(
        "plus", "{x} + {k}", ("{it}, plus {k}", "{it}, with {k} added"), ("{it}, increased by {k}",), (1, 2, 3, 5, 10)
    ),
    Part(
        "minus",
        "{x} - {k}",
        ("{it}, minus {k}", "{it}, with {k} subtracted"),
        ("{it}, decreased by {k}",),
        (1, 2, 3, 5),
    ),
    Part("negated", "-{x}", ("the negatives of {it}", "{it}, negated"), ("{it}, with the sign changed",)),
    Part(
        "absolute",
        "abs({x})",
        ("the absolute values of {it}", "the sizes of {it} without sign"),
        ("the magnitudes of {it}",),
    ),
    Part(
        "half",
        "{x} // 2",
        ("{it}, halved and rounded down", "the halves of {it}, rounded down"),
        ("the integer halves of {it}",),
    ),
    Part(
        "last digit",
        "abs({x}) % 10",
        ("the last digits of {it}", "the final digits of {it}"),
        ("the ones digits of {it}",),
    ),
)
NUMBER_AGGREGATES = (
    Part("list", "[{i}]", ("{it}", "a list of {it}"), ("{it} as a list",)),
    Part("sum", "sum({i})", ("the sum of {it}", "the total of {it}"), ("what {it} add up to",)),
    Part("largest", "max({i})", ("the largest of {it}", "the maximum of {it}"), ("the greatest of {it}",)),
    Part("smallest", "min({i})", ("the smallest of {it}", "the minimum of {it}"), ("the least of {it}",)),
    Part("sorted", "sorted({i})", ("{it} in ascending order", "{it}, sorted"), ("{it} from low to high",)),
    Part(
        "descending",
        "sorted({j}, reverse=True)",
        ("{it} in descending order", "{it}, sorted downwards"),
        ("{it} from high to low",),
    ),
    Part(
        "distinct",
        "len(set({i}))",
        ("the number of distinct values among {it}", "how many different values there are among {it}"),
        ("the count of unique values among {it}",),
    ),
    Part(
        "count",
        "len([{i}])",
        ("the number of values in {it}", "how many values there are in {it}"),
        ("the count of {it}",),
    ),
)
WORD_FILTERS = (
    Part("all", "", ("the words", "the strings in words"), ("all entries of words",)),
    Part(
        "longer",
        "len({x}) > {k}",
        ("the words longer than {k} letters", "the words with more than {k} letters"),
        ("each word whose length exceeds {k}",),
        (3, 4, 5),
    ),
    Part(
        "shorter",
        "len({x}) < {k}",
        ("the words shorter than {k} letters", "the words with fewer than {k} letters"),
        ("each word whose length is below {k}",),
        (4, 5, 6),
    ),
    Part(
        "starting",
        "{x}.startswith('{k}')",
        ("the words starting with '{k}'", "the words that begin with '{k}'"),
        ("each word whose first letter is '{k}'",),
        ("a", "b", "c", "s", "t"),
    ),
    Part(
        "ending",
        "{x}.endswith('{k}')",
        ("the words ending with '{k}'", "the words that end in '{k}'"),
        ("each word whose last letter is '{k}'",),
        ("e", "d", "s", "t", "y"),
    ),
    Part(
        "containing",
        "'{k}' in {x}",
        ("the words containing '{k}'", "the words with an '{k}' in them"),
        ("each word in which '{k}' occurs",),
        ("a", "e", "i", "o", "r"),
    ),
    Part(
        "without",
        "'{k}' not in {x}",
        ("the words not containing '{k}'", "the words without '{k}'"),
        ("each word in which '{k}' is missing",),
        ("a", "e", "i", "o", "r"),
    ),
)
WORD_MAPS = (
    Part("same", "{x}", ("{it}",), ("{it}",)),
    Part("upper", "{x}.upper()", ("{it} in upper case", "{it}, in capitals"), ("{it}, written in capital letters",)),
    Part(
        "title", "{x}.title()", ("{it} in title case", "{it}, capitalised"), ("{it}, each with a capital first letter",)
    ),
    Part("reversed", "{x}[::-1]", ("{it}, reversed", "{it}, spelled backwards"), ("{it}, read from right to left",)),
    Part("length", "len({x})", ("the lengths of {it}", "how long {it} are"), ("the letter counts of {it}",)),
    Part("initial", "{x}[0]", ("the first letters of {it}", "the initials of {it}"), ("the opening letters of {it}",)),
    Part(
        "final", "{x}[-1]", ("the last letters of {it}", "the final letters of {it}"), ("the closing letters of {it}",)
    ),
    Part(
        "prefix",
        "{x}[:{k}]",
        ("the first {k} letters of {it}", "{it}, cut to {k} letters"),
        ("the leading {k} letters of {it}",),
        (2, 3),
    ),
    Part(
        "repeated",
        "{x} * {k}",
        ("{it}, each repeated {k} times", "{it}, repeated {k} times each"),
        ("{k} copies of each of {it}",),
        (2, 3),
    ),
)
WORD_AGGREGATES = (
    Part("list", "[{i}]", ("{it}", "a list of {it}"), ("{it} as a list",)),
    Part("sorted", "sorted({i})", ("{it} in order", "{it}, sorted"), ("{it}, put in order",)),
    Part(
        "count",
        "len([{i}])",
        ("the number of values in {it}", "how many values there are in {it}"),
        ("the count of {it}",),
    ),
    Part(
        "distinct",
        "len(set({i}))",
        ("the number of distinct values among {it}", "how many different values there are among {it}"),
        ("the count of unique values among {it}",),
    ),
    Part("greatest", "max({i})", ("the last in order of {it}", "the maximum of {it}"), ("what comes last among {it}",)),
    Part("least", "min({i})", ("the first in order of {it}", "the minimum of {it}"), ("what comes first among {it}",)),
    Part("set", "set({i})", ("the set of {it}", "{it}, as a set"), ("{it} without repeats, as a set",)),
)
TEXT_AGGREGATES = (
    Part(
        "joined",
        "'{k}'.join({i})",
        ("{it} joined with '{k}'", "{it} as one string with '{k}' between"),
        ("{it}, glued together by '{k}'",),
        ("-", ",", " ", "+"),
    ),
)
FRAMES_SEEN = (
    "Write a Python expression for {it}.",
    "Give me {it}.",
    "Python: {it}",
    "I need {it}.",
    "What expression gives {it}?",
    "Compute {it}.",
)
FRAMES_UNSEEN = ("Please show how to get {it} in Python.", "Find {it}.", "One expression, please: {it}")
KINDS = {
    "xs": (NUMBER_FILTERS, NUMBER_MAPS, NUMBER_AGGREGATES),
    "words": (WORD_FILTERS, WORD_MAPS, (*WORD_AGGREGATES, *TEXT_AGGREGATES)),
}
VARIABLES = {"xs": "x", "words": "w"}
