"""python benchmarks/report.py [--attempts 5000] [--times 5]

How long `ark report` takes over a run that `made.py` makes below TMPDIR, start of the process included; how large the
page is; and when a headless Chromium has painted it first and drawn its chart. Without Chromium the last rows are
missing. Medians and the fastest; machines are noisy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import made

ARK = [sys.executable, "-c", "from autoresearch_kit.cli import main; main()"]
SEARCH = """async () => {
  const query = document.getElementById("query"), count = document.getElementById("count"), began = performance.now();
  query.value = "idea 77";
  query.dispatchEvent(new Event("input", { bubbles: true }));
  while (!count.textContent.includes(" of ")) await new Promise((go) => setTimeout(go, 1));
  await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
  return performance.now() - began;
}"""
"""Milliseconds from a keystroke to the paint of what it found."""
SIZED = 1000
"""Attempts of the page whose size is told."""


def reported(folder: Path, output: Path, times: int, cache: Path | None = None) -> list[float]:
    """Seconds of each call; with `cache`, a folder that is emptied before each."""
    found = []
    for _ in range(times):
        if cache:
            shutil.rmtree(cache, ignore_errors=True)
        environment = {**os.environ, **({"XDG_CACHE_HOME": str(cache)} if cache else {})}
        began = time.perf_counter()
        subprocess.run(
            [*ARK, "report", "-o", str(output)], cwd=folder, env=environment, capture_output=True, check=True
        )
        found.append(time.perf_counter() - began)
    return found


def painted(path: Path, times: int) -> Iterator[tuple[float, float, float]]:
    """Seconds until the first paint and until the chart is drawn, and those that a search in the table takes."""
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=root)
        for _ in range(times):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(path.as_uri())
            page.wait_for_selector("#chart[data-drawn]")
            drawn = page.evaluate("performance.now()") / 1000
            first = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
            page.locator("#attempts").scroll_into_view_if_needed()
            yield first, drawn, page.evaluate(SEARCH) / 1000
            page.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=5000)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    rows = [("figure", "target", "median", "fastest")]

    def seconds(figure: str, target: str, found: list[float]) -> None:
        rows.append((figure, target, f"{median(found):.2f} s", f"{min(found):.2f} s"))

    with tempfile.TemporaryDirectory(prefix="ark-benchmark-") as scratch:
        folder, output = made.make(Path(scratch) / "made", 1, options.attempts), Path(scratch) / "report.html"
        what = f"{options.attempts} attempts"
        reported(folder, output, 1)
        seconds(f"ark report, {what}", "under 3 s", reported(folder, output, options.times))
        cold = reported(folder, output, min(3, options.times), Path(scratch) / "cache")
        seconds(f"the same, the first time for a version of vl-convert, {what}", "", cold)
        rows.append((f"size, {what}", "", f"{output.stat().st_size / 1e6:.2f} MB", ""))
        if shutil.which("chromium"):
            first, drawn, search = zip(*painted(output, options.times), strict=True)
            seconds(f"first paint, {what}", "under 1 s", list(first))
            seconds(f"chart drawn, {what}", "", list(drawn))
            seconds(f"a search in the table, {what}", "", list(search))
        small = made.make(Path(scratch) / "small", 1, SIZED)
        reported(small, output, 1)
        rows.append((f"size, {SIZED} attempts", "under 1.5 MB", f"{output.stat().st_size / 1e6:.2f} MB", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
