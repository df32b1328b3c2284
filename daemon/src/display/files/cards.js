// The tickets as a cook sees them: alarms, what is to do, what is ready. Written in ES5.
//
// cards.begin(tap): `tap(act, order, line)` when a button is pressed that has stood where it stands for a moment.
// cards.draw({alarms, work, ready, limits, isMine(line), isNew(order), now}): orders in the order of their places.
// cards.tick(now): the timers alone. cards.choose(place), cards.step(by): moves the focus, for keys. cards.print(): a copy of what has it.
var cards = (function () {
  "use strict";

  // Places that a digit chooses.
  var PLACES = 9;
  var MINUTE = 60000;

  var LEVELS = { fine: "", warn: texts.say("kitchen.hurry"), late: texts.say("kitchen.late") };

  var tap = null;
  var shown = {};
  var timers = [];

  function add(parent, tag, name, text) {
    var element = document.createElement(tag);
    element.className = name;
    if (text !== undefined) {
      element.textContent = text;
    }
    parent.appendChild(element);
    return element;
  }

  function button(parent, name, text, order, act, line) {
    var element = add(parent, "button", name, text);
    element.type = "button";
    element.setAttribute("data-key", [order.orderId, act, line || ""].join(" "));
    element.onclick = function (event) {
      press(element, event, act, order, line);
    };
    return element;
  }

  function press(element, event, act, order, line) {
    var byHand = event.detail > 0;
    if (byHand) {
      // Else the next Enter would press it again.
      element.blur();
    }
    if (!byHand || settle.isSettled(element)) {
      settle.pressed(element);
      tap(act, order, line);
    }
  }

  function clock(text) {
    var date = new Date(text);
    return isNaN(date.getTime()) ? text : texts.time(date);
  }

  function number(order) {
    return order.displayNumber || (order.ticket === undefined ? "–" : String(order.ticket));
  }

  function dish(line) {
    return line.foodName || line.foodId || "?";
  }

  function isFailed(entry) {
    return entry.failed;
  }

  function trouble(entries) {
    return entries.length === 0 ? "" : texts.say(entries.some(isFailed) ? "kitchen.not_stored" : "kitchen.storing");
  }

  function lineOf(parent, order, line, index, waiting) {
    var done = line.status === "READY";
    var item = add(parent, "li", "");
    var name = "line" + (done ? " done" : "");
    var open = !order.alarm && order.status !== "READY";
    var box = open ? button(item, name, undefined, order, "line", index + 1) : add(item, "div", name);
    if (open) {
      box.setAttribute("aria-pressed", String(done));
    }
    add(box, "b", "quantity", texts.number(line.quantity) + " ×");
    add(box, "span", "food", dish(line));
    var state = trouble(waiting.filter(function (entry) {
      return entry.line === index + 1;
    }));
    if (state || done) {
      add(box, "span", "state", state || texts.say("kitchen.line_done"));
    }
    (line.modifiers || []).forEach(function (modifier) {
      add(box, "span", "modifier", "+ " + modifier);
    });
    if (line.notes) {
      add(box, "strong", "notes", line.notes);
    }
    if (line.allergens && line.allergens.length > 0) {
      add(box, "strong", "allergens", texts.say("kitchen.allergens", { list: line.allergens.join(", ") }));
    }
  }

  function facts(order) {
    var list = [texts.word("status", order.status), texts.word("payment", order.payment)];
    if (order.channel) {
      list.unshift(texts.word("channel", order.channel));
    }
    if (order.customerName) {
      list.unshift(order.customerName);
    }
    if (order.dueAt) {
      list.unshift(texts.say("kitchen.due", { time: clock(order.dueAt) }));
    }
    if (order.maybeStored) {
      list.push(texts.say("kitchen.maybe_stored"));
    }
    return list.join(" · ");
  }

  function headOf(card, order, place) {
    var head = add(card, "header", "head");
    if (place) {
      add(head, "span", "place", place).setAttribute("aria-hidden", "true");
    }
    add(head, "h3", "number", number(order));
    var wait = add(head, "p", "wait");
    card.timer = add(wait, "span", "timer");
    card.level = add(wait, "b", "level");
  }

  function isBegun(order) {
    return order.status === "PREPARING" || order.lines.some(function (line) {
      return line.status !== "CREATED";
    });
  }

  function buttonsOf(card, order, view) {
    var row = add(card, "div", "buttons");
    if (order.alarm) {
      button(row, "act seen", texts.say("kitchen.seen"), order, "seen");
    } else if (view.isReady) {
      button(row, "act", texts.say("kitchen.recall"), order, "recall");
    } else {
      if (!isBegun(order)) {
        button(row, "act start", texts.say("kitchen.start"), order, "start");
      }
      button(row, "act finish", texts.say("kitchen.done"), order, "done");
    }
    if (view.prints) {
      button(row, "act print", texts.say("kitchen.print"), order, "print");
    }
  }

  function build(order, view, state) {
    var card = document.createElement("article");
    card.order = order;
    card.isReady = view.isReady;
    headOf(card, order, view.place);
    if (order.alarm) {
      add(card, "p", "stop", texts.word("alarm", order.alarm));
    }
    var known = add(card, "p", "facts");
    if (view.isNew) {
      add(known, "b", "fresh", texts.say(view.isNew));
    }
    known.appendChild(document.createTextNode(facts(order)));
    var list = add(card, "ul", "lines");
    order.lines.forEach(function (line, index) {
      if (state.isMine(line)) {
        lineOf(list, order, line, index, view.waiting);
      }
    });
    if (order.linesOmitted) {
      add(card, "p", "omitted", texts.say("kitchen.omitted", { count: order.linesOmitted }));
    }
    var whole = trouble(view.waiting.filter(function (entry) {
      return !entry.line;
    }));
    if (whole) {
      add(card, "p", "trouble", whole);
    }
    buttonsOf(card, order, view);
    card.setAttribute("aria-label", texts.say(view.place ? "kitchen.ticket_key" : "kitchen.ticket", { number: number(order), key: view.place }));
    return card;
  }

  // A card stays the same element as long as nothing on it changes: a press in between is not lost, and the focus stays.
  function fill(id, orders, state, isReady) {
    var parent = document.getElementById(id);
    orders.forEach(function (order, index) {
      var view = {
        place: id === "work" && index < PLACES ? String(index + 1) : "",
        isReady: isReady,
        isNew: state.isNew(order),
        prints: printers.are(),
        waiting: bumps.waiting(order.orderId)
      };
      var text = JSON.stringify([id, order, view]);
      var card = shown[order.orderId];
      if (!card || card.text !== text) {
        card = build(order, view, state);
        card.text = text;
      }
      shown[order.orderId] = card;
      card.keep = true;
      if (parent.children[index] !== card) {
        parent.insertBefore(card, parent.children[index] || null);
      }
    });
    while (parent.children.length > orders.length) {
      parent.removeChild(parent.lastChild);
    }
  }

  function buttons() {
    return Array.prototype.slice.call(document.querySelectorAll("button[data-key]"));
  }

  function focusOn(key) {
    buttons().forEach(function (element) {
      if (element.getAttribute("data-key") === key) {
        element.focus();
      }
    });
  }

  function draw(state) {
    var focused = document.activeElement && document.activeElement.getAttribute("data-key");
    fill("alarms", state.alarms, state, false);
    fill("work", state.work, state, false);
    fill("ready", state.ready, state, true);
    timers = [];
    Object.keys(shown).forEach(function (id) {
      if (shown[id].keep) {
        shown[id].keep = false;
        timers.push(shown[id]);
      } else {
        delete shown[id];
      }
    });
    tick(state.now, state.limits);
    if (focused && document.activeElement.getAttribute("data-key") !== focused) {
      focusOn(focused);
    }
    settle.look(buttons());
  }

  function level(order, waited, now, limits) {
    var due = Date.parse(order.dueAt);
    // What is ordered for later is not late before its time.
    var late = isNaN(due) ? waited - limits.lateMinutes * MINUTE : now - due;
    var ahead = (limits.lateMinutes - limits.warnMinutes) * MINUTE;
    return late >= 0 ? "late" : (late >= -ahead ? "warn" : "fine");
  }

  function timer(waited) {
    var seconds = Math.floor(waited / 1000);
    var two = seconds % 60 < 10 ? ":0" : ":";
    return seconds < 6000 ? Math.floor(seconds / 60) + two + seconds % 60 : texts.say("unit.hours", { count: Math.floor(seconds / 3600) });
  }

  function tick(now, limits) {
    timers.forEach(function (card) {
      var order = card.order;
      var waited = Math.max(0, now - Date.parse(order.createdAt));
      var is = card.isReady ? "fine" : level(order, waited, now, limits);
      card.className = "card " + (order.alarm ? "alarm" : is) + (card.contains(document.activeElement) ? " chosen" : "");
      card.timer.textContent = card.isReady ? "" : timer(waited);
      card.level.textContent = LEVELS[is];
    });
  }

  // The focus goes to the ticket's own button; Enter and the space bar press it, as on any page.
  function choose(place) {
    var card = document.getElementById("work").children[place];
    var own = card && card.querySelector(".finish");
    if (own && settle.isSettled(own)) {
      own.focus();
    }
  }

  function step(by) {
    var all = Array.prototype.slice.call(document.querySelectorAll(".act.finish, .act.seen"));
    var card = document.activeElement;
    while (card && card.tagName !== "ARTICLE") {
      card = card.parentNode;
    }
    var at = -1;
    all.forEach(function (element, index) {
      at = card && card.contains(element) ? index : at;
    });
    var to = all[at < 0 ? 0 : Math.max(0, Math.min(all.length - 1, at + by))];
    if (to) {
      to.focus();
    }
  }

  // A copy of the ticket that has the focus.
  function print() {
    var card = document.activeElement;
    while (card && card.tagName !== "ARTICLE") {
      card = card.parentNode;
    }
    var own = card && card.querySelector(".print");
    if (own) {
      own.click();
    }
  }

  // Up and down, within a ticket.
  function stepWithin(by) {
    var all = buttons();
    var at = all.indexOf(document.activeElement);
    var to = at < 0 ? null : all[at + by];
    if (to) {
      to.focus();
    }
  }

  return {
    begin: function (pressed) {
      tap = pressed;
    },
    draw: draw,
    tick: tick,
    choose: choose,
    step: step,
    stepWithin: stepWithin,
    print: print,
    number: number,
    dish: dish
  };
})();
