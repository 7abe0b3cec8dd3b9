"""`compare.md`: the result as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.compare.schema import Budget, Point, Ratio, Report, Spread

LOAD_COLUMNS = (
    ("rps", "requests/s", "{:,.0f}"),
    ("handshakes_per_core", "handshakes/s of a core", "{:,.0f}"),
    ("cpu_us", "CPU µs", "{:.2f}"),
    ("cpu_user_us", "user", "{:.1f}"),
    ("cpu_system_us", "system", "{:.1f}"),
    ("worker_cpu_us", "worker alone", "{:.2f}"),
    ("worker_user_us", "its user", "{:.1f}"),
    ("p50_us", "p50 µs", "{:,.0f}"),
    ("p99_us", "p99 µs", "{:,.0f}"),
    ("p999_us", "p99.9 µs", "{:,.0f}"),
)
OPEN_COLUMNS = (
    ("rate", "rate/s", "{:,.0f}"),
    ("cpu_us", "CPU µs", "{:.2f}"),
    ("cpu_user_us", "user", "{:.1f}"),
    ("cpu_system_us", "system", "{:.1f}"),
    ("p50_us", "p50 µs", "{:,.0f}"),
    ("p99_us", "p99 µs", "{:,.0f}"),
    ("p999_us", "p99.9 µs", "{:,.0f}"),
    ("added_p50_us", "added p50 µs", "{:,.0f}"),
    ("added_p99_us", "added p99 µs", "{:,.0f}"),
)
RELOAD_COLUMNS = (
    ("reloads", "reloads", "{:,.0f}"),
    ("reload_s", "each s", "{:.3f}"),
    ("requests", "requests", "{:,.0f}"),
    ("failed", "failed, kept-alive", "{:,.0f}"),
    ("failed_fresh", "failed, fresh", "{:,.0f}"),
    ("quiet_p99_us", "p99 µs in quiet", "{:,.0f}"),
    ("reload_p99_us", "p99 µs reloading", "{:,.0f}"),
    ("p99_ratio", "ratio", "{:.2f}"),
)
IDLE_COLUMNS = (
    ("start_s", "serving after s", "{:.3f}"),
    ("idle_pss_mib", "at rest MiB", "{:.1f}"),
    ("loaded_pss_mib", "after load MiB", "{:.1f}"),
    ("connection_bytes", "bytes per idle connection", "{:,.0f}"),
)
SIDECAR_COLUMNS = (
    ("start_s", "serving after s", "{:.3f}"),
    ("start_cpu_s", "CPU s until then", "{:.3f}"),
    ("idle_pss_mib", "at rest MiB", "{:.1f}"),
    ("supervisor_pss_mib", "supervisor", "{:.1f}"),
    ("worker_pss_mib", "worker", "{:.1f}"),
    ("control_pss_mib", "control", "{:.1f}"),
    ("used_pss_mib", "API used MiB", "{:.1f}"),
)
PAID_COLUMNS = (
    ("rps", "requests/s", "{:,.0f}"),
    ("worker_cpu_us", "CPU µs, worker", "{:.2f}"),
    ("worker_user_us", "its user", "{:.1f}"),
    ("control_cpu_us", "control", "{:.2f}"),
    ("control_user_us", "its user", "{:.2f}"),
    ("cpu_us", "both", "{:.2f}"),
    ("cpu_user_us", "user", "{:.1f}"),
    ("cpu_system_us", "system", "{:.1f}"),
    ("p50_us", "p50 µs", "{:,.0f}"),
    ("p99_us", "p99 µs", "{:,.0f}"),
    ("charged", "charged", "{:,.0f}"),
    ("settled_s", "in the ledger after s", "{:.1f}"),
)
FLOOD_COLUMNS = (
    ("rate", "rate/s", "{:,.0f}"),
    ("hellos", "half handshakes/s", "{:,.0f}"),
    ("calm_p99_us", "p99 µs in calm", "{:,.0f}"),
    ("flood_p99_us", "p99 µs in the flood", "{:,.0f}"),
    ("flood_added_us", "added µs", "{:,.0f}"),
    ("flood_failed", "failed", "{:,.0f}"),
)
IDENTITY_COLUMNS = (
    ("cpu_us", "CPU µs", "{:.2f}"),
    ("cpu_user_us", "user", "{:.1f}"),
    ("cpu_system_us", "system", "{:.1f}"),
    ("worker_cpu_us", "worker alone", "{:.2f}"),
    ("worker_user_us", "its user", "{:.1f}"),
    ("above_key_us", "worker, above a key", "{:.2f}"),
    ("above_open_us", "CPU, above asking nobody", "{:.2f}"),
    ("verify_us", "libcrypto alone", "{:.1f}"),
    ("p50_us", "p50 µs", "{:,.0f}"),
    ("p99_us", "p99 µs", "{:,.0f}"),
)
OPTIONAL = {"handshakes_per_core"}
"""Columns that only tables with such figures have."""
COLUMNS = {
    "closed": LOAD_COLUMNS,
    "open": OPEN_COLUMNS,
    "reload": RELOAD_COLUMNS,
    "idle": IDLE_COLUMNS,
    "paid": PAID_COLUMNS,
    "sidecar": SIDECAR_COLUMNS,
    "flood": FLOOD_COLUMNS,
    "identity": IDENTITY_COLUMNS,
}


def cell(spread: Spread | None, form: str) -> str:
    """Median, with the range of the rounds where there is one."""
    if spread is None:
        return "-"
    middle = form.format(spread.median)
    low, high = form.format(spread.low), form.format(spread.high)
    return middle if low == high else f"{middle} ({low} to {high})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first column is left-aligned."""
    align = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (header, align, *rows)]


def ratio_table(ratios: Sequence[Ratio]) -> list[str]:
    """Ratios of CPU per request, with the spread of the pairs."""
    if not ratios:
        return []
    rows = [
        [
            f"{r.over} / {r.under}",
            f"{r.median:.3f}",
            f"{r.lower:.3f} to {r.upper:.3f}",
            f"{r.low:.3f} to {r.high:.3f}",
            str(r.pairs),
        ]
        for r in ratios
    ]
    header = ["CPU per request, ratio by pairs", "median", "half of them", "all of them", "pairs"]
    return ["", *table(header, rows)]


def section(title: str, points: Sequence[Point], ratios: Sequence[Ratio] = ()) -> list[str]:
    """One scenario."""
    measured = {metric for point in points for metric in point.metrics}
    columns = [c for c in COLUMNS[points[0].mode] if c[0] in measured or c[0] not in OPTIONAL]
    lines = [f"## {title}", ""]
    lines += table(
        ["", *(name for _, name, _ in columns), "rounds"],
        [
            [
                p.subject,
                *(cell(p.metrics.get(metric), form) for metric, _, form in columns),
                str(max((spread.rounds for spread in p.metrics.values()), default=0)),
            ]
            for p in points
        ],
    )
    lines += ratio_table(ratios)
    for point in points:
        lines += [f"\n{point.subject}: {note}." for note in point.notes]
        bad = {name: n for name, n in point.errors.items() if n}
        if bad:
            listed = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in bad.items())
            lines.append(f"\n{point.subject}: {listed}.")
    return [*lines, ""]


def measured(budget: Budget) -> str:
    """The figure; of a ratio by pairs also between which values half of them are."""
    if budget.figure is None:
        return "-"
    text = f"{budget.figure:,.4g} {budget.unit}".strip()
    if budget.pairs < 2:
        return text
    return f"{text} ({budget.lower:,.4g} to {budget.upper:,.4g})"


def verdict_table(report: Report) -> list[str]:
    """The budgets."""
    marks = {True: "met", False: "**missed**", None: "-"}
    return table(
        ["budget", "measured", "limit", "", ""],
        [
            [
                b.budget,
                measured(b),
                f"{'≤' if b.sense == '<=' else '≥'} {b.limit:,.4g} {b.unit}".strip(),
                marks[b.met],
                b.note,
            ]
            for b in report.verdict
        ],
    )


def libraries(report: Report) -> list[str]:
    """Which libssl the TLS rows were made with."""
    users: dict[str, list[str]] = {}
    for subject in report.subjects:
        if subject.libssl:
            users.setdefault(subject.libssl, []).append(subject.name)
    if not users:
        return []
    listed = "; ".join(f"{', '.join(names)}: {library}" for library, names in users.items())
    same = "all on one libssl" if len(users) == 1 else "**not all on the same libssl**"
    return [f"TLS: {same}. {listed}.", ""]


def markdown(report: Report, titles: dict[str, str]) -> str:
    """The whole document."""
    m = report.machine
    lines = [
        "# FastGate beside other proxies",
        "",
        f"Made by `python -m benchmarks.compare` on {report.started}, in {report.seconds:.0f} s"
        f"{'' if report.complete else '; **not complete**: the run was ended early'}. "
        "Figures are medians over the rounds, with the least and the greatest in parentheses. How "
        "it is measured, and what it does not show: [docs/benchmarks.md]"
        "(../../docs/benchmarks.md).",
        "",
        f"- {m.cpu}, {m.cores} cores{', virtual machine' if m.hypervisor else ''}, "
        f"{m.memory_gib} GiB; Linux {m.kernel} {m.architecture}; Python {m.python}; load average "
        f"before the run {m.load_average}",
        f"- cores: {', '.join(f'{part} {where}' for part, where in report.placement.items())}",
        f"- {', '.join(f'{name} {value}' for name, value in report.options.items())}",
        "",
        *table(
            ["subject", "version", "what it does"],
            [[s.name, s.version, s.description] for s in report.subjects],
        ),
        "",
        *libraries(report),
        "## Budgets",
        "",
        *verdict_table(report),
        "",
    ]
    for name, title in titles.items():
        points = [p for p in report.points if p.scenario == name]
        if points:
            lines += section(title, points, [r for r in report.ratios if r.scenario == name])
    if report.crosscheck:
        lines += ["## Cross-check with wrk", "", "Requests/s, 64 connections, closed loop.", ""]
        subjects = sorted({key.split()[0] for key in report.crosscheck})
        lines += table(
            ["", "load", "wrk"],
            [
                [s, *(f"{report.crosscheck.get(f'{s} {t}', 0):,.0f}" for t in ("load", "wrk"))]
                for s in subjects
            ],
        )
        lines.append("")
    if report.skipped:
        lines += ["## Not measured", ""]
        scenarios: dict[tuple[str, str], list[str]] = {}
        for s in report.skipped:
            scenarios.setdefault((s.subject, s.reason.splitlines()[0]), []).append(s.scenario)
        lines += [
            f"- {subject}: {reason} ({', '.join(names)})"
            for (subject, reason), names in scenarios.items()
        ]
        lines.append("")
    return "\n".join(lines)
