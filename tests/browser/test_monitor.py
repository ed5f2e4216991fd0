"""monitor.ipynb on a running batch."""

from __future__ import annotations

import threading

import pytest

from colab_helpers import load_settings, run_batch
from tests.browser.fronts import SLOW, Lab


@pytest.fixture
def running_batch(site, tmp_path):
    """Output folder of a running batch."""
    clip = site.long_clip(tmp_path / "holiday.mp4", 8)
    words = {
        "consent": "Rendered people of the demo, used in a test: synthetic.",
        "settings": load_settings("light"),
    }
    thread = threading.Thread(
        target=run_batch,
        args=([site.demo / "source" / "hanna.jpg"], [clip], tmp_path / "out"),
        kwargs={**words, "models_dir": site.demo / "models"},
    )
    thread.start()
    while not (tmp_path / "out" / "status.json").exists():
        thread.join(0.05)
    yield tmp_path / "out"
    thread.join()


def test_monitor_follows_batch_folder(front, site, running_batch, shot):
    name = f"watch-{front.name}.ipynb"
    front.open(site.copy("monitor.ipynb", name, folder=str(running_batch)))
    front.run_all()
    front.sees("holiday.mp4")
    panel = front.page.locator(".widget-html-content").filter(has_text="holiday.mp4").first
    if isinstance(front, Lab):
        bar = panel.locator('[role="progressbar"]').first
        share = front.changes(bar, "", attribute="aria-valuenow")
        front.changes(bar, share, attribute="aria-valuenow")
        front.page.wait_for_timeout(2500)
        panel.evaluate("one => one.scrollIntoView()")
        shot(front.page, "monitor-run-lab")
    panel.get_by_text("1 of 1 files finished (1 done)").wait_for(timeout=SLOW)
    assert panel.locator("svg").count() >= 3
    front.finish()
    assert front.errors() == []
    seen = "it is done" if isinstance(front, Lab) else "keep updating"
    assert front.page.get_by_text(seen).last.is_visible()
    shot(front.page, f"monitor-ended-{front.name}")
