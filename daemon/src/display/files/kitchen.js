// The kitchen: what is to do, oldest first, and what a cook does with it. Written in ES5.
//
// live.js feeds it, cards.js draws it, acts.js is what a cook does, bump.js carries that to the gateway, sound.js rings.
(function () {
  "use strict";

  // Changes of lines do not move the board, which is what the stream tells: they are seen at the latest after this.
  var REFRESH_MS = 3000;
  var SETTINGS_EVERY_MS = 5000;
  var AFTER_PRESS_MS = 400;
  var KEYS = { ENTER: 13, BACKSPACE: 8, LEFT: 37, UP: 38, RIGHT: 39, DOWN: 40, P: 80, R: 82, ZERO: 48, NINE: 57, PAD_ZERO: 96, PAD_NINE: 105 };

  var station = ofQuery("station");
  var limits = { warnMinutes: 5, lateMinutes: 10 };
  // What this page calls itself, if it may: null until that is known, "" where the gateway goes by the address.
  var terminal = null;
  var orders = null;
  var more = false;
  var asking = false;
  var askAgain = false;
  // Behind the gateway's clock, in milliseconds: a tablet's own is often wrong.
  var behind = 0;
  // What was seen of each order, and which of them nobody has looked at yet.
  var known = {};
  var fresh = {};
  var alarmed = {};

  function ofQuery(name) {
    var found = new RegExp("[?&]" + name + "=([^&]*)").exec(window.location.search);
    try {
      return found ? decodeURIComponent(found[1].replace(/\+/g, " ")).trim() : "";
    } catch (broken) {
      return "";
    }
  }

  function byId(id) {
    return document.getElementById(id);
  }

  function now() {
    return new Date().getTime() + behind;
  }

  // A line that names no station is everybody's: better twice than never.
  function isMine(line) {
    return !station || !line.station || line.station.trim().toLowerCase() === station.toLowerCase();
  }

  function concerns(order) {
    return !station || order.lines.some(isMine) || !!order.linesOmitted;
  }

  function stands(order) {
    return order.status === "CREATED" || order.status === "CONFIRMED" || order.status === "PREPARING";
  }

  // The whole kitchen is done with an order when it is READY; a station when its own lines are.
  function isToDo(order) {
    return !order.alarm && stands(order) && (!station || !!order.linesOmitted || order.lines.some(function (line) {
      return isMine(line) && line.status !== "READY";
    }));
  }

  function isDone(order) {
    return !order.alarm && (order.status === "READY" || stands(order) && !isToDo(order));
  }

  function hasAlarm(order) {
    return !!order.alarm;
  }

  function byChange(one, other) {
    return Date.parse(other.updatedAt) - Date.parse(one.updatedAt);
  }

  function find(id) {
    return orders.filter(function (order) {
      return order.orderId === id;
    })[0];
  }

  function mine() {
    return (orders || []).filter(concerns);
  }

  // ---- drawing

  function draw() {
    var all = mine();
    var work = all.filter(isToDo);
    var alarms = all.filter(hasAlarm);
    var done = all.filter(isDone).sort(byChange);
    cards.draw({ alarms: alarms, work: work, ready: done, limits: limits, isMine: isMine, isNew: isNew, now: now() });
    byId("alarm-area").hidden = alarms.length === 0;
    byId("no-work").hidden = work.length > 0 || orders === null;
    byId("no-ready").hidden = done.length > 0;
    byId("count").textContent = texts.say(more ? "kitchen.count_of_more" : "kitchen.count", { count: work.length });
    var title = texts.say("kitchen.work_title", { count: work.length });
    document.title = alarms.length > 0 ? texts.say("kitchen.alarm_title", { title: title }) : title;
    overview.dishes(work, isMine);
    overview.stations(orders || []);
  }

  function isNew(order) {
    return fresh[order.orderId] || "";
  }

  function say(text) {
    byId("said").textContent = text;
  }

  // ---- what is new

  function contents(order) {
    return JSON.stringify(order.lines.filter(isMine).map(function (line) {
      return [line.foodId, line.foodName, line.quantity, line.modifiers, line.notes];
    }));
  }

  // What stands there when the page is opened is not new; what comes or changes after that rings until somebody touches the page.
  function notice(first) {
    var seen = {};
    var rings = "";
    var alarms = [];
    var said = { "kitchen.new": [], "kitchen.changed": [] };
    mine().forEach(function (order) {
      var id = order.orderId;
      var has = contents(order);
      seen[id] = has;
      if (!first && isToDo(order) && known[id] !== has) {
        fresh[id] = known[id] === undefined ? "kitchen.new" : "kitchen.changed";
        rings = rings || "order";
        said[fresh[id]].push(cards.number(order));
      }
      if (order.alarm && alarmed[id] !== order.alarm) {
        alarmed[id] = order.alarm;
        rings = "alarm";
        alarms.push(texts.say("kitchen.alarm_said", { number: cards.number(order), why: texts.word("alarm", order.alarm) }));
        window.scrollTo(0, 0);
      }
      if (!order.alarm) {
        delete alarmed[id];
      }
    });
    known = seen;
    // All of them in one sentence: a screen reader is interrupted by the next.
    var sentences = Object.keys(said).filter(function (what) {
      return said[what].length > 0;
    }).map(function (what) {
      return texts.say("kitchen.said", { what: texts.say(what), numbers: said[what].join(", ") });
    });
    if (alarms.length > 0) {
      byId("alarm-said").textContent = alarms.join(". ");
    }
    if (sentences.length > 0) {
      say(sentences.join(" "));
    }
    if (rings) {
      sound.ring(rings);
    }
  }

  function touched() {
    if (Object.keys(fresh).length > 0) {
      fresh = {};
      // Not under the finger: the press that is under way needs its button.
      window.setTimeout(draw, AFTER_PRESS_MS);
    }
  }

  // ---- news

  function ask() {
    if (asking) {
      askAgain = true;
      return;
    }
    asking = true;
    live.get("/api/v1/orders", function (data, request) {
      asking = false;
      if (data && !askAgain) {
        var first = orders === null;
        var server = Date.parse(request.getResponseHeader("Date"));
        behind = isNaN(server) ? 0 : server - new Date().getTime();
        orders = data.orders;
        more = data.more;
        notice(first);
        draw();
      }
      if (askAgain) {
        askAgain = false;
        ask();
      }
    });
  }

  function settings() {
    live.get("/api/v1/kitchen", function (data) {
      if (data) {
        limits = data;
        printers.show(data.printers);
        terminal = data.terminal ? "" : ("kitchen" + (station ? "-" + station : "")).replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 48);
      }
      // A printer that needs somebody is said soon.
      window.setTimeout(settings, SETTINGS_EVERY_MS);
    });
  }

  function silent(since) {
    var hint = byId("hint");
    hint.className = since ? "hint shown" : "hint";
    hint.textContent = since ? texts.say("kitchen.silent", { time: texts.time(since) }) : "";
  }

  // ---- what became of it

  // The gateway has it on disk: the page need not wait for the next list to say so.
  function stored(entry) {
    var order = orders && find(entry.order);
    if (order && entry.kind === "event") {
      if (entry.line && order.lines[entry.line - 1]) {
        order.lines[entry.line - 1].status = entry.status;
      } else {
        order.status = entry.status;
        order.updatedAt = new Date(now()).toISOString();
      }
    }
    if (order && entry.kind === "seen") {
      order.alarm = undefined;
    }
    draw();
    ask();
  }

  function refused(entry, why) {
    var order = orders && find(entry.order);
    say(texts.say("kitchen.refused", { number: order ? cards.number(order) : entry.order, why: why }));
    draw();
    ask();
  }

  function key(event) {
    var code = event.keyCode;
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) {
      return;
    }
    if (code > KEYS.ZERO && code <= KEYS.NINE) {
      cards.choose(code - KEYS.ZERO - 1);
    } else if (code > KEYS.PAD_ZERO && code <= KEYS.PAD_NINE) {
      cards.choose(code - KEYS.PAD_ZERO - 1);
    } else if (code === KEYS.LEFT || code === KEYS.RIGHT) {
      cards.step(code === KEYS.LEFT ? -1 : 1);
    } else if (code === KEYS.UP || code === KEYS.DOWN) {
      cards.stepWithin(code === KEYS.UP ? -1 : 1);
    } else if (code === KEYS.R || code === KEYS.BACKSPACE) {
      acts.recallLast();
    } else if (code === KEYS.P) {
      cards.print();
    } else {
      return;
    }
    event.preventDefault();
    cards.tick(now(), limits);
  }

  function tick() {
    byId("clock").textContent = texts.time(new Date(now()));
    cards.tick(now(), limits);
  }

  byId("station").textContent = station;
  byId("undo").onclick = acts.recallLast;
  acts.begin({ whole: !station, isMine: isMine, find: find, say: say });
  cards.begin(acts.press);
  printers.begin({
    say: say,
    mine: function (stations) {
      return !station || !stations || stations.some(function (name) {
        return name.trim().toLowerCase() === station.toLowerCase();
      });
    },
    changed: function () {
      if (orders) {
        draw();
      }
    }
  });
  sound.begin(function (text) {
    byId("sound").textContent = text;
    byId("sound").hidden = !text;
  });
  bumps.begin({
    terminal: function () {
      return terminal;
    },
    stored: stored,
    refused: refused,
    changed: function () {
      if (orders) {
        draw();
      }
    }
  });
  document.addEventListener("keydown", key);
  ["touchend", "mouseup", "keyup"].forEach(function (kind) {
    document.addEventListener(kind, touched);
  });
  window.setInterval(ask, REFRESH_MS);
  window.setInterval(tick, 1000);
  tick();
  settings();
  ask();
  live.listen({ stream: "/api/v1/stream", poll: "/board.json", show: ask, silent: silent });
})();
