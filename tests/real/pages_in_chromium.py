#!/usr/bin/env python3
"""What holds of every page, in a real browser: each language says all of it in its own words."""

import json
import tempfile

import parts
from browser import WALL, Browser

TEXTS = parts.ROOT / "daemon" / "src" / "display" / "texts"
LANGUAGES = {file.stem: json.loads(file.read_text()) for file in sorted(TEXTS.glob("*.json"))}
# What people see or hear of a page: its texts, labels and its title.
WORDS = """
const found = [document.title], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) if (!walk.currentNode.parentNode.closest('script, noscript')) found.push(walk.currentNode.data.trim());
document.querySelectorAll('[aria-label], [data-empty]').forEach(e => found.push(e.getAttribute('aria-label') || e.dataset.empty));
return found.filter(text => /\\p{L}/u.test(text));
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
    given = {"Ramen", "Gyoza", "Curry", "Pie", "R"}
    for page, there in (("/kitchen", "#work .card"), ("/", "#ready .number")):
        said = {}
        for language in LANGUAGES:
            browser.open(gateway.url(f"{page}?lang={language}"))
            parts.until(f"{page} is there in {language}", lambda there=there: browser.texts(there))
            assert browser.run("return document.documentElement.lang") == language
            said[language] = set(browser.run(WORDS))
        assert len(said["en"]) > (25 if page == "/kitchen" else 4), f"{page} says only {said['en']}"
        for language in LANGUAGES.keys() - {"en"}:
            same = {text for key, text in LANGUAGES[language].items() if text == LANGUAGES["en"][key]}
            foreign = {text for text in said[language] & said["en"] - same - given if not text.endswith(tuple(given))}
            assert not foreign, f"{page} says {foreign} in {language} as in English"
    browser.open(gateway.url("/kitchen?station=grill&lang=fr"))
    parts.until("texts are there", lambda: browser.texts("#work .card"))
    assert browser.run("return texts.link('/kitchen?station=bar')") == "/kitchen?station=bar&lang=fr"
    written = browser.run("return [texts.number(1234.5), texts.money('1234.5'), texts.time(new Date(2024, 0, 1, 18, 30))]")
    assert written == ["1\u202f234,5", "1\u202f234,50", "18:30"], written


def main():
    checks = [every_language_says_all_of_a_page_in_its_own_words]
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
