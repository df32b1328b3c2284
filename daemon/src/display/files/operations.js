// How the gateway is: whether the line is up, what waits, who is there, what needs a person. Written in ES5.
(function () {
  "use strict";

  var REFRESH_MS = 3000;
  var DAY_MS = 30000;
  // Below so many days a certificate is a person's business.
  var SOON_DAYS = 30;

  var heardOn = new Date();
  var offset = 0;

  function id(name) {
    return document.getElementById(name);
  }

  // The time by the gateway's clock, so many milliseconds ago.
  function ago(ms) {
    return new Date(new Date().getTime() + offset - ms);
  }

  function since(ms) {
    return ms === null || ms === undefined ? "–" : texts.say("operations.since", { time: texts.moment(ago(ms)), duration: texts.duration(ms) });
  }

  function verdict(state) {
    if (state.disk.state !== "well") {
      return texts.word("operations.disk", state.disk.state);
    }
    if (state.rebuilding && !state.accepting) {
      return texts.say("operations.rebuilding");
    }
    if (!state.accepting) {
      return texts.say("operations.full");
    }
    if (state.line.kafka === "off") {
      return texts.say("operations.no_line");
    }
    if (state.line.kafka === "down") {
      return texts.say("operations.line_down", { count: state.line.queued });
    }
    return isWell(state) ? texts.say("operations.well") : texts.say("operations.see_to");
  }

  function isWell(state) {
    return state.accepting && state.line.kafka !== "down" && state.disk.state === "well" && state.deadLetters.count === 0 &&
      state.attention.length === 0 && state.damagedStores.length === 0;
  }

  function line(state) {
    var of = state.line;
    var rows = [
      [texts.say("operations.kafka"), texts.word("line", of.kafka)],
      [texts.say("operations.queued"), texts.number(of.queued) + " (" + texts.bytes(of.queuedBytes) + ")"],
      [texts.say("operations.oldest"), of.queued === 0 ? "–" : since(of.oldestQueuedMs)],
      [texts.say("operations.window"), texts.number(of.windowEvents)],
      [texts.say("operations.retries"), texts.number(of.retries)]
    ];
    if (of.kafka !== "off") {
      rows.splice(1, 0, [texts.say("operations.kafka_since"), since(of.sinceMs)]);
    }
    if (of.mqtt) {
      rows.push([texts.say("operations.mqtt"), texts.word("line", of.mqtt)]);
    }
    rows.push([texts.say("operations.open_orders"), texts.number(state.openOrders)]);
    parts.figures("line", rows);
  }

  function certificate(each) {
    var text = each.days < 0 ? texts.say("operations.expired") : texts.say("operations.days", { count: each.days });
    return [each.certificate, each.days <= SOON_DAYS ? text + " !" : text];
  }

  function device(state) {
    var disk = state.disk;
    var clock = state.clock.known ? texts.moment(new Date(state.clock.now)) : texts.say("operations.clock_unknown");
    var rows = [
      [texts.say("operations.disk"), texts.word("disk", disk.state)],
      [texts.say("operations.free"), disk.freeBytes === null ? "–" : texts.say("operations.free_of", { free: texts.bytes(disk.freeBytes), size: texts.bytes(disk.sizeBytes), floor: texts.bytes(disk.floorBytes) })],
      [texts.say("operations.written"), disk.writtenBytes === null ? "–" : texts.bytes(disk.writtenBytes)],
      [texts.say("operations.sync"), disk.syncMs === null ? "–" : texts.say("operations.sync_of", { last: texts.number(disk.syncMs), worst: texts.number(disk.slowestSyncMs) })],
      [texts.say("operations.clock"), clock],
      [texts.say("operations.memory"), state.memoryBytes === null ? "–" : texts.bytes(state.memoryBytes)],
      [texts.say("operations.version"), state.version],
      [texts.say("operations.up"), since(state.upMs)]
    ];
    parts.figures("device", rows.concat(state.certificates.map(certificate)));
  }

  function presence(each) {
    if (each.trouble) {
      return "closed";
    }
    return each.online === null ? "unknown" : each.online ? "online" : "offline";
  }

  function terminals(all) {
    id("no-terminals").hidden = all.length > 0;
    id("terminals-table").hidden = all.length === 0;
    var shown = all.map(function (each) {
      return [each.terminal, each.ingress + (each.port ? " " + each.port : ""), presence(each), each.trouble, each.heardMs === null ? "–" : texts.duration(each.heardMs), each.requests, each.refused, each.garbled];
    });
    parts.fill("terminals", shown, function (place) {
      shown.forEach(function (each) {
        var row = parts.make("tr");
        var head = parts.make("th", each[0]);
        head.scope = "row";
        head.appendChild(parts.make("span", each[1], "trouble"));
        row.appendChild(head);
        var isAway = each[2] === "offline" || each[2] === "closed";
        var state = parts.make("td");
        state.appendChild(parts.make("span", texts.word("presence", each[2]), isAway ? "away" : ""));
        if (each[3]) {
          var trouble = parts.make("span", each[3], "trouble");
          trouble.lang = "en";
          state.appendChild(trouble);
        }
        row.appendChild(state);
        row.appendChild(parts.make("td", each[4]));
        each.slice(5).forEach(function (count) {
          row.appendChild(parts.make("td", texts.number(count), "number"));
        });
        place.appendChild(row);
      });
    });
  }

  function printer(each) {
    var text = texts.say("operations.printer", { name: each.name, state: texts.word("printer", each.state), waiting: each.waiting, missed: each.missed });
    return parts.make("li", text, each.needsPerson ? "away" : "");
  }

  function page(each) {
    var paired = each.pairedAt ? texts.moment(new Date(each.pairedAt)) : "–";
    return parts.make("li", texts.say("operations.page", { name: each.name, role: texts.word("role", each.role), time: paired }));
  }

  // Who may not see them is shown none.
  function pages() {
    live.get("/api/v1/pages", function (found) {
      parts.list("pages-area", "pages", found ? found.pages : [], page);
    });
  }

  function lists(state) {
    var sentences = state.attention.concat(state.damagedStores);
    parts.list("attention-area", "attention", sentences, function (sentence) {
      return parts.make("li", sentence);
    });
    parts.list("maybe-area", "maybe", state.maybeStored, function (order) {
      var number = order.displayNumber || order.ticket;
      var fields = { order: order.orderId, number: number ? String(number) : "–", terminal: order.terminalId || "–" };
      return parts.make("li", texts.say("operations.maybe_order", fields));
    });
    parts.list("printers-area", "printers", state.printers, printer);
  }

  function show(state) {
    offset = state.clock.known ? new Date(state.clock.now).getTime() - new Date().getTime() : 0;
    id("gateway").textContent = state.gateway;
    var place = id("verdict");
    var text = verdict(state);
    if (place.textContent !== text) {
      place.textContent = text;
    }
    place.className = "verdict " + (isWell(state) ? "well" : "unwell");
    line(state);
    device(state);
    terminals(state.terminals);
    lists(state);
    letters.look(state.deadLetters.count + " " + state.deadLetters.kept);
  }

  function silent(isSilent) {
    var hint = id("hint");
    var text = isSilent ? texts.say("operations.silent", { time: texts.time(heardOn) }) : "";
    hint.className = isSilent ? "hint shown" : "hint";
    if (hint.textContent !== text) {
      hint.textContent = text;
    }
  }

  function ask() {
    live.get("/api/v1/operations", function (state) {
      if (state) {
        heardOn = new Date();
        show(state);
      }
      silent(!state);
      window.setTimeout(ask, REFRESH_MS);
    });
  }

  function tick() {
    id("clock").textContent = texts.time(new Date());
  }

  // Whoever chose a language by the address keeps it.
  ["to-board", "to-kitchen"].forEach(function (name) {
    id(name).href = texts.link(id(name).getAttribute("href"));
  });
  window.setInterval(tick, 1000);
  window.setInterval(function () {
    day.look();
    pages();
  }, DAY_MS);
  pages();
  tick();
  day.begin();
  ask();
})();
