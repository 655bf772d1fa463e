"""The report as Markdown, and which targets were met."""

TITLES = {
    "accepted": "accepted, 64 connections kept alive",
    "refused": "refused (unknown key)",
    "think": "think time 10 ms, 100 connections",
    "http2": "HTTP/2 in clear, 8 connections × 16 streams",
    "close": "connection per request",
    "response_64k": "64 KiB response",
    "response_10m": "10 MiB response",
    "upload_10m": "10 MiB upload",
    "tls": "TLS 1.3, kept alive",
    "unix": "upstream over a Unix socket, beside TCP",
    "keys": "keys in the table (ratio to the first)",
    "features": "features of keygate, each off in turn",
    "workers": "one and two workers",
}


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value, digits=2):
    return "–" if value is None else f"{value:,.{digits}f}"


def ratio(row):
    if "ratio" not in row:
        return "–"
    return f"{row['ratio']:.2f} ({row['ratio_min']:.2f}–{row['ratio_max']:.2f})"


def markdown(out):
    m = out["machine"]
    parts = [
        f"# make bench ({out['mode']})",
        f"{out['date']}, commit {out['commit']}, {m['cpu']}, {m['cores']} cores, kernel {m['kernel']}; "
        f"contender on core {m['proxy_core']}, load and upstream on core {m['load_core']}; "
        f"{out['rounds']} rounds of {out['seconds']:g} s, {out['keys']:,} keys; "
        f"load average before: {m['load_average_before']:.2f}.",
        table(
            ("contender", "version", "binary"),
            [
                (n, c["version"], f"{c['binary_bytes'] / 1e6:.1f} MB")
                for n, c in out["contenders"].items()
            ],
        ),
    ]
    if out.get("targets"):
        parts.append("## Targets")
        parts.append(
            table(
                ("target", "wanted", "got", ""),
                [
                    (t["name"], t["wanted"], t["got"], "met" if t["met"] else "**missed**")
                    for t in out["targets"]
                ],
            )
        )
    parts.append("## CPU per request")
    parts.append(summary(out))
    for name, scenario in out["scenarios"].items():
        parts.append(f"### {TITLES.get(name, name)}")
        parts.append(
            table(
                ("contender", "CPU µs", f"ratio to {out['reference'] if name != 'keys' else 'first'} (min–max)", "to hyper", "req/s", "core busy"),
                [
                    (
                        who,
                        number(row["median"]),
                        ratio(row),
                        number(row.get("ratio_to_hyper")),
                        number(row["requests_per_s"], 0),
                        f"{row['core_share']:.0%}",
                    )
                    for who, row in scenario["cpu_us_per_request"].items()
                ],
            )
        )
        if name == "workers":
            word = "throughput" if scenario["own_cores"] else "requests per CPU second × 2"
            parts.append(
                f"Two workers against one ({word}): "
                + ", ".join(f"{n} {v:.2f}" for n, v in scenario["scaling"].items())
                + ("" if scenario["own_cores"] else " (the machine has too few cores to measure throughput)")
            )
    if "latency" in out:
        latency = out["latency"]
        parts.append(f"## Latency at {latency['rate']:,} requests/s, open loop, µs")
        parts.append(
            table(
                ("", "p50", "p90", "p99", "p99.9", "max", "added p50", "added p99"),
                [
                    (n, *(number(r[q], 0) for q in ("p50", "p90", "p99", "p999", "max", "added_p50", "added_p99")))
                    for n, r in latency["us"].items()
                ],
            )
        )
    if "syscalls" in out:
        parts.append("## System calls per accepted request")
        parts.append(
            table(
                ("", "busy", "of which", "one connection", "of which"),
                [
                    (n, r["busy"]["per_request"], calls(r["busy"]), r["alone"]["per_request"], calls(r["alone"]))
                    for n, r in out["syscalls"].items()
                ],
            )
        )
    if "memory" in out:
        parts.append("## Memory")
        kinds = list(next(iter(out["memory"].values()))["per_connection_kib"])
        parts.append(
            table(
                ("", "idle, 1,000 keys, MiB", *(f"per connection, {k.replace('_', ' × ')}, KiB" for k in kinds)),
                [
                    (n, number(r["idle_1000_keys_kib"] / 1024, 1), *(number(r["per_connection_kib"][k], 1) for k in kinds))
                    for n, r in out["memory"].items()
                ],
            )
        )
    if "start" in out:
        parts.append("## Start to ready")
        heads = list(next(iter(out["start"].values())))
        parts.append(
            table(
                ("", *(h.replace("_", " ") for h in heads)),
                [(n, *(number(r[h], 3 if h.startswith("ready") else 1) for h in heads)) for n, r in out["start"].items()],
            )
        )
    parts.append(f"{out['seconds_total']:.0f} s in all. Differences below 10 to 15 % need FULL=1.")
    return "\n\n".join(parts)


def calls(row):
    return ", ".join(f"{n} {c:g}" for n, c in list(row["calls"].items())[:6])


def summary(out):
    """Ratios of the main contenders on one page."""
    names = list(out["contenders"])
    rows = []
    for name, scenario in out["scenarios"].items():
        cells = scenario["cpu_us_per_request"]
        if name in ("unix", "keys", "features", "workers"):
            continue
        rows.append((TITLES[name], *(number(cells.get(n, {}).get("ratio")) for n in names)))
    return table(("ratio to " + out["reference"], *names), rows)


def targets(out):
    """Wanted figures, for keygate with its default features and a million keys."""
    found = []

    def hold(name, limit, value, unit="", least=False):
        if value is None:
            return
        met = value >= limit if least else value <= limit
        sign = "≥" if least else "≤"
        found.append(
            {
                "name": name,
                "wanted": f"{sign} {limit:g}{unit}",
                "got": f"{value:.3g}{unit}",
                "value": value,
                "limit": limit,
                "met": met,
            }
        )

    def row(scenario, name="keygate"):
        return out["scenarios"].get(scenario, {}).get("cpu_us_per_request", {}).get(name, {})

    limits = [
        ("accepted", 1.0),
        ("refused", 0.95),
        ("think", 1.1),
        ("http2", 0.7),
        ("close", 1.0),
        ("response_64k", 1.0),
        ("response_10m", 1.0),
        ("upload_10m", 0.7),
    ]
    for scenario, limit in limits:
        hold(f"CPU, {scenario}, to nginx", limit, row(scenario).get("ratio"))
    hold("CPU, Unix-socket upstream, to nginx over TCP", 0.85, row("unix", "keygate_unix").get("ratio"))
    hold("CPU, accepted, to bare hyper", 1.1, row("accepted").get("ratio_to_hyper"))
    latency = out.get("latency", {}).get("us", {})
    if "keygate" in latency and "nginx" in latency:
        hold("p99 at a third of saturation, to nginx", 1.0, latency["keygate"]["p99"] / latency["nginx"]["p99"])
    hold("two workers to one", 1.9, out["scenarios"].get("workers", {}).get("scaling", {}).get("keygate"), least=True)
    memory = out.get("memory", {}).get("keygate")
    if memory:
        hold("idle memory, 1,000 keys", 12, memory["idle_1000_keys_kib"] / 1024, " MiB")
        hold("per idle HTTP/1 connection", 14, memory["per_connection_kib"]["http1_10000"], " KiB")
    hold("start to ready, 1 M keys", 0.3, out.get("start", {}).get("keygate", {}).get("ready_s_1000000"), " s")
    calls_ = out.get("syscalls", {}).get("keygate")
    if calls_:
        hold("system calls per request, busy", 4.2, calls_["busy"]["per_request"])
    return found
