"""The report as Markdown, and which targets were met."""

TITLES = {
    "accepted": "accepted, 64 connections kept alive",
    "refused": "refused (unknown key)",
    "think": "think time 10 ms, 100 connections",
    "http2": "HTTP/2 in clear, 8 connections × 16 streams",
    "close": "connection per request",
    "response_1k": "1 KiB response",
    "chunked_1k": "1 KiB response in a chunk",
    "response_64k": "64 KiB response",
    "chunked_64k": "64 KiB response in chunks",
    "response_10m": "10 MiB response",
    "upload_10m": "10 MiB upload",
    "tls": "TLS 1.3, kept alive",
    "unix": "upstream over a Unix socket, beside TCP",
    "keys": "keys in the table (ratio to the first)",
    "features": "features of keygate, each off in turn",
    "options": "options of keygate, each on in turn (ratio to all off)",
    "workers": "one and two workers",
}


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(c) for c in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value, digits=2):
    return "–" if value is None else f"{value:,.{digits}f}"


def ratio(row, reference, noise=None):
    """Median and range; `≈` where the same program against itself was as far from 1 as this."""
    found = row.get("ratios", {}).get(reference)
    if found is None:
        return "–"
    mark = "≈ " if noise is not None and abs(found["median"] - 1) <= noise else ""
    return f"{mark}{found['median']:.2f} ({found['min']:.2f}–{found['max']:.2f})"


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
    parts.append(
        "`nginx_featured` does what keygate does: JSON access log, request id both ways, a limit by key, "
        "X-Forwarded-*. (`return 401` runs before `limit_req`: nginx refuses uncharged.) `keygate_twin` is "
        "keygate once more: ± is how far the two were apart at most, and `≈` marks what is no difference "
        "because it lies within. `forwarder` moves bytes and is no proxy: the floor."
    )
    parts.append(summary(out))
    for name, scenario in out["scenarios"].items():
        parts.append(f"### {TITLES.get(name, name)}")
        parts.append(
            table(
                (
                    *("contender", "CPU µs", "user", "system"),
                    *(f"to {r} (min–max)" for r in references(scenario)),
                    *("req/s", "core busy", "sleeps per request"),
                ),
                [
                    (
                        who,
                        number(row["median"]),
                        number(row["user_us"]),
                        number(row["system_us"]),
                        *(
                            ratio(row, r, None if who == r else scenario["null_spread"])
                            for r in references(scenario)
                        ),
                        number(row["requests_per_s"], 0),
                        f"{row['core_share']:.0%}",
                        number(row["switches"], 3),
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


def references(scenario):
    """Contenders of the scenario to which its ratios are printed."""
    rows = scenario["cpu_us_per_request"]
    wanted = dict.fromkeys((scenario["reference"], "nginx", "hyper", "forwarder"))
    return [name for name in wanted if name in rows]


def calls(row):
    return ", ".join(f"{n} {c:g}" for n, c in list(row["calls"].items())[:6])


def summary(out):
    """Ratios of all contenders on one page."""
    names = list(out["contenders"])
    rows = []
    for name, scenario in out["scenarios"].items():
        cells, noise = scenario["cpu_us_per_request"], scenario["null_spread"]
        if name in ("unix", "keys", "features", "options", "workers"):
            continue
        cell = {n: cells.get(n, {}).get("ratios", {}).get(scenario["reference"]) for n in names}
        bare = cells.get("keygate_bare", {}).get("ratios", {}).get("nginx")
        rows.append(
            (
                TITLES[name],
                *(number(cell[n] and cell[n]["median"]) for n in names),
                number(bare and bare["median"]),
                "–" if noise is None else f"±{noise:.2f}",
            )
        )
    return table(("ratio to " + out["reference"], *names, "keygate_bare to nginx", "noise"), rows)


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

    def to(scenario, reference, name="keygate"):
        row = out["scenarios"].get(scenario, {}).get("cpu_us_per_request", {}).get(name, {})
        return row.get("ratios", {}).get(reference, {}).get("median")

    for scenario, limit in (("accepted", 0.7), ("refused", 0.7)):
        hold(f"CPU, {scenario}, to nginx with the same features", limit, to(scenario, "nginx_featured"))
    limits = [
        ("accepted", 0.85),
        ("refused", 0.9),
        ("think", 0.95),
        ("http2", 0.8),
        ("close", 0.9),
        ("response_64k", 0.95),
        ("response_10m", 1.0),
        ("upload_10m", 0.7),
        ("chunked_1k", 1.0),
        ("chunked_64k", 1.0),
    ]
    for scenario, limit in limits:
        hold(f"CPU, {scenario}, to bare nginx", limit, to(scenario, "nginx"))
    hold("CPU, Unix-socket upstream, to nginx over TCP", 0.85, to("unix", "nginx", "keygate_unix"))
    hold("CPU, accepted, to bare hyper", 1.1, to("accepted", "hyper"))
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
