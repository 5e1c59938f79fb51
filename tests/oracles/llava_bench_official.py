"""LLaVA-Bench's points and table as LLaVA's two scripts make them, written from the rules, a number at a time."""

from __future__ import annotations


def official_pair(review: str) -> list[float]:
    """The first line has two numbers with a single space or comma between them and nothing else; else −1 and −1."""
    pieces = [""]
    for character in review:
        if character == "\n":
            break
        if character in " ,":
            pieces.append("")
        else:
            pieces[-1] += character
    if len(pieces) != 2:
        return [-1, -1]
    try:
        return [float(pieces[0]), float(pieces[1])]
    except ValueError:
        return [-1, -1]


def means(rows: list[tuple[str, list[float]]]) -> dict[str, tuple[float, float]]:
    """Category, and "all" → the mean of the first and of the second number."""
    found: dict[str, tuple[float, float]] = {}
    for group in ["all"] + [category for category, _ in rows]:
        first = second = count = 0.0
        for category, (one, other) in rows:
            if group in ("all", category):
                first += one
                second += other
                count += 1
        found[group] = (first / count, second / count)
    return found


def official_table(rows: list[tuple[str, list[float]]]) -> dict[str, float]:
    """What is printed: means to three digits, their quotient in per cent to one."""
    return {group: round(round(second, 3) / round(first, 3) * 100, 1) for group, (first, second) in means(rows).items()}


def quantile(values: list[float], share: float) -> float:
    """Between the two values around the place share · (n − 1), in order of size, by straight line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
