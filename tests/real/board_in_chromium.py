#!/usr/bin/env python3
"""A real browser reads the customers' board: changes appear without a reload, and a dead gateway is said so while the last state stays.

    board_in_chromium.py                the test
    board_in_chromium.py --pictures     also takes the picture of the board into docs/pictures/
"""

import argparse
import tempfile

import parts
from browser import WALL, Browser

PICTURES = parts.ROOT / "docs" / "pictures"


def changes_appear_without_a_reload(gateway, browser):
    browser.open(gateway.url("/"))
    order = gateway.order()
    ticket = str(order["ticket"])
    parts.until("a new order is in preparation", lambda: browser.texts("#preparing .number") == [ticket])
    assert browser.texts("#ready .number") == []
    gateway.set_status(order["orderId"], "READY")
    parts.until("its ticket moves to the ready ones", lambda: browser.texts("#ready .number") == [ticket])
    assert browser.texts("#preparing .number") == []
    named = gateway.order(displayNumber="B17")
    parts.until("a number of the customer's own is shown instead of the ticket", lambda: browser.texts("#preparing .number") == ["B17"])
    gateway.set_status(named["orderId"], "DELIVERED")
    parts.until("a collected order leaves", lambda: browser.texts("#preparing .number") == [])
    assert not browser.was_reloaded(), "the page was loaded anew"


def a_dead_gateway_is_said_so_and_the_board_stays(gateway, browser):
    before = browser.texts(".number")
    assert before, "there is something on the board"
    gateway.kill()
    hint = parts.until("the page says that it is not live", lambda: browser.texts("#hint")[0], limit_s=60)
    assert browser.texts(".number") == before, "the last state stays"
    gateway.start()
    parts.until(f"the hint goes ({hint})", lambda: not browser.texts("#hint")[0], limit_s=60)
    parts.until("the orders are what they were", lambda: browser.texts(".number") == before)
    assert not browser.was_reloaded(), "the page was loaded anew"


def nothing_is_loaded_from_elsewhere(gateway, browser):
    for page in ("/", "/kitchen", "/operations"):
        browser.open(gateway.url(page))
        loaded = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
        foreign = [name for name in loaded if not name.startswith(gateway.url("/"))]
        assert loaded and not foreign, f"{page} loads {foreign or 'nothing'}"


def take_pictures(gateway, browser):
    dishes = ["Pizza Margherita", "Ramen", "Falafel wrap", "Caesar salad", "Fish and chips", "Pad Thai", "Minestrone", "Burger"]
    orders = [gateway.order(food=dish, quantity=1 + n % 3) for n, dish in enumerate(dishes + dishes[:4])]
    for order in orders[6:9]:
        gateway.set_status(order["orderId"], "PREPARING")
    browser.size(WALL)
    browser.open(gateway.url("/"))
    for order in orders[:4]:
        gateway.set_status(order["orderId"], "READY")
    # A number that has just become ready stands out for half a minute: in the picture only the last does.
    parts.until("the ready ones stand", lambda: len(browser.texts("#ready .number")) >= 4 and not browser.texts("#ready .new"), limit_s=60)
    gateway.set_status(orders[4]["orderId"], "READY")
    parts.until("one more is ready", lambda: len(browser.texts("#ready .new")) == 1)
    browser.picture(PICTURES / "board.png")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--pictures", action="store_true", help="take the pictures of the pages into docs/pictures/")
    wanted = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        with Browser(folder) as browser, parts.Gateway() as gateway:
            browser.size(WALL)
            checks = [
                changes_appear_without_a_reload,
                a_dead_gateway_is_said_so_and_the_board_stays,
                nothing_is_loaded_from_elsewhere,
            ]
            for check in checks:
                check(gateway, browser)
                print(f"ok {check.__name__}")
            if wanted.pictures:
                take_pictures(gateway, browser)
            assert not gateway.errors(), gateway.errors()
    print(f"{len(checks)} passed, 0 failed")


if __name__ == "__main__":
    main()
