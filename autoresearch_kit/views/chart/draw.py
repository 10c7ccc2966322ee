"""From the definition of a chart to a picture, by vl-convert: no browser is needed."""

from __future__ import annotations

from pathlib import Path

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.views.chart.ink import Spec


def to_vega(spec: Spec) -> Spec:
    """The same chart as Vega understands it, with labels where there is room for them."""
    import vl_convert

    vega: Spec = vl_convert.vegalite_to_vega(spec)
    for mark in vega.get("marks", []):
        if (name := str(mark.get("name"))).startswith("labels"):
            mark["transform"] = [_places("anchors_right" if "right" in name else "anchors")]
    return vega


def _places(anchors: str) -> Spec:
    """How Vega places texts so that none lies on another; Vega-Lite has no word for it.

    The largest gains come first, near their marks and then farther off; what has no room is left out.
    """
    return {
        "type": "label",
        "size": {"signal": "[width + room, height]"},
        "anchor": {"signal": anchors},
        "offset": {"signal": "[5, 14]"},
        "sort": {"field": "datum.gain", "order": "descending"},
    }


def to_svg(spec: Spec) -> str:
    """An SVG image of a chart."""
    import vl_convert

    return str(vl_convert.vega_to_svg(to_vega(spec), allowed_base_urls=[]))


def to_png(spec: Spec, scale: float = 2.0) -> bytes:
    """A PNG image of a chart, `scale` times as large."""
    import vl_convert

    return bytes(vl_convert.vega_to_png(to_vega(spec), scale=scale, allowed_base_urls=[]))


def write_plot(spec: Spec, path: Path) -> None:
    """Write a chart to a file, PNG or SVG by its name; UsageError for any other, ArkError when it cannot be written."""
    suffix = path.suffix.lower()
    if suffix not in (".png", ".svg"):
        raise UsageError(f"{path} is neither a .png nor a .svg", "these two can be drawn")
    data = to_png(spec) if suffix == ".png" else to_svg(spec).encode()
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ArkError(f"{path} cannot be written: {error.strerror}") from None
