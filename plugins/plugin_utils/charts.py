# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary of a release as a picture: what each verdict in the ledger rests on, over time, beside its limits."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional
from xml.etree import ElementTree

from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import quantile
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, SlotSample

PACKAGE = "pygal"
MISSING = f"No charts were drawn: the control node lacks the package {PACKAGE}. Install it beside Ansible: python3 -m pip install {PACKAGE}"

_SVG = "http://www.w3.org/2000/svg"
_WIDTH, _HEIGHT, _HEAD = 1000, 300, 44
_SLOTS = {"blue": "#1f6fb4", "green": "#2e9a4b"}
_OTHER_SLOT, _LIMIT, _INK, _FAINT, _PAPER = "#777777", "#c62828", "#222222", "#bbbbbb", "#ffffff"
_FONT = "system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"
# Steps that end closer to each other than this share of the picture have one label, or nobody could read either.
_NEAR = 0.035


@dataclass(frozen=True)
class Look:
    """One verdict, in seconds since the canary began.

    :param sample: None when the verdict rests on no requests.
    :param limits: of the gates that spoke, by their names.
    """

    at: float
    label: str
    begins: float
    ends: float
    sample: Optional[Sample]
    limits: Mapping[str, float]


@dataclass(frozen=True)
class _Axis:
    """How high a value stands, which value stands at a height, and which are written beside it up to the highest (None: the library chooses)."""

    place: Callable[[float], float]
    read: Callable[[float], float]
    ticks: Callable[[float], Optional[list[float]]]


@dataclass(frozen=True)
class _Metric:
    """One chart. ``gate`` is the gate whose limit is drawn; ``value`` is None where a slot has nothing to show."""

    name: str
    title: str
    unit: str
    gate: str
    scale: float
    value: Callable[[SlotSample], Optional[float]]
    axis: _Axis


@dataclass(frozen=True)
class _Line:
    """One line of a chart; ``dots`` is their size."""

    name: str
    colour: str
    points: list[tuple[float, Optional[float]]]
    stroke: Mapping[str, Any]
    dots: int


def _error_rate(slot: SlotSample) -> Optional[float]:
    return slot.error_rate if slot.requests else None


def _p95(slot: SlotSample) -> Optional[float]:
    return quantile(slot.histogram, 0.95)


def _requests(slot: SlotSample) -> Optional[float]:
    return float(slot.requests) if slot.requests else None


def _decades(top: float) -> list[float]:
    return [step * 10.0**decade for decade in range(math.ceil(math.log10(top)) + 1) for step in (1, 3) if step * 10.0**decade <= top]


_LINEAR = _Axis(float, float, lambda _top: None)
# A limit of a second would press times of some milliseconds flat. It begins at 1 ms: below, the log cannot tell times apart.
_LOGARITHMIC = _Axis(lambda value: math.log10(max(value, 1.0)), lambda height: 10.0**height, _decades)

METRICS = (
    _Metric("errors", "Error rate of first attempts (%)", "%", "error rate", 100.0, _error_rate, _LINEAR),
    _Metric("p95", "p95 of the request time (ms, logarithmic)", "ms", "p95", 1000.0, _p95, _LOGARITHMIC),
    _Metric("requests", "Requests per look", "requests", "", 1.0, _requests, _LINEAR),
)


def looks_of(records: Sequence[Mapping[str, Any]]) -> list[Look]:
    """Return the verdicts of one release from its ledger records."""
    began, phase, found = None, "", []
    for record in records:
        data: Mapping[str, Any] = record.get("data", {})
        if record["event"] == "begin":
            phase = record.get("phase", "")
        elif record["event"] == "share" and began is None:
            began = record["at"]
        elif record["event"] == "verdict":
            began = record["at"] - float(data.get("elapsed") or 0.0) if began is None else began
            found.append(_look(max(record["at"] - began, 0.0), began, "watch" if phase == "watch" else f"{data['percent']} %", data))
    return found


def _look(at: float, began: float, step: str, data: Mapping[str, Any]) -> Look:
    sample = Sample.from_dict(data["sample"]) if data.get("sample") else None
    since, until = (sample.since, sample.until) if sample else (None, None)
    limits = {gate["name"]: float(gate["limit"]) for gate in data.get("gates", []) if gate["name"] in ("error rate", "p95") and gate.get("limit") is not None}
    begins, ends = (max(since - began, 0.0), max(until - began, 0.0)) if since is not None and until is not None else (at, at)
    return Look(at, f"{step} {data['verdict']}", begins, ends, sample, limits)


def draw(report: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return the picture of a release as SVG, and a sentence when there should be one but cannot be; both are empty without a judged request.

    :param report: the account of the release.
    :param records: its records in the ledger.
    """
    try:
        looks = looks_of(records)
        if not any(look.sample for look in looks):
            return "", ""
        return _page(importlib.import_module(PACKAGE), report, looks), ""
    except ImportError:
        return "", MISSING
    except Exception as error:  # the release has ended by now: a picture that fails must not make it look failed
        return "", f"No charts were drawn: {type(error).__name__}: {error}. The account is whole without them."


def _page(pygal: Any, report: Mapping[str, Any], looks: Sequence[Look]) -> str:
    """Put the charts below each other into one file that needs no other."""
    ElementTree.register_namespace("", _SVG)
    height = _HEAD + _HEIGHT * len(METRICS)
    page = ElementTree.Element(f"{{{_SVG}}}svg", {"width": str(_WIDTH), "height": str(height), "viewBox": f"0 0 {_WIDTH} {height}"})
    ElementTree.SubElement(page, f"{{{_SVG}}}rect", {"width": "100%", "height": "100%", "fill": _PAPER})
    at = {"x": "20", "y": "30", "font-family": _FONT, "font-size": "18", "font-weight": "bold", "fill": _INK}
    ElementTree.SubElement(page, f"{{{_SVG}}}text", at).text = f"Canary of {report['release_id']}: {report['result'].replace('_', ' ')}"
    for number, metric in enumerate(METRICS):
        place = ElementTree.SubElement(page, f"{{{_SVG}}}g", {"transform": f"translate(0, {_HEAD + _HEIGHT * number})"})
        place.append(_still(_chart(pygal, metric, report["manifest"], looks)))
    return ElementTree.tostring(page, encoding="unicode") + "\n"


def _still(drawn: str) -> ElementTree.Element:
    """Return a chart without its script; what the script would show beside a dot, a browser shows by itself."""
    chart = ElementTree.fromstring(drawn)
    for parent in list(chart.iter()):
        for child in list(parent):
            if child.tag == f"{{{_SVG}}}script" or (child.tag == f"{{{_SVG}}}desc" and child.get("class") != "value"):
                parent.remove(child)
            elif child.tag == f"{{{_SVG}}}desc":
                child.tag = f"{{{_SVG}}}title"
    return chart


def _chart(pygal: Any, metric: _Metric, manifest: Mapping[str, Any], looks: Sequence[Look]) -> str:
    lines = _lines(metric, manifest, looks)
    top = max((value for line in lines for _x, value in line.points if value is not None), default=0.0) or 1.0
    ticks = metric.axis.ticks(metric.axis.read(top * 1.1))
    labels = [{"value": metric.axis.place(tick), "label": _number(tick)} for tick in ticks] if ticks else None
    # The series' own strokes only count where the lines inherit them.
    style = pygal.style.Style(
        colors=tuple(line.colour for line in lines),
        background=_PAPER, plot_background=_PAPER, foreground=_INK, foreground_strong=_INK, foreground_subtle=_FAINT,
        opacity=1, stroke_width="inherit", guide_stroke_color=_FAINT, major_guide_stroke_color=_FAINT, font_family=_FONT,
        title_font_size=15, label_font_size=12, major_label_font_size=12, legend_font_size=13,
    )  # fmt: skip
    chart = pygal.XY(
        style=style, width=_WIDTH, height=_HEIGHT, explicit_size=True, disable_xml_declaration=True, js=(), margin=12, spacing=8,
        title=metric.title, truncate_legend=-1, legend_box_size=12, truncate_label=-1, x_label_rotation=20, show_x_guides=True,
        include_x_axis=True, allow_interruptions=True, range=(0, top * 1.1), xrange=(0, _span(looks)), x_labels=_marks(looks),
        y_labels=labels, max_scale=6,
        value_formatter=_number, x_value_formatter=duration,
    )  # fmt: skip
    # Without an id of its own a chart gets one by chance, and the same release another picture each time.
    chart.uuid = metric.name
    for line in lines:
        told = _told(line.name, metric)
        chart.add(line.name, line.points, stroke_style=line.stroke, show_dots=line.dots > 0, dots_size=line.dots, formatter=told)
    return str(chart.render(is_unicode=True))


def _lines(metric: _Metric, manifest: Mapping[str, Any], looks: Sequence[Look]) -> list[_Line]:
    """Return what a chart shows: live broad and the canary narrow upon it, so that both are seen where they are equal."""
    live, idle = manifest["live"], manifest["idle"]
    lines = [
        _Line(f"live: {live}, {manifest.get('live_version') or 'unknown'}", _SLOTS.get(live, _OTHER_SLOT), _stretches(looks, metric, live), {"width": 6}, 6),
        _Line(f"canary: {idle}, {manifest['version']}", _SLOTS.get(idle, _OTHER_SLOT), _stretches(looks, metric, idle), {"width": 3}, 4),
        _Line("limit", _LIMIT, _stretches(looks, metric, None), {"width": 2, "dasharray": "7, 4"}, 0),
    ]
    return [line for line in lines if line.points]


def _stretches(looks: Sequence[Look], metric: _Metric, slot: Optional[str]) -> list[tuple[float, Optional[float]]]:
    """Return a level line for each look, as long as the window it was measured in; at None the pen is lifted.

    :param slot: None for the limit.
    """
    points: list[tuple[float, Optional[float]]] = []
    for look in looks:
        found = look.limits.get(metric.gate) if slot is None else metric.value(look.sample.slot(slot)) if look.sample else None
        if found is not None:
            level = metric.axis.place(found * metric.scale)
            points += [(look.begins, level), (look.ends, level), (look.ends, None)]
    return points


def _span(looks: Sequence[Look]) -> float:
    """Return the seconds from the canary's begin to its last verdict; a second at least, so that there is something to draw on."""
    return max(1.0, *(look.at for look in looks))


def _marks(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """Return where the steps ended, with percent and verdict."""
    near = _NEAR * _span(looks)
    marks: list[dict[str, Any]] = [{"value": 0, "label": "0 s"}]
    for look in looks:
        if len(marks) > 1 and look.at - marks[-1]["value"] < near:
            marks[-1]["label"] += f"; {look.label}"
        else:
            marks.append({"value": look.at, "label": f"{duration(look.at)}: {look.label}"})
    return marks


def _told(name: str, metric: _Metric) -> Callable[[tuple[float, float]], str]:
    def told(point: tuple[float, float]) -> str:
        return f"{name}: {_number(metric.axis.read(point[1]))} {metric.unit}, {duration(point[0])} after the canary began"

    return told


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time as people say it: seconds up to two minutes, minutes up to two hours, then hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
