"""`compare.png`: the result at a glance. Needs matplotlib (the `bench` dependency group)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.compare.schema import Point, Report, find

OURS = "#0b6e4f"
THEIRS = "#9aa5b1"
LIMIT = "#d08c2f"
INK = "#1f2933"
ORDER = ("relay", "fastgate", "fastgate-policies", "nginx", "nginx-policies", "nginx-given",
         "nginx-given-policies", "haproxy", "haproxy-policies", "pingora", "caddy", "envoy",
         "envoy-policies")  # fmt: skip
PANELS = (
    ("saturation", "cpu_us", "CPU µs per request, saturated"),
    ("connections-1", "cpu_us", "CPU µs per request, 1 connection"),
    ("partial-load", "cpu_us", "CPU µs per request, 8,000/s, 1,000 conns"),
    ("connection-per-request", "cpu_us", "CPU µs per request, a connection each"),
    ("post-16k", "cpu_us", "CPU µs per request, POST of 16 KiB"),
    ("body-10k", "cpu_us", "CPU µs per request, 10 KiB bodies"),
    ("flood-401", "cpu_us", "CPU µs per 401 refused"),
    ("saturation", "rps", "requests/s, one worker on one core"),
    ("half-load", "p99_us", "p99 µs at half load (open loop)"),
)
"""Scenario, metric and title of each panel, in rows of three."""


def colour(subject: str) -> str:
    """Ours, the limit, the others."""
    if subject.startswith("fastgate"):
        return OURS
    return LIMIT if subject == "relay" else THEIRS


def measured(report: Report, scenario: str, metric: str) -> list[tuple[str, Point]]:
    """The proxies that have the metric, in the plot's order."""
    found = ((name, find(report.points, scenario, name)) for name in ORDER)
    return [(name, p) for name, p in found if p is not None and metric in p.metrics]


def bars(axis: Any, report: Report, panel: tuple[str, str, str]) -> None:
    """Horizontal bars with the range of the rounds; `panel` is scenario, metric, title."""
    scenario, metric, title = panel
    rows = measured(report, scenario, metric)[::-1]
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    if not rows:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    spreads = [p.metrics[metric] for _, p in rows]
    values = [s.median for s in spreads]
    low = [max(0.0, s.median - s.low) for s in spreads]
    high = [max(0.0, s.high - s.median) for s in spreads]
    names = [name for name, _ in rows]
    colours = [colour(n) for n in names]
    axis.barh(names, values, color=colours, height=0.66)
    if metric == "cpu_us":  # the user part again, darker
        user = [s.metrics["cpu_user_us"].median if "cpu_user_us" in s.metrics else 0.0
                for _, s in rows]  # fmt: skip
        axis.barh(names, user, color="black", alpha=0.35, height=0.66)
    axis.errorbar(values, names, xerr=[low, high], fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    top = max(s.high for s in spreads) or 1.0
    axis.set_xlim(0, top * 1.2)
    axis.locator_params(axis="x", nbins=6)
    for name, value, spread in zip(names, values, spreads, strict=True):
        text = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        axis.text(spread.high + top * 0.015, name, text, va="center", fontsize=8, color=INK)


def draw(report: Report, path: Path) -> None:
    """Writes the picture. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
         "axes.edgecolor": THEIRS, "text.color": INK, "axes.labelcolor": INK,
         "xtick.color": INK, "ytick.color": INK, "figure.facecolor": "white"}
    )  # fmt: skip
    figure, axes = plt.subplots(3, 3, figsize=(15, 12.5))
    for axis, panel in zip(axes.flat, PANELS, strict=True):
        bars(axis, report, panel)
    machine = report.machine
    figure.suptitle(
        f"FastGate beside other proxies: {machine.cpu}, Linux {machine.kernel}, "
        f"{report.options.get('rounds')} rounds, {report.started[:10]}",
        x=0.01, ha="left", fontsize=12, fontweight="bold",
    )  # fmt: skip
    figure.text(
        0.01, 0.005,
        "Bars: medians; whiskers: least and greatest round. Darker: the part in user space. "
        "“-policies”: keys, rate limit, access log on. Relay: a C relay without parsing, the "
        "practical limit.",
        fontsize=8,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.02, 1, 0.96))
    figure.savefig(path, dpi=120)
    plt.close(figure)
