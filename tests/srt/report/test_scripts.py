"""What the page's scripts and its data must agree on, checked without a browser; test_browser.py runs them."""

import hashlib
import re
import shutil
import subprocess

import pytest

from srt.report import charts
from srt.report.html import ASSETS, asset
from srt.report.page import SCRIPTS, UPLOT, _uplot

OURS = (*SCRIPTS, "live.js", "start.js")


def keys_of(script: str, name: str) -> set[str]:
    """The keys of `name = { ... }` or `name: { ... }` in a script."""
    body = re.search(rf"\b{name}\s*[=:] {{(.*?)}}", asset(script), re.DOTALL)[1]
    return set(re.findall(r"(\w+):", body))


def test_every_role_has_a_color(whole):
    roles = keys_of("charts.js", "ROLES")
    assert roles == {charts.MAIN, charts.SECOND, charts.VALIDATION, charts.WRONG, charts.CORRECT}
    used = {series["role"] for chart in whole.page.charts.values() for series in chart["series"]}
    assert {role for role in used if not re.fullmatch(r"parts\d+", role)} <= roles
    variables = set(re.findall(r"--([\w-]+):", asset("style.css")))
    colors = re.search(r"ROLES = {(.*?)}", asset("charts.js"))[1]
    assert set(re.findall(r'"(\w+)"', colors)) <= variables
    for script in OURS:
        assert set(re.findall(r'cssColor\("(\w+)"\)', asset(script))) <= variables, script


def test_every_widget_of_the_page_is_one_that_the_scripts_know(whole):
    kinds = keys_of("browse.js", "kinds")
    assert {
        attributes["data-widget"] for _, attributes in whole.page.elements if "data-widget" in attributes
    } == kinds


def test_the_dark_theme_sets_every_color():
    light, dark = re.findall(r":root {(.*?)}", asset("style.css"), re.DOTALL)
    variables = [set(re.findall(r"--(\w+):", theme)) for theme in (light, dark)]
    assert variables[0] == variables[1] and len(variables[0]) > 10


def test_scripts_never_turn_text_into_markup():
    for script in OURS:
        source = asset(script)
        assert not re.search(r"innerHTML\s*=|outerHTML\s*=|insertAdjacentHTML|document\.write|\beval\(", source), (
            script
        )


@pytest.mark.parametrize("script", OURS)
def test_scripts_are_valid(script):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js to check the syntax of scripts with")
    result = subprocess.run([node, "--check", str(ASSETS / script)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_vendored_library_is_the_released_one():
    origin = asset(f"{UPLOT}/ORIGIN.md")
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        digest = hashlib.sha256((ASSETS / UPLOT / name).read_bytes()).hexdigest()
        assert f"| `{name}` | `{digest}` |" in origin
    assert UPLOT.removeprefix("uplot-") in origin and f"(v{UPLOT.removeprefix('uplot-')})" in _uplot()
