"""Medians and ratios. Ratios are taken within a round, where both sides saw the same machine."""

from statistics import median


def summary(rounds, reference):
    """`rounds`: one dict per round, contender to figure. Medians, and ratios to `reference`."""
    names = list(dict.fromkeys(name for r in rounds for name in r))
    out = {}
    for name in names:
        values = [r[name] for r in rounds if name in r]
        row = {"median": median(values), "rounds": values}
        ratios = [r[name] / r[reference] for r in rounds if name in r and r.get(reference)]
        if ratios:
            row["ratio"] = median(ratios)
            row["ratio_min"] = min(ratios)
            row["ratio_max"] = max(ratios)
        out[name] = row
    return out


def quantile(values, q):
    values = sorted(values)
    if not values:
        return 0.0
    # Nearest rank.
    rank = max(1, -(-len(values) * q // 1))
    return values[int(rank) - 1]
