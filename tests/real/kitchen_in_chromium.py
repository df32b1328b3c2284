#!/usr/bin/env python3
"""Cooks at work in a real browser: tickets come, are bumped by touch and by key, recalled and called off, on one page and on two, while the
gateway lives and while it does not.

    kitchen_in_chromium.py                the test
    kitchen_in_chromium.py --pictures     takes the picture of the page into docs/pictures/ instead
"""

import argparse
import datetime
import json
import tempfile

import parts
from browser import LARGE, TABLET, WALL, Browser
from printer import NO_PAPER, WELL, Printer

PICTURE = parts.ROOT / "docs" / "pictures" / "kitchen.png"
DIGIT_1, ENTER, KEY_P, KEY_R = 49, 13, 80, 82
SHOWN_S = 20


def dish(name, quantity=1, **more):
    return {"foodId": name.lower(), "foodName": name, "price": 9.50, "quantity": quantity, "discount": 0, **more}


class Cook:
    """A page of the kitchen, in a tab of its own."""

    def __init__(self, browser, gateway, query=""):
        self._browser = browser
        self._tab = browser.tab()
        browser.open(gateway.url(f"/kitchen{query}"))
        self.wait("the page is there", lambda: self.run("return !document.getElementById('no-work').hidden || work.children.length > 0"))

    def run(self, script):
        self._browser.use_tab(self._tab)
        return self._browser.run(script)

    def wait(self, what, condition):
        return parts.until(what, condition, SHOWN_S)

    def tickets(self, place="work"):
        """The numbers of a place's tickets."""
        return self.run(f"return Array.from(document.querySelectorAll('#{place} .number'), e => e.textContent)")

    def shows(self, place, tickets):
        wanted = [str(each) for each in tickets]
        self.wait(f"{place} shows {wanted}", lambda: self.tickets(place) == wanted)

    def dishes(self, place="work"):
        """Dish, and what is said of its state, of each line."""
        line = "[e.querySelector('.food').textContent, (e.querySelector('.state') || {}).textContent || '']"
        return self.run(f"return Array.from(document.querySelectorAll('#{place} .line'), e => {line})")

    def text(self, selector):
        return self.run(f"return document.querySelector({json.dumps(selector)}).textContent.trim()")

    def touch(self, selector, text=None):
        """Touches the first button that matches and says that, once it has stood still."""
        find = (
            f"const b = Array.from(document.querySelectorAll({json.dumps(selector)}))"
            f".find(e => {json.dumps(text)} === null || e.textContent.includes({json.dumps(text)}));"
        )
        # The place is read anew just before the finger comes down.
        script = find + (
            "if (!b || (b.dataset.key && !settle.isSettled(b))) return null;"
            "b.scrollIntoView({block: 'center'}); const r = b.getBoundingClientRect();"
            "return [r.left + r.width / 2, r.top + r.height / 2];"
        )
        x, y = self.wait(f"{selector} {text or ''} can be touched", lambda: self.run(script))
        self._browser.touch(x, y)

    def press(self, code, text=""):
        self._browser.use_tab(self._tab)
        self._browser.press(code, text)

    def choose(self, digit):
        """Presses a digit until it has chosen its ticket."""

        def chosen():
            self.press(DIGIT_1 - 1 + digit, str(digit))
            return self.run(f"return work.children[{digit - 1}].contains(document.activeElement)")

        self.wait(f"ticket {digit} is chosen", chosen)


def status(gateway, order):
    """The order's status, and its lines'."""
    known = gateway.ask("GET", f"/api/v1/orders/{order['orderId']}")[1]
    return known["status"], [line["status"] for line in known["lines"]]


def becomes(gateway, order, wanted):
    parts.until(f"the order is {wanted}, not {status(gateway, order)}", lambda: status(gateway, order) == wanted, SHOWN_S)


def events(gateway, order, word):
    """How many events of the order say that status."""
    history = gateway.ask("GET", f"/api/v1/orders/{order['orderId']}/history")[1]["history"]
    return [entry.get("status") for entry in history if entry["what"] == "event"].count(word)


def collect(gateway, *orders):
    """What a test leaves is not in the way of the next."""
    for order in orders:
        gateway.set_status(order["orderId"], "DELIVERED")


def a_new_order_rings_until_the_screen_is_touched(gateway, browser):
    cook = Cook(browser, gateway)
    assert "Touch the screen once" in cook.text("#sound"), "a browser that was never touched makes no sound, and the page says so"
    order = gateway.order(
        orderDetails=[dish("Ramen", 2, modifiers=["extra egg"], notes="no onions", allergens=["gluten", "egg"])],
        **{"channel": "takeaway", "customerName": "Ada", "dueAt": "2030-01-01T18:30:00Z"},
    )
    cook.shows("work", [order["ticket"]])
    assert cook.run("return sound.ringing()") == "order"
    told = cook.text("#work .card")
    for word in ["New", "2 ×", "Ramen", "+ extra egg", "no onions", "Allergens: gluten, egg", "takeaway", "Ada", "due "]:
        assert word in told, f"{word} is not in {told}"
    assert cook.run("return Array.from(dishes.children, e => e.textContent)") == ["2 × Ramen"]
    cook.touch("#undo")
    cook.wait("it is quiet", lambda: cook.run("return sound.ringing() === '' && document.getElementById('sound').hidden"))
    collect(gateway, order)
    cook.shows("work", [])


def the_last_line_bumps_the_order(gateway, browser):
    cook = Cook(browser, gateway)
    order = gateway.order(orderDetails=[dish("Soup"), dish("Toast")])
    cook.shows("work", [order["ticket"]])
    cook.touch("#work .line", "Soup")
    cook.wait("the line is done", lambda: cook.dishes() == [["Soup", "done"], ["Toast", ""]])
    assert status(gateway, order) == ("CREATED", ["READY", "CREATED"])
    cook.touch("#work .line", "Toast")
    cook.shows("ready", [order["ticket"]])
    assert cook.tickets() == []
    assert status(gateway, order) == ("READY", ["READY", "READY"])
    assert events(gateway, order, "READY") == 3
    # What was recalled is to do again, all of it.
    cook.touch("#ready .act", "Recall")
    cook.shows("work", [order["ticket"]])
    becomes(gateway, order, ("PREPARING", ["PREPARING", "PREPARING"]))
    cook.touch("#work .finish")
    cook.shows("ready", [order["ticket"]])
    collect(gateway, order)


def a_bump_bar_is_enough(gateway, browser):
    cook = Cook(browser, gateway)
    first, second = gateway.order(food="Pie"), gateway.order(food="Tart")
    cook.shows("work", [first["ticket"], second["ticket"]])
    cook.choose(2)
    cook.press(ENTER, "\r")
    cook.shows("ready", [second["ticket"]])
    assert status(gateway, first)[0] == "CREATED"
    cook.press(KEY_R, "r")
    cook.shows("work", [first["ticket"], second["ticket"]])
    becomes(gateway, second, ("PREPARING", ["CREATED"]))
    collect(gateway, first, second)


def a_ticket_that_moved_under_the_finger_is_not_bumped(gateway, browser):
    cook = Cook(browser, gateway)
    first, second = gateway.order(food="Pie"), gateway.order(food="Tart")
    cook.shows("work", [first["ticket"], second["ticket"]])
    # The second tap of a double tap, as soon as the next ticket stands where the first one stood.
    cook.run(
        "window.early = 0; const tap = () => { const c = work.children[0];"
        f"if (c && !window.early && c.querySelector('.number').textContent === '{second['ticket']}') {{"
        " window.early = 1; c.querySelector('.finish').dispatchEvent(new MouseEvent('click', {detail: 1})); } };"
        "new MutationObserver(tap).observe(work, {childList: true});"
    )
    cook.touch("#work .finish")
    cook.shows("ready", [first["ticket"]])
    cook.wait("the second tap came", lambda: cook.run("return window.early === 1"))
    cook.touch("#undo")
    cook.shows("work", [first["ticket"], second["ticket"]])
    assert events(gateway, second, "READY") == 0, "the second tap bumped what moved there"
    # Nor what anything else moved there: a hint above it that came or went.
    finish = "document.querySelector('#work .finish')"
    cook.wait("it stands still", lambda: cook.run(f"return settle.isSettled({finish})"))
    cook.run(f"document.body.style.paddingTop = '99px'; {finish}.dispatchEvent(new MouseEvent('click', {{detail: 1}}))")
    assert cook.run(f"return bumps.waiting({json.dumps(first['orderId'])})") == []
    collect(gateway, first, second)


def two_cooks_at_once_lose_nothing(gateway, browser):
    one = Cook(browser, gateway)
    browser.new_tab()
    other = Cook(browser, gateway)
    order = gateway.order(orderDetails=[dish("Fish"), dish("Chips")])
    for cook in (one, other):
        cook.shows("work", [order["ticket"]])
    # Both the same line, then each the last of what it sees: none waits for the other's answer.
    press = "document.querySelectorAll('#work .line')[%d].click()"
    for cook in (one, other):
        cook.run(press % 0)
    becomes(gateway, order, ("CREATED", ["READY", "CREATED"]))
    for cook in (one, other):
        cook.wait("it is seen", lambda cook=cook: cook.dishes() == [["Fish", "done"], ["Chips", ""]])
    one.run(press % 1)
    other.run("document.querySelector('#work .finish') && document.querySelector('#work .finish').click()")
    becomes(gateway, order, ("READY", ["READY", "READY"]))
    for cook in (one, other):
        cook.shows("ready", [order["ticket"]])
        assert "not taken" not in cook.text("#said"), cook.text("#said")
    collect(gateway, order)
    browser.close_tab()
    browser.use_tab(one._tab)


def each_station_sees_its_own_and_the_last_one_makes_it_ready(gateway, browser):
    order = gateway.order(orderDetails=[dish("Steak", station="grill"), dish("Beer", station="bar"), dish("Bread")])
    grill = Cook(browser, gateway, "?station=grill")
    grill.shows("work", [order["ticket"]])
    assert [name for name, _ in grill.dishes()] == ["Steak", "Bread"], "its own lines, and that of nobody"
    grill.touch("#work .finish")
    grill.shows("ready", [order["ticket"]])
    becomes(gateway, order, ("CREATED", ["READY", "CREATED", "READY"]))
    bar = Cook(browser, gateway, "?station=bar")
    bar.shows("work", [order["ticket"]])
    bar.touch("#work .finish")
    bar.shows("ready", [order["ticket"]])
    becomes(gateway, order, ("READY", ["READY"] * 3))
    history = gateway.ask("GET", f"/api/v1/orders/{order['orderId']}/history")[1]["history"]
    assert {entry["terminal"] for entry in history} == {"till-1", "kitchen-grill", "kitchen-bar"}
    collect(gateway, order)


def an_alarm_stands_until_it_is_seen_and_stays_seen(gateway, browser):
    cook = Cook(browser, gateway)
    begun, untouched = gateway.order(food="Curry"), gateway.order(food="Rice")
    cook.shows("work", [begun["ticket"], untouched["ticket"]])
    cook.touch("#work .start")
    becomes(gateway, begun, ("PREPARING", ["CREATED"]))
    for order in (begun, untouched):
        gateway.event(order["orderId"], "order.cancelled", {"reason": "the guest left"})
    cook.shows("alarms", [begun["ticket"]])
    cook.shows("work", [])
    assert "CANCELLED" in cook.text("#alarms .stop") and cook.run("return sound.ringing()") == "alarm"
    parts.until("customers are not shown it", lambda: gateway.ask("GET", "/board.json")[1]["preparing"] == [])
    gateway.kill()
    gateway.start()
    cook = Cook(browser, gateway)
    cook.shows("alarms", [begun["ticket"]])
    cook.touch("#alarms .seen")
    cook.shows("alarms", [])
    gateway.kill()
    gateway.start()
    cook = Cook(browser, gateway)
    assert cook.tickets("alarms") == [] and gateway.ask("GET", "/api/v1/orders")[1]["orders"] == []
    history = gateway.ask("GET", f"/api/v1/orders/{begun['orderId']}/history")[1]["history"]
    assert [entry["by"] for entry in history if entry["what"] == "command"] == ["kitchen"]


def a_bump_that_is_not_stored_is_said_so_and_stored_once(gateway, browser):
    cook = Cook(browser, gateway)
    order = gateway.order(orderDetails=[dish("Stew"), dish("Salad")])
    cook.shows("work", [order["ticket"]])
    gateway.kill()
    cook.touch("#work .line", "Stew")
    cook.wait("it is said", lambda: cook.dishes()[0][1].startswith("NOT STORED"))
    assert cook.run("return document.querySelector('#work .line').getAttribute('aria-pressed')") == "false"
    # A page that is loaded anew meanwhile goes on with it.
    gateway.start()
    cook = Cook(browser, gateway)
    cook.wait("it is stored", lambda: cook.dishes() == [["Stew", "done"], ["Salad", ""]])
    assert status(gateway, order) == ("CREATED", ["READY", "CREATED"]) and events(gateway, order, "READY") == 1
    collect(gateway, order)


def a_payment_that_fails_is_an_alarm_and_the_work_goes_on_after_it(gateway, browser):
    cook = Cook(browser, gateway)
    order = gateway.order(orderDetails=[dish("Sushi"), dish("Tea")])
    cook.shows("work", [order["ticket"]])
    cook.touch("#work .line", "Tea")
    becomes(gateway, order, ("CREATED", ["CREATED", "READY"]))
    gateway.event(order["orderId"], "order.payment_processed", {"status": "FAILED"})
    cook.shows("alarms", [order["ticket"]])
    assert "PAYMENT FAILED" in cook.text("#alarms .stop")
    cook.touch("#alarms .seen")
    cook.shows("alarms", [])
    cook.shows("work", [order["ticket"]])
    collect(gateway, order)


def what_changes_and_what_is_late_is_said_in_words(gateway, browser):
    cook = Cook(browser, gateway)
    order = gateway.order(orderDetails=[dish("Lasagne")])
    cook.shows("work", [order["ticket"]])
    cook.touch("#undo")
    cook.wait("nothing is new", lambda: cook.run("return document.querySelector('.fresh') === null"))
    gateway.event(order["orderId"], "order.state_changed", {"change": "lines", "orderDetails": [dish("Lasagne", 2)]})
    cook.wait("it is changed", lambda: cook.run("return (document.querySelector('.fresh') || {}).textContent") == "Changed")
    assert cook.run("return sound.ringing()") == "order" and "2 ×" in cook.text("#work .line")
    soon = cook.run("return new Date(Date.now() + 3 * 60000).toISOString()")
    hurry, late = gateway.order(food="Pie", dueAt=soon), gateway.order(food="Tart", dueAt="2024-01-01T12:00:00Z")
    cook.shows("work", [each["ticket"] for each in (order, hurry, late)])
    cook.wait("each says so", lambda: cook.run("return Array.from(work.querySelectorAll('.level'), e => e.textContent)") == ["", "hurry", "LATE"])
    collect(gateway, order, hurry, late)


def an_order_with_more_lines_than_are_kept_is_bumped_whole(gateway, browser):
    cook = Cook(browser, gateway, "?station=grill")
    order = gateway.order(orderDetails=[dish(f"Dish {n}", notes="n" * 250, station="bar") for n in range(30)])
    cook.shows("work", [order["ticket"]])
    assert "more: see the receipt" in cook.text("#work .omitted")
    cook.touch("#work .finish")
    parts.until("the order is ready", lambda: status(gateway, order)[0] == "READY")
    collect(gateway, order)


# Contrast of WCAG 2, of all text that is shown.
CONTRAST = """
const light = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b; };
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
return Array.from(document.querySelectorAll('body *'), e => {
  const own = Array.from(e.childNodes).some(n => n.nodeType === 3 && n.data.trim());
  if (!own || !e.offsetParent) return null;
  const [a, b] = [light(rgb(getComputedStyle(e).color).slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
  return (a + .05) / (b + .05) < 4.5 ? e.textContent : null; }).filter(Boolean);
"""


def a_printer_that_needs_somebody_is_said_and_a_copy_is_printed(_, browser):
    with Printer() as printer, parts.Gateway(f'[[printer]]\nname = "pass"\naddress = "{printer.address}"') as gateway:
        printer.state = NO_PAPER
        order = gateway.order("Ramen")
        cook = Cook(browser, gateway)
        cook.wait("the printer is said", lambda: "pass" in cook.text("#printers") and not cook.run("return document.getElementById('printers').hidden"))
        printer.state = WELL
        cook.wait("it is said no longer", lambda: cook.run("return document.getElementById('printers').hidden"))
        parts.until("the ticket is printed", lambda: b"1 x Ramen" in printer.printed and b"COPY" not in printer.printed)
        cook.touch(".print")
        parts.until("a copy is printed", lambda: printer.printed.count(b"* COPY *") == 1)
        cook.wait("it is said", lambda: "pass" in cook.text("#said"))
        cook.choose(1)
        cook.press(KEY_P, "p")
        parts.until("another copy is printed", lambda: printer.printed.count(b"* COPY *") == 2)
        assert status(gateway, order) == ("CREATED", ["CREATED"])
        assert not gateway.errors(), gateway.errors()


def it_fits_every_screen_and_every_finger(gateway, browser):
    orders = busy(gateway)
    for size in (TABLET, WALL, LARGE):
        browser.size(size)
        cook = Cook(browser, gateway)
        cook.wait("all of them", lambda cook=cook: len(cook.tickets()) == len(orders) - 2 and cook.tickets("alarms"))
        assert cook.run("return document.documentElement.scrollWidth <= window.innerWidth"), f"{size} scrolls sideways"
        small = "Array.from(document.querySelectorAll('button')).filter(b => b.offsetHeight < 48 || b.offsetWidth < 48).map(b => b.textContent)"
        assert cook.run(f"return {small}") == [], f"too small for a finger at {size}"
        faint = cook.run(CONTRAST)
        assert faint == [], f"too faint: {faint}"
        tall = cook.run("return parseFloat(getComputedStyle(document.querySelector('.food')).fontSize)")
        assert tall >= 24, f"a dish is {tall} px at {size}"
    browser.size(WALL)
    collect(gateway, *orders[1:])


def busy(gateway):
    """A kitchen with something of everything: the first order was cancelled in work, the second is late, the fourth soon is, the last is ready."""
    now = datetime.datetime.now(datetime.UTC)
    late, soon = [(now + datetime.timedelta(minutes=minutes)).isoformat(timespec="seconds") for minutes in (-2, 3)]
    orders = [
        gateway.order(orderDetails=[dish("Fish and chips")], channel="delivery"),
        gateway.order(orderDetails=[dish("Ramen", 2, modifiers=["extra egg"], notes="no onions"), dish("Gyoza", allergens=["gluten", "soy"])], dueAt=late),
        gateway.order(orderDetails=[dish("Pizza Margherita"), dish("Caesar salad", 2, allergens=["fish"])], channel="takeaway", customerName="Ada"),
        gateway.order(orderDetails=[dish("Falafel wrap", 3, notes="one without tahini")], displayNumber="B17", dueAt=soon),
        gateway.order(orderDetails=[dish("Pad Thai"), dish("Ramen")]),
        gateway.order(orderDetails=[dish("Minestrone")]),
    ]
    gateway.set_status(orders[0]["orderId"], "PREPARING")
    gateway.event(orders[0]["orderId"], "order.cancelled", {"reason": "the guest left"})
    gateway.event(orders[1]["orderId"], "order.state_changed", {"status": "READY", "line": 2})
    gateway.set_status(orders[-1]["orderId"], "READY")
    return orders


def take_the_picture(gateway, browser):
    orders = busy(gateway)
    cook = Cook(browser, gateway)
    cook.touch("#alarms .seen")
    cook.shows("alarms", [])
    cook.wait("all of them", lambda: len(cook.tickets()) == len(orders) - 2)
    cook.run("window.scrollTo(0, 0)")
    browser.picture(PICTURE)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pictures", action="store_true", help="take the picture of the page into docs/pictures/ instead")
    wanted = arguments.parse_args()
    checks = [
        a_new_order_rings_until_the_screen_is_touched,
        the_last_line_bumps_the_order,
        a_bump_bar_is_enough,
        a_ticket_that_moved_under_the_finger_is_not_bumped,
        two_cooks_at_once_lose_nothing,
        each_station_sees_its_own_and_the_last_one_makes_it_ready,
        an_alarm_stands_until_it_is_seen_and_stays_seen,
        a_payment_that_fails_is_an_alarm_and_the_work_goes_on_after_it,
        what_changes_and_what_is_late_is_said_in_words,
        an_order_with_more_lines_than_are_kept_is_bumped_whole,
        a_bump_that_is_not_stored_is_said_so_and_stored_once,
        a_printer_that_needs_somebody_is_said_and_a_copy_is_printed,
        it_fits_every_screen_and_every_finger,
    ]
    checks = [take_the_picture] if wanted.pictures else checks
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        with Browser(folder) as browser, parts.Gateway() as gateway:
            browser.size(WALL)
            for check in checks:
                check(gateway, browser)
                print(f"ok {check.__name__}", flush=True)
            assert not gateway.errors(), gateway.errors()
    print(f"{len(checks)} passed, 0 failed")


if __name__ == "__main__":
    main()
