"""The charts, each defined once in Vega-Lite: in the report by Vega itself, as PNG or SVG by vl-convert, which draws
the same without a browser."""

from autoresearch_kit.views.chart.axis import value_axis as value_axis
from autoresearch_kit.views.chart.draw import to_png as to_png
from autoresearch_kit.views.chart.draw import to_svg as to_svg
from autoresearch_kit.views.chart.draw import to_vega as to_vega
from autoresearch_kit.views.chart.draw import write_plot as write_plot
from autoresearch_kit.views.chart.ink import HEIGHT as HEIGHT
from autoresearch_kit.views.chart.ink import WIDTH as WIDTH
from autoresearch_kit.views.chart.ink import WORDS as WORDS
from autoresearch_kit.views.chart.ink import Spec as Spec
from autoresearch_kit.views.chart.progress import LABEL_CHARACTERS as LABEL_CHARACTERS
from autoresearch_kit.views.chart.progress import best_rows as best_rows
from autoresearch_kit.views.chart.progress import present_marks as present_marks
from autoresearch_kit.views.chart.progress import progress as progress
from autoresearch_kit.views.chart.progress import progress_row as progress_row
from autoresearch_kit.views.chart.runs import line_words as line_words
from autoresearch_kit.views.chart.runs import run_rows as run_rows
from autoresearch_kit.views.chart.runs import runs as runs
