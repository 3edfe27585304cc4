"""Chromium, driven by Selenium."""

import base64
import json
import os
import pathlib
import time

import axe_playwright_python
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

AXE = (pathlib.Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
# Rules of these sets; WCAG 2.2 AA, and what axe calls best practice.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
WAIT = 20


class Failed(Exception):
    """Something is not as it must be."""


def ensure(condition, message):
    if not condition:
        raise Failed(message)


def eventually(what, condition):
    """Waits until the condition holds; returns the seconds that it took."""
    began = time.monotonic()
    while time.monotonic() < began + WAIT:
        if condition():
            return time.monotonic() - began
        time.sleep(0.05)
    raise Failed(f"after {WAIT} s still not: {what}")


class Browser:
    def __init__(self, url, folder, script=True):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]:
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={folder}/profile-{script}")
        if not script:
            options.add_experimental_option(
                "prefs", {"profile.managed_default_content_settings.javascript": 2}
            )
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        self.driver.set_page_load_timeout(60)
        self.url = url

    def close(self):
        self.driver.quit()

    def open(self, path):
        self.driver.get(self.url + path)

    def text(self, selector):
        """What an element says; the page may replace it meanwhile."""
        for _ in range(10):
            try:
                found = self.driver.find_elements(By.CSS_SELECTOR, selector)
                return found[0].text if found else ""
            except StaleElementReferenceException:
                continue
        raise Failed(f"{selector} is replaced all the time")

    def names(self, selector):
        """What a screen reader calls these elements."""
        return [found.accessible_name for found in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def size(self, width, height, dark=False):
        """The size of the window's inside, and the reader's setting."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def screenshot(self, name):
        """All of the page, if pictures are wanted."""
        folder = os.environ.get("SCREENSHOTS")
        if folder:
            height = self.driver.execute_script("return document.documentElement.scrollHeight")
            width = self.driver.execute_script("return innerWidth")
            clip = {"x": 0, "y": 0, "width": width, "height": min(height, 8000), "scale": 1}
            picture = self.driver.execute_cdp_cmd(
                "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
            )
            path = pathlib.Path(folder)
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{name}.png").write_bytes(base64.b64decode(picture["data"]))

    def no_complaints(self, where):
        """Nothing is in the console, and nothing was asked of another host."""
        # A page asks again after 503, which it gets when the database takes long to answer.
        late = "the server responded with a status of 503"
        lines = [entry["message"] for entry in self.driver.get_log("browser")]
        lines = [line for line in lines if late not in line]
        ensure(not lines, f"{where}: the console says {lines}")
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked = message["params"]["request"]["url"]
                known = asked.startswith((self.url, "data:", "about:", "chrome"))
                ensure(known, f"{where}: it asks {asked}")

    def nothing_inline(self, where):
        inline = self.driver.execute_script(
            """return [...document.querySelectorAll('*')].filter((e) =>
                e.hasAttribute('style') || e.localName === 'style' || e.localName === 'iframe'
                || (e.localName === 'script' && !e.src)
                || [...e.attributes].some((a) => a.name.startsWith('on'))
            ).map((e) => e.outerHTML.slice(0, 100))"""
        )
        ensure(not inline, f"{where}: inline {inline}")

    def accessible(self, where):
        self.driver.execute_script(AXE)
        result = self.driver.execute_async_script(
            "const [rules, done] = arguments;"
            "axe.run(document, {runOnly: {type: 'tag', values: rules}}).then(done, (e) => done({error: String(e)}))",
            RULES,
        )
        ensure("error" not in result, f"{where}: axe fails: {result.get('error')}")
        ensure(len(result["passes"]) > 10, f"{where}: axe checked nothing")
        found = [
            f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
            for violation in result["violations"]
            for node in violation["nodes"][:3]
        ]
        ensure(not found, f"{where}: axe finds {found}")

    def fits(self, where):
        """Nothing is wider than the window."""
        wide = self.driver.execute_script(
            """const most = document.documentElement.clientWidth;
            return document.documentElement.scrollWidth <= most ? [] : [...document.body.querySelectorAll('*')]
                .filter((e) => e.getBoundingClientRect().right > most + 1 && !e.closest('.wide'))
                .map((e) => e.outerHTML.slice(0, 100)).concat(['the document']).slice(0, 5)"""
        )
        ensure(not wide, f"{where}: too wide: {wide}")
