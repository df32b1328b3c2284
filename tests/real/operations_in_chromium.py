#!/usr/bin/env python3
"""An operator at work in a real browser, with a real Kafka: what is shown at every size, dead letters retried and given up by touch and by key, a line
that goes down and comes back, and a daemon that is away.

    operations_in_chromium.py                the test
    operations_in_chromium.py --pictures     takes the picture of the page into docs/pictures/ instead
"""

import argparse
import json
import secrets
import subprocess
import tempfile

import kafka_cluster
import parts
from browser import PHONE, TABLET, WALL, Browser
from pages_in_chromium import AXE_VERSION, JUDGE

parts.with_packages("mqtt")
import sarama  # noqa: E402

PICTURE = parts.ROOT / "docs" / "pictures" / "operations.png"
DESK = (1280, 800)
SIZES = (TABLET, DESK, PHONE)
ENTER = 13
SHOWN_S = 30
# More than the topic takes, and less than a request may be.
TOO_LARGE = secrets.token_hex(2500)


class Operator:
    """The page, as somebody looks at it."""

    def __init__(self, browser, gateway, query=""):
        self._browser, self._gateway = browser, gateway
        browser.open(gateway.url(f"/operations{query}"))
        self.sees("the page is there", lambda: self.text("#gateway"))

    def run(self, script):
        return self._browser.run(script)

    def text(self, selector):
        return " ".join(self._browser.texts(selector))

    def sees(self, what, condition, limit_s=SHOWN_S):
        return parts.until(what, condition, limit_s)

    def touch(self, selector):
        """A finger on what can be seen and pressed."""
        script = (
            f"const e = document.querySelector({json.dumps(selector)}); if (!e || e.disabled || !e.offsetParent) return null;"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2];"
        )
        x, y = self.sees(f"{selector} can be touched", lambda: self.run(script))
        self._browser.touch(x, y)

    def press(self, selector):
        """Enter on what has the focus."""
        self.sees(f"{selector} can have the focus", lambda: self.run(
            f"const e = document.querySelector({json.dumps(selector)}); if (!e || e.disabled) return false; e.focus(); return document.activeElement === e;"
        ))
        self._browser.press(ENTER, "\r")

    def decide(self, seq, decision, confirmed, by):
        """Until it is done: the gateway asks people to wait while Kafka or the dead letter topic lacks something."""

        def done():
            by(f"#letter-{seq}-{decision}")
            self.sees("it is asked whether that is meant", lambda: self.run(f"return document.activeElement.id === 'letter-{seq}-yes'"))
            by(f"#letter-{seq}-yes")
            said = self.sees("it is said what came of it", lambda: (text := self.text("#letter-said")) and "being decided" not in text and text)
            assert f"Seq {seq}: " in said, said
            return confirmed in said

        self.sees(f"{decision} of {seq} is done", done, 60)


def letters(gateway):
    """Seqs of the dead letters, as the command says them."""
    command = [parts.daemon(), "dead-letters", "list", "--json", "--url", gateway.url("/").rstrip("/")]
    found = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    return [letter["seq"] for letter in json.loads(found.stdout)]


def every_figure_is_there_at_every_size(kafka, gateway, browser):
    paid = gateway.order(totalPrice=12.5)
    gateway.event(paid["orderId"], "order.payment_processed", {})
    page = Operator(browser, gateway)
    axe = parts.node_file("axe-core", AXE_VERSION, "axe.min.js")
    page.run(axe)
    page.sees("the line is up", lambda: "up" in page.text("#line"))
    page.sees("terminals are there", lambda: "till-1" in page.text("#terminals"))
    assert "PORT CLOSED" in page.text("#terminals") and "till-9" in page.text("#terminals"), page.text("#terminals")
    page.sees("a printer that is away is said so", lambda: "bar: OFF or NOT CONNECTED" in page.text("#printers"))
    page.sees("the day is there", lambda: "till-1" in page.text("#day"))
    device = page.text("#device")
    for word in ("well", "MiB", "ms", "Version"):
        assert word in device, device
    for size in SIZES:
        browser.size(size)
        assert page.run("return document.documentElement.scrollWidth <= innerWidth"), f"{size} scrolls sideways"
        small = "Array.from(document.querySelectorAll('button')).filter(b => b.offsetParent && b.offsetHeight < 44).map(b => b.id)"
        assert page.run(f"return {small}") == [], f"too small for a finger at {size}"
        found = page.run(JUDGE)
        assert found["rules"] > 5 and not found["broken"], "\n".join(found["broken"])
    browser.size(WALL)
    page.sees("all of the day is at the centre", lambda: day_says(page, "Everything of this day is at the centre."))
    page.touch("#day-before")
    page.sees("the day before is empty", lambda: "till-1" not in page.text("#day"))
    page.touch("#day-after")
    page.sees("and today is not", lambda: "till-1" in page.text("#day"))


def day_says(page, sentence):
    page.run("day.look()")
    return sentence in page.text("#day-centre")


def dead_letters_are_decided_by_touch_and_by_key(kafka, gateway, browser):
    page = Operator(browser, gateway)
    orders = [gateway.order(userId=f"user-{n}", note=TOO_LARGE) for n in range(2)]
    given_up, sent = [order["seq"] for order in orders]
    page.sees("both are shown", lambda: page.run("return document.querySelectorAll('#letters > li').length") == 2)
    assert "MessageSizeTooLarge" in page.text("#letters") and orders[0]["orderId"] in page.text("#letters")
    page.run(parts.node_file("axe-core", AXE_VERSION, "axe.min.js"))
    found = page.run(JUDGE)
    assert not found["broken"], "\n".join(found["broken"])
    page.sees("the day names them", lambda: day_says(page, f"(seq {given_up}, {sent})"))
    page.touch(f"#letter-{sent}-show")
    page.sees("the event is shown", lambda: orders[1]["orderId"] in page.text(".letter-event"))
    # Whoever says no keeps it, and stays where they were.
    page.touch(f"#letter-{given_up}-discard")
    page.touch(f"#letter-{given_up}-no")
    assert page.run("return document.activeElement.id") == f"letter-{given_up}-discard" and letters(gateway) == [given_up, sent]
    page.decide(given_up, "discard", "discarded", page.touch)
    page.sees("one is left", lambda: letters(gateway) == [sent])
    page.sees("and shown", lambda: page.run("return document.querySelectorAll('#letters > li').length") == 1)
    # The centre takes larger ones now.
    kafka.set_topic("order-events", max_message_bytes=1_000_000)
    page.decide(sent, "retry", "queued again", page.press)
    page.sees("none is left", lambda: letters(gateway) == [] and page.run("return document.getElementById('letters-area').hidden"))
    has = lambda order: any(record["key"] == order["orderId"] for record in sarama.read(kafka.brokers(), "order-events"))
    page.sees("Kafka has it", lambda: has(orders[1]))
    assert not has(orders[0])


def a_line_that_goes_down_and_comes_back_is_seen(kafka, gateway, browser):
    page = Operator(browser, gateway)
    page.sees("all is well", lambda: "up" in page.text("#line"))
    kafka.cut_line()
    page.sees("the line is down", lambda: "The line to Kafka is down" in page.text("#verdict"))
    gateway.order()
    page.sees("what waits is counted", lambda: "Events waiting: 1." in page.text("#verdict") and "DOWN" in page.text("#line"))
    page.sees("also for the day", lambda: day_says(page, "not at the centre: 1, the oldest since"))
    kafka.mend_line()
    page.sees("the line is back", lambda: "down" not in page.text("#verdict") and "up" in page.text("#line"), 60)
    page.sees("nothing waits", lambda: day_says(page, "Everything of this day is at the centre."))
    assert not browser.was_reloaded()


def a_daemon_that_is_away_is_said_so_and_the_last_state_stays(kafka, gateway, browser):
    page = Operator(browser, gateway, "?lang=de")
    before = page.text("#device")
    gateway.kill()
    page.sees("it is said", lambda: "Nicht aktuell" in page.text("#hint"))
    assert page.text("#device") == before and "till-1" in page.text("#day")
    gateway.start()
    page.sees("it is not said any more", lambda: not page.text("#hint"))
    assert not browser.was_reloaded()


def take_the_picture(kafka, gateway, browser):
    for n, terminal in enumerate(["till-1", "till-1", "kiosk-2", "kiosk-2", "kiosk-2"]):
        order = gateway.order(terminal=terminal, totalPrice=12.5 + n)
        gateway.event(order["orderId"], "order.payment_processed", {}, terminal=terminal)
    gateway.event(order["orderId"], "order.state_changed", {"change": "refund", "amount": 4.5, "reason": "cold"}, terminal="kiosk-2")
    gateway.order(note=TOO_LARGE, totalPrice=31)
    browser.size(DESK)
    page = Operator(browser, gateway)
    page.sees("there is a dead letter", lambda: "MessageSizeTooLarge" in page.text("#letters"))
    page.sees("the day is counted", lambda: day_says(page, "(seq") and "kiosk-2" in page.text("#day"))
    browser.picture(PICTURE)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pictures", action="store_true", help="take the picture of the page into docs/pictures/ instead")
    wanted = arguments.parse_args()
    checks = [
        every_figure_is_there_at_every_size,
        dead_letters_are_decided_by_touch_and_by_key,
        a_line_that_goes_down_and_comes_back_is_seen,
        a_daemon_that_is_away_is_said_so_and_the_last_state_stays,
    ]
    checks = [take_the_picture] if wanted.pictures else checks
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder, kafka_cluster.Cluster() as kafka:
        kafka.create_topic("order-events", max_message_bytes=3_000)
        kafka.create_topic("order-events-dlq")
        kafka.create_topic("gateway-status")
        config = f'[kafka]\nbrokers = "{kafka.lines()}"\n[[serial]]\nterminal = "till-9"\npath = "/dev/nothing-here"\nframing = "json"\n'
        config += f'[[printer]]\nname = "bar"\naddress = "127.0.0.1:{parts.free_port()}"\n'
        with Browser(folder) as browser, parts.Gateway(config) as gateway:
            browser.size(WALL)
            for check in checks:
                check(kafka, gateway, browser)
                print(f"ok {check.__name__}", flush=True)
    print(f"{len(checks)} passed, 0 failed")


if __name__ == "__main__":
    main()
