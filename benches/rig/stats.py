"""Medians and ratios. Ratios are taken within a round, where both sides saw the same machine."""

from statistics import median


def summary(rounds, references):
    """`rounds`: one dict per round, contender to figure. Medians, and ratios to each reference."""
    names = list(dict.fromkeys(name for r in rounds for name in r))
    out = {}
    for name in names:
        values = [r[name] for r in rounds if name in r]
        row = {"median": median(values), "rounds": values, "ratios": {}}
        for reference in references:
            ratios = [r[name] / r[reference] for r in rounds if name in r and r.get(reference)]
            if ratios:
                row["ratios"][reference] = {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
        out[name] = row
    return out


def spread(rounds, one, other):
    """How far two contenders that are the same thing were apart, as the greatest distance of their
    ratio from 1; `None` unless both ran."""
    ratios = [r[other] / r[one] for r in rounds if r.get(one) and other in r]
    return max((abs(ratio - 1) for ratio in ratios), default=None)


def quantile(values, q):
    values = sorted(values)
    if not values:
        return 0.0
    # Nearest rank.
    rank = max(1, -(-len(values) * q // 1))
    return values[int(rank) - 1]
