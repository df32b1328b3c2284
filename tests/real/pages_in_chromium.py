#!/usr/bin/env python3
"""What holds of every page, in a real browser: each language says all of it in its own words; nobody is shut out, by axe's rules for WCAG 2.1 A
and AA, at every size and in every state; the kitchen is worked by keys alone, speaks without flooding, and catches up after its tablet slept; a tablet is
paired and revoked."""

import contextlib
import json
import re
import socket
import subprocess
import tempfile
import time

import parts
from browser import PHONE, TABLET, WALL, Browser
from line import Relay

TEXTS = parts.ROOT / "daemon" / "src" / "display" / "texts"
LANGUAGES = {file.stem: json.loads(file.read_text()) for file in sorted(TEXTS.glob("*.json"))}
SIZES = (TABLET, WALL, PHONE)
PAGES = ("/", "/kitchen", "/operations", "/pair")
TAB, ENTER = "\ue004", "\ue007"
SHOWN_S = 20
# What people see or hear of a page: its texts, labels and its title.
WORDS = """
const found = [document.title], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) if (!walk.currentNode.parentNode.closest('script, noscript')) found.push(walk.currentNode.data.trim());
document.querySelectorAll('[aria-label], [data-empty]').forEach(e => found.push(e.getAttribute('aria-label') || e.dataset.empty));
return found.filter(text => /\\p{L}/u.test(text));
"""
JUDGE = """
return axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'], resultTypes: ['violations']}).then(found => ({rules: found.passes.length,
  broken: found.violations.map(each => each.id + ': ' + each.nodes.map(n => n.html + ' ' + n.failureSummary).join(' | '))}));
"""
# Where the focus is, and how it is shown.
FOCUS = """
const e = document.activeElement, style = getComputedStyle(e);
return {key: e.dataset.key || e.id || e.textContent.trim(), shown: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1,
  page: e === document.body};
"""


def dish(name, **more):
    return {"foodId": name.lower(), "foodName": name, "price": 9.50, "quantity": 1, "discount": 0, **more}


def every_language_says_all_of_a_page_in_its_own_words(gateway, browser):
    gateway.order(orderDetails=[dish("Ramen", allergens=["soy"]), dish("Gyoza")], channel="takeaway", dueAt="2024-01-01T12:00:00Z")
    begun = gateway.order(food="Curry")
    gateway.set_status(begun["orderId"], "PREPARING")
    gateway.event(begun["orderId"], "order.cancelled", {})
    away = gateway.order(food="Pie")
    gateway.set_status(away["orderId"], "OUT_FOR_DELIVERY")
    given = {"Ramen", "Gyoza", "Curry", "Pie", "P", "R", gateway.gateway, "http", "till-1"}
    for page, there in (("/kitchen", "#work .card"), ("/", "#ready .number"), ("/pair", "#code"), ("/operations", "h2")):
        said = {}
        for language in LANGUAGES:
            browser.open(gateway.url(f"{page}?lang={language}"))
            parts.until(f"{page} is there in {language}", lambda there=there: browser.texts(there))
            assert browser.run("return document.documentElement.lang") == language
            said[language] = set(browser.run(WORDS))
        assert len(said["en"]) > (25 if page == "/kitchen" else 4), f"{page} says only {said['en']}"
        for language in LANGUAGES.keys() - {"en"}:
            same = {text for key, text in LANGUAGES[language].items() if text == LANGUAGES["en"][key]}
            # A text of placeholders alone would be like any other.
            same = [text for text in same if re.search(r"\w", re.sub(r"\{\w+\}", "", text))]
            same = "|".join(re.sub(r"\\{\w+\\}", r"\\S+", re.escape(text)) for text in same)
            foreign = {text for text in said[language] & said["en"] - given if not re.fullmatch(same, text) and not text.endswith(tuple(given))}
            assert not foreign, f"{page} says {foreign} in {language} as in English"
    browser.open(gateway.url("/kitchen?station=grill&lang=fr"))
    parts.until("texts are there", lambda: browser.texts("#work .card"))
    assert browser.run("return texts.link('/kitchen?station=bar')") == "/kitchen?station=bar&lang=fr"
    written = browser.run("return [texts.number(1234.5), texts.money('1234.5'), texts.time(new Date(2024, 0, 1, 18, 30))]")
    assert written == ["1\u202f234,5", "1\u202f234,50", "18:30"], written


def nobody_is_shut_out(gateway, browser):
    axe = parts.node_file("axe-core", AXE_VERSION, "axe.min.js")
    tabs = {}
    for page in PAGES:
        browser.new_tab()
        tabs[page] = browser.tab()
        browser.open(gateway.url(page))
        browser.run(axe)

    def judge(state):
        for page, tab in tabs.items():
            browser.use_tab(tab)
            for size in SIZES:
                browser.size(size)
                found = browser.run(JUDGE)
                assert found["rules"] > 5, f"axe judged nothing of {page}"
                assert not found["broken"], f"{page} at {size}, {state}:\n" + "\n".join(found["broken"])
                assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), f"{page} at {size}, {state}: scrolls sideways"

    def shows(page, what, condition):
        browser.use_tab(tabs[page])
        parts.until(what, lambda: browser.run(f"return {condition}"), 60)

    shows("/kitchen", "the kitchen is empty", "!document.getElementById('no-work').hidden")
    judge("empty")
    begun, more = gateway.order(food="Curry"), gateway.order(food="Tart", dueAt="2024-01-01T12:00:00Z", channel="takeaway")
    gateway.order(orderDetails=[dish("Ramen", notes="no onions", allergens=["soy"], modifiers=["extra egg"], station="grill"), dish("Gyoza")])
    ready, away = gateway.order(food="Pie"), gateway.order(food="Soup")
    gateway.set_status(begun["orderId"], "PREPARING")
    gateway.event(begun["orderId"], "order.cancelled", {})
    gateway.event(more["orderId"], "order.payment_processed", {"status": "PAID"})
    gateway.set_status(ready["orderId"], "READY")
    gateway.set_status(away["orderId"], "OUT_FOR_DELIVERY")
    shows("/kitchen", "the kitchen has work, an alarm and ready ones", "work.children.length === 2 && alarms.children.length === 1")
    shows("/", "the board has them", "document.querySelectorAll('.new').length > 0 && document.querySelectorAll('.away').length > 0")
    browser.use_tab(tabs["/pair"])
    browser.run("document.querySelectorAll('.why').forEach(e => e.hidden = false)")
    judge("with orders, late ones and an alarm, and refused to pair")
    gateway.kill()
    browser.use_tab(tabs["/kitchen"])
    browser.run("document.querySelector('#work .line').click()")
    shows("/kitchen", "a bump is not stored", "/NOT STORED/.test(work.textContent)")
    for page in ("/", "/kitchen"):
        shows(page, "the broken stream is said", "document.getElementById('hint').textContent !== ''")
    judge("with a broken stream")
    gateway.start()
    for tab in tabs.values():
        browser.use_tab(tab)
        browser.close_tab()


def the_kitchen_is_worked_by_tab_and_enter(gateway, browser):
    orders = [gateway.order(food="Pie"), gateway.order(orderDetails=[dish("Soup", station="grill"), dish("Toast")])]
    browser.open(gateway.url("/kitchen"))
    parts.until("both are there", lambda: len(browser.texts("#work .card")) == 2)

    def tab_to(key):
        for _ in range(60):
            browser.type(TAB)
            at = browser.run(FOCUS)
            assert at["shown"] or at["page"], f"nothing shows that the focus is on {at['key']}"
            if at["key"] == key:
                return
        raise AssertionError(f"{key} is not reached by Tab")

    stops = "return Array.from(document.querySelectorAll('button, a'), e => e.dataset.key || e.id || e.textContent.trim())"
    everything = browser.run(stops)
    assert len(everything) >= 9, everything
    for stop in everything:
        tab_to(stop)
    pie, soup = [order["orderId"] for order in orders]
    tab_to(f"{soup} line 2")
    browser.type(ENTER)
    parts.until("the line is done", lambda: browser.texts("#work .line.done .food") == ["Toast"])
    assert browser.run(FOCUS)["key"] == f"{soup} line 2", "the focus stays where it was"
    tab_to(f"{pie} done ")
    browser.type(ENTER)
    parts.until("the ticket is ready", lambda: browser.texts("#ready .number") == [str(orders[0]["ticket"])])
    tab_to(f"{pie} recall ")
    browser.type(ENTER)
    parts.until("it is to do again", lambda: len(browser.texts("#work .card")) == 2)
    parts.until("it is stored", lambda: gateway.ask("GET", f"/api/v1/orders/{pie}")[1]["status"] == "PREPARING")
    collect(gateway, *orders)


def what_is_new_is_spoken_once(gateway, browser):
    browser.open(gateway.url("/kitchen"))
    parts.until("the kitchen is empty", lambda: not browser.run("return document.getElementById('no-work').hidden"))
    browser.run(
        "window.spoken = []; for (const id of ['said', 'alarm-said', 'hint']) new MutationObserver(() => spoken.push(document.getElementById(id)."
        "textContent)).observe(document.getElementById(id), {childList: true, characterData: true, subtree: true});"
    )
    orders = [gateway.order(food=f"Dish {n}") for n in range(6)]
    parts.until("all are there", lambda: len(browser.texts("#work .card")) == 6)
    for order in orders[:3]:
        gateway.set_status(order["orderId"], "PREPARING")
        gateway.event(order["orderId"], "order.cancelled", {})
    parts.until("the alarms are there", lambda: len(browser.texts("#alarms .card")) == 3)
    asked = "performance.getEntriesByName(location.origin + '/api/v1/orders').length"
    seen = browser.run(f"return {asked}")
    parts.until("two more lists came", lambda: browser.run(f"return {asked}") >= seen + 2)
    spoken = browser.run("return spoken")
    numbers = [int(word) for text in spoken if text.startswith("New") for word in text.rstrip(".").split(": ")[1].split(", ")]
    assert sorted(numbers) == sorted(order["ticket"] for order in orders), spoken
    alarms = [text for text in spoken if text.startswith("Alarm")]
    for order in orders[:3]:
        assert sum(f"ticket {order['ticket']}," in text for text in alarms) == 1, spoken
    assert len(spoken) <= 9, f"flooded: {spoken}"
    collect(gateway, *orders)


def a_page_that_was_left_holds_no_stream_and_lives_when_it_is_gone_back_to(gateway, browser):
    """A browser opens six connections to a server: pages that it only keeps must not hold them."""
    streams = 'dumbwaiter_bound_used{bound="http_public_streams"} 1'
    for page in range(8):
        browser.open(gateway.url(f"/?visit={page}"))
        parts.until("only the page that is seen listens", lambda: streams in gateway.ask("GET", "/metrics")[1].splitlines())
    browser.run("history.back()")
    order = gateway.order(food="Pie")
    parts.until("the page of before is live", lambda: browser.run("return location.search") == "?visit=6" and browser.texts("#preparing .number"))
    collect(gateway, order)


class Air(Relay):
    """A way to the gateway. Once the tablet sleeps, what was connected until then swallows all, for ever, and nobody is told."""

    def __init__(self, gateway):
        self.sleeps = 0
        super().__init__(socket.create_server(("127.0.0.1", 0)), lambda: socket.create_connection(("127.0.0.1", gateway.port)))

    def _pump(self, source, sink, counts):
        made = self.sleeps
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if self.sleeps == made:
                    sink.sendall(chunk)
        self._end({source, sink})


def a_tablet_that_slept_catches_up_by_itself(gateway, browser):
    air = Air(gateway)
    tabs = {}
    for page in ("/", "/kitchen"):
        browser.new_tab()
        tabs[page] = browser.tab()
        browser.open(f"http://127.0.0.1:{air.port}{page}")
    before = gateway.order(food="Pie")
    places = {"/": "#preparing .number", "/kitchen": "#work .number"}

    def shows(numbers):
        for page, tab in tabs.items():
            browser.use_tab(tab)
            parts.until(f"{page} shows {numbers}", lambda page=page: browser.texts(places[page]) == [str(each) for each in numbers], 20)

    shows([before["ticket"]])
    air.sleeps += 1
    gateway.set_status(before["orderId"], "DELIVERED")
    after = gateway.order(food="Tart")
    # The wall's clock went on while nothing ran, and the browser's own stood still.
    sleep = "const real = Date.prototype.getTime; Date.prototype.getTime = function () { return real.call(this) + 3600000; };"
    for tab in tabs.values():
        browser.use_tab(tab)
        browser.run(sleep)
    shows([after["ticket"]])
    for tab in tabs.values():
        browser.use_tab(tab)
        parts.until("nothing is said of a broken line", lambda: browser.texts("#hint") == [""])
        assert not browser.was_reloaded()
        browser.close_tab()
    air.close()
    collect(gateway, after)


def collect(gateway, *orders):
    """What a test leaves is not in the way of the next."""
    for order in orders:
        if gateway.ask("GET", f"/api/v1/orders/{order['orderId']}")[1]["status"] == "CANCELLED":
            gateway.ask("POST", f"/api/v1/orders/{order['orderId']}/acknowledge", {}, {"X-Terminal": "kitchen"})
        else:
            gateway.set_status(order["orderId"], "DELIVERED")


# As the Node registry has it.
AXE_VERSION = "4.14.1"


def own_address():
    """An address of this machine by which it is no longer this computer to the gateway; None if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            # Asks for a route, and sends nothing.
            asking.connect(("198.51.100.1", 9))
        except OSError:
            return None
        return asking.getsockname()[0]


def a_page_is_paired_by_its_form_and_sent_back_to_it_once_it_is_revoked(gateway, browser):
    address = own_address()
    if not address:
        print("not tried: this machine has no address but its own", flush=True)
        return
    with parts.Gateway(listen="0.0.0.0", http=f'insecure = true\nhosts = ["{address}"]') as house:
        house.order()
        pair = lambda *more: subprocess.run([parts.daemon(), "pair", "--config", house.config, *more], check=True, capture_output=True, text=True).stdout
        for role, page, there in (("kitchen", "/kitchen", "#work .card"), ("operator", "/operations", "#line dt, #line th")):
            code = re.search(r"\b(\d{3}) (\d{3})\b", pair("--role", role))
            browser.open(f"http://{address}:{house.port}{page}")
            assert browser.run("return location.pathname") == "/pair"
            browser.run(f"""
                document.getElementById('code').value = '{code[1]} {code[2]}';
                document.querySelector('[name=name]').value = 'tab-{role}';
                document.querySelector('form').submit()""")
            parts.until("it is paired and there", lambda page=page, there=there: where(browser) == page and browser.texts(there))
            named = next(line for line in pair("--list").splitlines() if f"tab-{role}" in line)
            pair("--revoke", named.split()[0])
            parts.until("it is sent to where pages are paired", lambda: where(browser) == "/pair", limit_s=30)
            assert browser.run("return location.search") == f"?next={page.replace('/', '%2F')}"
        assert not house.errors(), house.errors()


def where(browser):
    return browser.run("return location.pathname")


def main():
    checks = [
        nobody_is_shut_out,
        every_language_says_all_of_a_page_in_its_own_words,
        the_kitchen_is_worked_by_tab_and_enter,
        what_is_new_is_spoken_once,
        a_page_that_was_left_holds_no_stream_and_lives_when_it_is_gone_back_to,
        a_tablet_that_slept_catches_up_by_itself,
        a_page_is_paired_by_its_form_and_sent_back_to_it_once_it_is_revoked,
    ]
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        with Browser(folder) as browser:
            first = browser.tab()
            for check in checks:
                # A house of its own: what one check leaves on the board is not in another's way.
                began = time.monotonic()
                with parts.Gateway() as gateway:
                    browser.use_tab(first)
                    browser.size(WALL)
                    check(gateway, browser)
                    assert not gateway.errors(), gateway.errors()
                    print(f"ok {check.__name__} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{len(checks)} passed, 0 failed")


if __name__ == "__main__":
    main()
