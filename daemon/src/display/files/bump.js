// What a cook decides, on its way to the gateway: one request after the other, each repeated under its own id until the gateway has
// answered, and kept over a reload of the page. Nothing counts as done before that. Written in ES5.
//
// bumps.begin({terminal(), stored(entry), refused(entry, why), changed()}) starts with what the last load left behind; nothing is sent while
// `terminal()` is null.
// bumps.event(order, status, line), .complete(order), .reopen(order), .seen(order): false if too many wait already.
// bumps.waiting(order): the entries of an order that are not answered yet; `failed` once a try was in vain.
var bumps = (function () {
  "use strict";

  var KEPT_AS = "kitchen-bumps";
  var WAITING_MAX = 200;
  // What a page finds of itself after so long says nothing about the kitchen any more.
  var KEPT_MS = 600000;
  // The server decides within 10 s.
  var REQUEST_MS = 15000;
  var RETRY_MS = [500, 1000, 2000, 4000];
  var RETRY_MAX_MS = 10000;

  var house = null;
  var queue = [];
  var tries = 0;

  // Unique for ever, as the gateway asks: it takes two requests of one id for the same.
  function newId() {
    var words = [];
    if (window.crypto && window.crypto.getRandomValues) {
      words = window.crypto.getRandomValues(new Uint32Array(4));
    } else {
      for (var n = 0; n < 4; n++) {
        words.push(Math.floor(Math.random() * 4294967296));
      }
    }
    var text = new Date().getTime().toString(36);
    for (var i = 0; i < 4; i++) {
      text += "-" + words[i].toString(36);
    }
    return text;
  }

  function keep() {
    try {
      window.sessionStorage.setItem(KEPT_AS, JSON.stringify(queue));
    } catch (noStorage) {
      // Then a reload forgets what was not stored, and the ticket stands where it stood.
      return;
    }
  }

  function recover() {
    try {
      var kept = JSON.parse(window.sessionStorage.getItem(KEPT_AS)) || [];
      var now = new Date().getTime();
      queue = kept.filter(function (entry) {
        return now - entry.at < KEPT_MS;
      });
    } catch (noStorage) {
      queue = [];
    }
  }

  function add(entry) {
    if (queue.length >= WAITING_MAX) {
      return false;
    }
    entry.id = newId();
    entry.at = new Date().getTime();
    queue.push(entry);
    keep();
    if (queue.length === 1) {
      send();
    }
    house.changed();
    return true;
  }

  function next() {
    tries = 0;
    queue.shift();
    keep();
    if (queue.length > 0) {
      send();
    }
  }

  function again(entry, afterMs) {
    entry.failed = true;
    var wait = afterMs || RETRY_MS[Math.min(tries, RETRY_MS.length - 1)];
    tries++;
    window.setTimeout(send, Math.min(wait, RETRY_MAX_MS));
    house.changed();
  }

  function parse(text) {
    try {
      return JSON.parse(text) || {};
    } catch (broken) {
      return {};
    }
  }

  function isReady(line) {
    return line.status === "READY";
  }

  // The order as it is on disk decides: another page may have bumped its other lines just now.
  function follows(entry, order) {
    var standing = order.status === "CREATED" || order.status === "CONFIRMED" || order.status === "PREPARING";
    if (entry.kind === "complete") {
      return standing && !order.linesOmitted && order.lines.every(isReady) ? "READY" : null;
    }
    return order.status === "READY" ? "PREPARING" : null;
  }

  // A code has a text; of `invalid` only the gateway's own sentence says what is wrong.
  function reason(status, answer) {
    var why = answer.code ? texts.word("code", answer.code) : "";
    return why && why !== answer.code ? why : answer.message || texts.say("kitchen.answer", { status: String(status) });
  }

  function answered(entry, status, answer) {
    if (status === 0 || status === 408 || status === 429 || status >= 500) {
      return again(entry, answer.retryAfterMs);
    }
    if (status !== 200 && status !== 201) {
      next();
      return house.refused(entry, reason(status, answer));
    }
    if (entry.kind === "complete" || entry.kind === "reopen") {
      var becomes = follows(entry, answer);
      if (becomes) {
        queue.splice(1, 0, { kind: "event", order: entry.order, status: becomes, id: newId(), at: entry.at });
      }
    }
    next();
    house.stored(entry);
  }

  function send() {
    if (house.terminal() === null) {
      window.setTimeout(send, RETRY_MS[0]);
      return;
    }
    var entry = queue[0];
    var looks = entry.kind === "complete" || entry.kind === "reopen";
    var path = "/api/v1/orders/" + encodeURIComponent(entry.order);
    var body = {};
    if (entry.kind === "seen") {
      path += "/acknowledge";
    } else if (!looks) {
      path += "/events";
      body = { type: "order.state_changed", data: { status: entry.status } };
      if (entry.line) {
        body.data.line = entry.line;
      }
    }
    var request = new XMLHttpRequest();
    var over = false;
    function end(status, text) {
      if (!over) {
        over = true;
        answered(entry, status, parse(text));
      }
    }
    request.open(looks ? "GET" : "POST", path, true);
    request.timeout = REQUEST_MS;
    request.setRequestHeader("Content-Type", "application/json");
    request.setRequestHeader("Idempotency-Key", entry.id);
    if (house.terminal()) {
      request.setRequestHeader("X-Terminal", house.terminal());
    }
    request.onload = function () {
      end(request.status, request.responseText);
    };
    request.onerror = request.onabort = request.ontimeout = function () {
      end(0, "");
    };
    request.send(looks ? null : JSON.stringify(body));
  }

  return {
    begin: function (options) {
      house = options;
      recover();
      if (queue.length > 0) {
        send();
      }
    },
    event: function (order, status, line) {
      return add({ kind: "event", order: order, status: status, line: line });
    },
    complete: function (order) {
      return add({ kind: "complete", order: order });
    },
    reopen: function (order) {
      return add({ kind: "reopen", order: order });
    },
    seen: function (order) {
      return add({ kind: "seen", order: order });
    },
    waiting: function (order) {
      return queue.filter(function (entry) {
        return entry.order === order;
      });
    }
  };
})();
